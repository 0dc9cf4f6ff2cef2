//! `run`: builds everything and becomes `reuseport-lb ARGS`.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::build;
use crate::shell::{find, quietly};

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    build::run()?;
    let default = ["run".to_owned()];
    let arguments = if arguments.is_empty() { &default } else { arguments };
    let binary = build::binary();
    let mut command = if is_root()? {
        Command::new(&binary)
    } else if find("sudo").is_some() {
        eprintln!("  not root: using sudo");
        let mut command = Command::new("sudo");
        command.arg(&binary);
        command
    } else {
        bail!("not root, and there is no sudo: as root, run {} {}", binary.display(), arguments.join(" "));
    };
    let error = command.args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", binary.display()))
}

/// Whether this process is root.
pub(crate) fn is_root() -> Result<bool> {
    Ok(quietly(Command::new("id").arg("-u"))?.trim() == "0")
}
