//! The commands, one file each.

mod adopt;
mod check;
mod client;
mod complete;
mod connect;
mod doctor;
mod drain;
mod events;
mod exec;
mod explain;
mod health;
mod host;
mod meanwhile;
mod names;
mod policy;
mod print;
mod rates;
mod reload;
mod render;
mod restart;
mod run;
#[cfg(test)]
mod samples;
mod scale;
mod status;
mod stop;
mod top;
mod trace;
mod weight;

use std::ffi::OsString;

use anyhow::{Context, Result};

pub use complete::{COMPLETE, complete};

use crate::cli::{Cli, Verb};
use crate::daemon::Paths;
use crate::kernel::{bpffs, calls, launch, output};
use crate::logging;

/// Keeps the output of a worker, if that is what this command line is for.
pub fn keeper(line: impl Iterator<Item = OsString>) -> Option<Result<()>> {
    output::KeeperArguments::of(line).map(output::keep)
}

/// Runs the command of the command line.
pub fn run(cli: Cli) -> Result<()> {
    match &cli.verb {
        Verb::Run(arguments) => {
            logging::use_format(arguments.log_format.unwrap_or_default());
            logging::of_daemon(cli.global.verbose).context("cannot start the thread of the log")?
        }
        _ => logging::of_command(cli.global.verbose),
    }
    let paths = cli.global.paths()?;
    let json = cli.verb.json();
    act(cli.verb, &paths).inspect_err(|error| {
        if json {
            print::print_error(error);
        }
    })
}

fn act(verb: Verb, paths: &Paths) -> Result<()> {
    match verb {
        Verb::Run(arguments) => {
            let ended = run::run(arguments, paths);
            logging::flush();
            ended
        }
        Verb::Exec(arguments) => exec::run(&arguments, paths),
        Verb::Connect(arguments) => connect::run(&arguments, paths),
        Verb::Status(arguments) => status::run(&arguments, paths),
        Verb::Check(arguments) => check::run(&arguments),
        Verb::Doctor(arguments) => doctor::run(&arguments, paths),
        Verb::Events(arguments) => events::run(&arguments, paths),
        Verb::Top(arguments) => top::run(&arguments, paths),
        Verb::Trace(arguments) => trace::run(&arguments, paths),
        Verb::Policy(arguments) => policy::run(&arguments, paths),
        Verb::Adopt(arguments) => adopt::adopt(&arguments, paths),
        Verb::Release(arguments) => adopt::release(&arguments, paths),
        Verb::Scale(arguments) => scale::run(&arguments, paths),
        Verb::Weight(arguments) => weight::run(&arguments, paths),
        Verb::Drain(arguments) => drain::run(&arguments, paths),
        Verb::Restart(arguments) => restart::run(&arguments, paths),
        Verb::Health(arguments) => health::run(&arguments, paths),
        Verb::Host(arguments) => host::run(&arguments, paths),
        Verb::Reload(arguments) => reload::run(&arguments, paths),
        Verb::Stop(arguments) => stop::run(&arguments, paths),
        Verb::Launch(arguments) => crate::embedded::run(launch::launch(arguments.into())?),
        Verb::TryCalls => calls::be_tried(),
        Verb::Unmount { bpffs } => bpffs::unmount(&bpffs),
    }
}
