//! `dist --test`: installs, uses and removes each package in a root of its own, with the scripts of `packaging/trials`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::folder;
use crate::roots;
use crate::run::needs_root;
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

/// Gets the root that the packages are installed in.
pub(crate) fn clean_root() -> Result<PathBuf> {
    needs_root("trying packages")?;
    roots::root("clean-root", CLEAN)
}

pub(crate) fn run(clean: &Path) -> Result<()> {
    for trial in TRIALS {
        eprintln!("{trial}:");
        let mut script = Command::new("unshare");
        script.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "sh"]);
        script.arg(repository().join(format!("packaging/trials/{trial}.sh"))).arg(clean).arg(folder());
        shell::run(&mut script)?;
    }
    Ok(())
}
