//! `test`: unit tests everywhere, and the privileged tests, with the programs that they need; without
//! root, those in a virtual machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::build;
use crate::packages;
use crate::run::is_root;
use crate::shell::{self, cargo, find, prepend};
use crate::vm;

/// Programs of others that tests run, and the packages that have them.
const NEEDED: &[(&str, &str)] = &[
    ("ab", "apache2-utils"),
    ("dnsperf", "dnsperf"),
    ("faketime", "faketime"),
    ("haproxy", "haproxy"),
    ("ip", "iproute2"),
    ("python3", "python3-minimal"),
    ("systemd-analyze", "systemd"),
    ("unbound", "unbound"),
];

pub(crate) fn run(filter: &[String]) -> Result<()> {
    if !is_root()? {
        return without_root(filter);
    }
    build::run()?;
    let mut test = cargo_test();
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
    let on_system = |program: &str| {
        find(program).is_some()
            || ["/usr/sbin", "/sbin"].iter().any(|place| Path::new(place).join(program).is_file())
    };
    let missing: Vec<_> = NEEDED.iter().filter(|(program, _)| !on_system(program)).collect();
    if missing.is_empty() {
        return Ok(None);
    }
    let names: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    if !packages::available() {
        bail!("the tests need {}: install them with your distribution's package manager", names.join(", "));
    }
    let root = packages::unpacked("test-programs", &names)?;
    let folder = root.join("bin-of-tests");
    fs::create_dir_all(&folder)?;
    for (program, package) in missing {
        let places = ["usr/bin", "usr/sbin", "bin", "sbin"].map(|place| root.join(place).join(program));
        let Some(place) = places.iter().find(|place| place.exists()) else {
            bail!("package {package} has no {program} where it was expected");
        };
        // Each finds its own libraries and modules; nobody else is given them. systemd's are in a
        // folder of their own.
        let libraries = packages::libraries(&root)?;
        let script = format!(
            "#!/bin/sh\nLD_LIBRARY_PATH={}:{} PYTHONHOME={} exec {} \"$@\"\n",
            libraries.display(),
            libraries.join("systemd").display(),
            root.join("usr").display(),
            place.display()
        );
        let wrapper = folder.join(program);
        fs::write(&wrapper, script)?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    }
    Ok(Some(folder))
}
