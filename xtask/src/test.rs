//! `test`: unit tests everywhere, and the privileged tests, with the programs that they need.

use anyhow::{Result, bail};

use crate::packages;
use crate::run::is_root;
use crate::shell::{self, cargo, find, prepend};
use crate::build;

/// Programs of others that tests run, and the packages that have them.
const NEEDED: &[(&str, &str)] =
    &[("haproxy", "haproxy"), ("wrk", "wrk"), ("python3", "python3-minimal"), ("curl", "curl"), ("ip", "iproute2"), ("bpftool", "bpftool")];

pub(crate) fn run(filter: &[String]) -> Result<()> {
    if !is_root()? {
        bail!("the tests load programs into the kernel: run them as root, with `sudo -E env PATH=$PATH cargo xtask test`");
    }
    build::run()?;
    let mut test = cargo(&["test", "--workspace", "--exclude", "reuseport-lb-ebpf", "--exclude", "xtask"]);
    test.env("CARGO_TARGET_DIR", build::target());
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(program, _)| find(program).is_none() && !std::path::Path::new("/usr/sbin").join(program).is_file())
        .map(|(_, package)| *package)
        .collect();
    if !missing.is_empty() {
        if !packages::available() {
            bail!("the tests need programs of the packages {}: install them with your distribution's package manager", missing.join(", "));
        }
        let root = packages::unpacked("test-programs", &missing)?;
        prepend(&mut test, "PATH", &root.join("usr/bin"));
        prepend(&mut test, "PATH", &root.join("usr/sbin"));
        // Its own variable: not every process of a test shall load libraries from there.
        test.env("REUSEPORT_LB_TEST_LIBRARIES", packages::libraries(&root)?);
    }
    if !filter.is_empty() {
        test.arg("--").args(filter);
    }
    shell::run(&mut test)
}
