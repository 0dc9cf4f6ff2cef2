//! The commands, one file each.

mod check;
mod client;
mod doctor;
mod drain;
mod exec;
mod names;
mod print;
mod reload;
mod restart;
mod run;
mod scale;
mod status;
mod stop;
mod trace;
mod weight;

use anyhow::{Context, Result};

use crate::cli::{Cli, Command};
use crate::kernel::{bpffs, launch};
use crate::logging;

/// Does what the command line says.
pub fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Run(_) => {
            logging::of_daemon(cli.global.verbose).context("cannot start the thread of the log")?
        }
        _ => logging::of_command(cli.global.verbose),
    }
    let paths = cli.global.paths()?;
    match cli.command {
        Command::Run(arguments) => {
            let ended = run::run(arguments, &paths);
            logging::flush();
            ended
        }
        Command::Exec(arguments) => exec::run(&arguments, &paths),
        Command::Status(arguments) => status::run(&arguments, &paths),
        Command::Check(arguments) => check::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments, &paths),
        Command::Trace(arguments) => trace::run(&arguments, &paths),
        Command::Scale(arguments) => scale::run(&arguments, &paths),
        Command::Weight(arguments) => weight::run(&arguments, &paths),
        Command::Drain(arguments) => drain::run(&arguments, &paths),
        Command::Restart(arguments) => restart::run(&arguments, &paths),
        Command::Reload(_) => reload::run(&paths),
        Command::Stop(arguments) => stop::run(&arguments, &paths),
        Command::Launch(arguments) => crate::embedded::run(launch::launch(arguments.into())?),
        Command::Unmount { bpffs } => bpffs::unmount(&bpffs),
    }
}
