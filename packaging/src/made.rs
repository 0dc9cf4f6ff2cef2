//! Man pages and completions, from the definition of the command line.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::CommandFactory as _;
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};
use reuseport_lb::cli::Cli;
use reuseport_lb::cmd::COMPLETE;

use crate::about::NAME;

/// The file of each shell's completions. They ask the program itself, which asks the daemon.
const SHELLS: [(&dyn EnvCompleter, &str); 3] =
    [(&Bash, "reuseport-lb.bash"), (&Fish, "reuseport-lb.fish"), (&Zsh, "_reuseport-lb")];

/// zsh reads the file when it first needs it, as the body of a function that is to complete at once.
const COMPLETE_AT_ONCE: &str =
    "[ \"$funcstack[1]\" = _reuseport-lb ] && _clap_dynamic_completer_reuseport_lb \"$@\"\n";

/// Writes all of them into `folder`.
pub(crate) fn write(folder: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    clap_mangen::generate_to(Cli::command(), folder).context("cannot write man pages")?;
    for (shell, file) in SHELLS {
        let mut script = Vec::new();
        shell.write_registration(COMPLETE, NAME, NAME, NAME, &mut script)?;
        if shell.is("zsh") {
            script.extend(COMPLETE_AT_ONCE.as_bytes());
        }
        fs::write(folder.join(file), script).with_context(|| format!("cannot write {file}"))?;
    }
    Ok(())
}
