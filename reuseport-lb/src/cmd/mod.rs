//! The commands, one file each.

mod check;
mod doctor;
mod drain;
mod exec;
mod reload;
mod render;
mod restart;
mod run;
mod scale;
mod status;
mod stop;
mod trace;
mod weight;

use anyhow::{Context, Result};
use reuseport_lb_client::control::ControlClient;

use crate::cli::{Cli, Verb};
use crate::config::{self, Invalid};
use crate::daemon::Paths;
use crate::kernel::{bpffs, launch};
use crate::logging;
use crate::printable;

/// Does what the command line says.
pub fn run(cli: Cli) -> Result<()> {
    match cli.verb {
        Verb::Run(_) => {
            logging::of_daemon(cli.global.verbose).context("cannot start the thread of the log")?
        }
        _ => logging::of_command(cli.global.verbose),
    }
    let paths = cli.global.paths()?;
    match cli.verb {
        Verb::Run(arguments) => {
            let ended = run::run(arguments, &paths);
            logging::flush();
            ended
        }
        Verb::Exec(arguments) => exec::run(&arguments, &paths),
        Verb::Status(arguments) => status::run(&arguments, &paths),
        Verb::Check(arguments) => check::run(&arguments),
        Verb::Doctor(arguments) => doctor::run(&arguments, &paths),
        Verb::Trace(arguments) => trace::run(&arguments, &paths),
        Verb::Scale(arguments) => scale::run(&arguments, &paths),
        Verb::Weight(arguments) => weight::run(&arguments, &paths),
        Verb::Drain(arguments) => drain::run(&arguments, &paths),
        Verb::Restart(arguments) => restart::run(&arguments, &paths),
        Verb::Reload(_) => reload::run(&paths),
        Verb::Stop(arguments) => stop::run(&arguments, &paths),
        Verb::Launch(arguments) => crate::embedded::run(launch::launch(arguments)?),
        Verb::Unmount { bpffs } => bpffs::unmount(&bpffs),
    }
}

/// Asks the daemon.
fn client(paths: &Paths) -> ControlClient {
    ControlClient::new(paths.control())
}

/// Service and number of the worker `text`.
fn worker(text: &str) -> Result<(&str, &str), Invalid> {
    let wrong = |why: &str| {
        Invalid(format!("{text:?} is not a worker{why}: write it like web/2, as `reuseport-lb status` does"))
    };
    let (service, number) = text.split_once('/').ok_or_else(|| wrong(", but perhaps a service"))?;
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    if config::check_name(service).is_err() || !digits {
        return Err(wrong(""));
    }
    Ok((service, number))
}

/// The service `text`, for a command that takes no worker.
fn service<'a>(text: &'a str, command: &str) -> Result<&'a str, Invalid> {
    if let Ok((service, number)) = worker(text) {
        let mend = match command {
            "exec" => format!("`{command} {service} --name {number}`"),
            _ => format!("`{command} {service}`"),
        };
        return Err(Invalid(format!("{text:?} is a worker, and `{command}` takes a service: write {mend}")));
    }
    config::check_name(text)
        .map(|()| text)
        .map_err(|error| Invalid(format!("no service is called so: {error}")))
}

/// Prints to standard output, for people.
fn print(text: &str) -> Result<()> {
    write(&printable::printable(text))
}

/// Prints JSON, and ends the line.
fn print_json(text: &str) -> Result<()> {
    write(&(printable::json(text).into_owned() + "\n"))
}

/// A reader that has gone away (`| head`) ends the command.
fn write(text: &str) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        written => Ok(written?),
    }
}
