//! `dist --test`: installs, uses and removes each package in a root of its own, with the scripts of `packaging/trials`.

use std::process::Command;

use anyhow::{Result, bail};

use super::folder;
use crate::roots;
use crate::run::is_root;
use crate::shell::{self, repository};

/// What the root has besides what every system has: clients, and what packages are for.
const CLEAN: &[&str] = &[
    "bash",
    "bash-completion",
    "curl",
    "findutils",
    "fish",
    "grep",
    "iproute2",
    "man-db",
    "rpm",
    "sed",
    "systemd",
    "tar",
    "zsh",
];

const TRIALS: [&str; 4] = ["deb", "rpm", "static", "image"];

pub(crate) fn run() -> Result<()> {
    if !is_root()? {
        bail!("trying packages needs root, for namespaces and the kernel's programs");
    }
    let clean = roots::root("clean-root", CLEAN)?;
    for trial in TRIALS {
        eprintln!("{trial}:");
        let mut script = Command::new("unshare");
        script.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "sh"]);
        script.arg(repository().join(format!("packaging/trials/{trial}.sh"))).arg(&clean).arg(folder());
        shell::run(&mut script)?;
    }
    Ok(())
}
