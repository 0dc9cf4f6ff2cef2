//! `test`: runs all unit tests, and the privileged tests with the programs that they need; without
//! root, the latter in a virtual machine.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::build;
use crate::build_ebpf;
use crate::packages;
use crate::run::is_root;
use crate::shell::{self, cargo_for_all, prepend};
use crate::vm;
use crate::wheels;

/// Programs that tests run, and their packages.
const NEEDED: &[(&str, &str)] = &[
    ("ab", "apache2-utils"),
    ("chromedriver", "chromium-driver"),
    ("chromium", "chromium"),
    ("curl", "curl"),
    ("dnsdist", "dnsdist"),
    ("dnsperf", "dnsperf"),
    ("erl", "erlang-base"),
    ("faketime", "faketime"),
    ("go", "golang-go"),
    ("gunicorn", "gunicorn"),
    ("haproxy", "haproxy"),
    ("hypercorn", "python3-hypercorn"),
    ("ip", "iproute2"),
    ("jq", "jq"),
    ("knotd", "knot"),
    ("lighttpd", "lighttpd"),
    ("nginx", "nginx-light"),
    ("node", "nodejs"),
    ("prometheus", "prometheus"),
    ("promtool", "prometheus"),
    ("python3", "python3-minimal"),
    ("redis-server", "redis-server"),
    ("ss", "iproute2"),
    ("systemd-analyze", "systemd"),
    ("tmux", "tmux"),
    ("unbound", "unbound"),
    ("uwsgi-core", "uwsgi-plugin-python3"),
    ("uvicorn", "uvicorn"),
];

/// The compiler of key functions, and shells that complete: fetched apart, so that browsers and servers are not fetched
/// again for them.
const COMPILER: &[(&str, &str)] = &[("clang", "clang")];
const SHELLS: &[(&str, &str)] = &[("bash", "bash"), ("fish", "fish"), ("zsh", "zsh")];

pub(crate) fn run(filter: &[String]) -> Result<()> {
    if !is_root()? {
        return without_root(filter);
    }
    let programs = programs()?;
    build::run()?;
    build_ebpf::example()?;
    let mut test = cargo_test();
    // One run shows all failures.
    test.arg("--no-fail-fast");
    for folder in programs {
        prepend(&mut test, "PATH", &folder);
    }
    if !filter.is_empty() {
        test.arg("--").args(filter);
    }
    shell::run(&mut test)
}

/// Runs unit tests here, and the privileged tests, which load programs into the kernel, in a virtual machine.
fn without_root(filter: &[String]) -> Result<()> {
    eprintln!("  not root: the privileged tests will run in a virtual machine");
    // With a filter there may be none of them to run.
    if filter.is_empty() {
        vm::Requirements::get(&[])?;
    }
    build::run()?;
    let mut units = cargo_for_all("test");
    shell::run(units.args(["--exclude", "xtask", "--lib", "--bins", "--"]).args(filter))?;
    vm::run_if_any(filter)
}

/// Makes the command `cargo test` of all packages that run on this machine.
pub(crate) fn cargo_test() -> Command {
    let mut test = cargo_for_all("test");
    test.args(["--exclude", "xtask", "--tests"]);
    test
}

/// The router of docs/MACHINES.md, fetched apart as well.
const ROUTER: &[(&str, &str)] = &[("bird", "bird2"), ("birdc", "bird2")];

/// Fetches programs of all these lists that the system lacks, and those of Python's package index; returns their folders.
pub(crate) fn programs() -> Result<Vec<PathBuf>> {
    let of_packages = packages::programs("test-programs", NEEDED)?;
    let of_wheels = wheels::programs("test-wheels", of_packages.as_deref())?;
    let mut folders = vec![of_wheels];
    folders.extend(of_packages);
    for (name, programs) in [("test-compiler", COMPILER), ("test-shells", SHELLS), ("test-router", ROUTER)] {
        folders.extend(packages::programs(name, programs)?);
    }
    Ok(folders)
}
