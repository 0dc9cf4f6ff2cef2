//! `test`: unit tests everywhere, and the privileged tests, with the programs that they need; without
//! root, those in a virtual machine.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::build;
use crate::packages;
use crate::run::is_root;
use crate::shell::{self, cargo, prepend};
use crate::vm;

/// Programs of others that tests run, and the packages that have them.
const NEEDED: &[(&str, &str)] = &[
    ("ab", "apache2-utils"),
    ("dnsperf", "dnsperf"),
    ("faketime", "faketime"),
    ("gunicorn", "gunicorn"),
    ("haproxy", "haproxy"),
    ("ip", "iproute2"),
    ("nginx", "nginx-light"),
    ("python3", "python3-minimal"),
    ("systemd-analyze", "systemd"),
    ("unbound", "unbound"),
    ("uvicorn", "uvicorn"),
];

pub(crate) fn run(filter: &[String]) -> Result<()> {
    if !is_root()? {
        return without_root(filter);
    }
    build::run()?;
    let mut test = cargo_test();
    // All that fails is told at once.
    test.arg("--no-fail-fast");
    if let Some(programs) = programs()? {
        prepend(&mut test, "PATH", &programs);
    }
    if !filter.is_empty() {
        test.arg("--").args(filter);
    }
    shell::run(&mut test)
}

/// The privileged tests load programs into the kernel; an ordinary user has one of his own for that.
fn without_root(filter: &[String]) -> Result<()> {
    let mut units = cargo(&["test", "--workspace", "--exclude", "reuseport-lb-ebpf", "--exclude", "xtask"]);
    build::run()?;
    shell::run(units.args(["--lib", "--bins", "--"]).args(filter).env("CARGO_TARGET_DIR", build::target()))?;
    eprintln!("  not root: the privileged tests run in a virtual machine");
    vm::run_if_any(filter)
}

/// `cargo test` of what runs on this machine.
pub(crate) fn cargo_test() -> Command {
    let mut test =
        cargo(&["test", "--workspace", "--exclude", "reuseport-lb-ebpf", "--exclude", "xtask", "--tests"]);
    test.env("CARGO_TARGET_DIR", build::target());
    test
}

/// The folder of those programs that the system lacks; `None` if it lacks none.
pub(crate) fn programs() -> Result<Option<PathBuf>> {
    packages::programs("test-programs", NEEDED)
}
