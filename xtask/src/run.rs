//! `run`: builds everything and becomes `reuseport-lb ARGS`.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::build;
use crate::shell::{find, quietly};

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let default = ["run".to_owned()];
    let arguments = if arguments.is_empty() { &default } else { arguments };
    let binary = build::binary();
    let mut command = if is_root()? {
        Command::new(&binary)
    } else if find("sudo").is_some() {
        eprintln!("  not root: once it is built, it is run with sudo");
        let mut command = Command::new("sudo");
        command.arg(&binary);
        command
    } else {
        bail!(
            "not root, and there is no sudo: run `cargo xtask build`, and as root `{} {}`",
            binary.display(),
            arguments.join(" ")
        );
    };
    build::run()?;
    let error = command.args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", binary.display()))
}

/// Fails without root, which `what` needs.
pub(crate) fn needs_root(what: &str) -> Result<()> {
    ensure!(is_root()?, "{what} needs root, to make namespaces and to load programs into the kernel");
    Ok(())
}

/// Whether this process is root.
pub(crate) fn is_root() -> Result<bool> {
    Ok(quietly(Command::new("id").arg("-u"))?.trim() == "0")
}
