//! Parses the command line, runs the command, exits: with 0 done, 1 failed, 2 usage or invalid configuration.

use std::process::ExitCode;

use reuseport_lb::cli::Cli;
use reuseport_lb::cmd;
use reuseport_lb::config::Invalid;
use reuseport_lb::logging;
use reuseport_lb::printable::{inline, printable};

fn main() -> ExitCode {
    // First of all, as a keeper is to be small.
    if let Some(kept) = cmd::keeper(std::env::args_os()) {
        return kept.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS);
    }
    match cmd::complete(std::env::args_os()) {
        Ok(false) => {}
        Ok(true) => return ExitCode::SUCCESS,
        Err(error) => return failed(&error),
    }
    let cli = match Cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return misused(&error),
        Err(asked) => asked.exit(),
    };
    match cmd::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    let invalid = error.is::<Invalid>();
    // One line with the error and its causes; for an invalid configuration, below it the line of the file.
    let text = format!("{error:#}");
    let text = if invalid { printable(&text) } else { inline(&text) };
    logging::put(format!("reuseport-lb: {text}\n").as_bytes());
    logging::flush();
    ExitCode::from(if invalid { 2 } else { 1 })
}

/// Prints what is wrong with the command line. Its words are repeated with control characters escaped.
fn misused(error: &clap::Error) -> ExitCode {
    let mut text = error.render().ansi().to_string();
    for argument in std::env::args_os().skip(1) {
        let argument = argument.to_string_lossy();
        let value = argument.split_once('=').map_or("", |(_, value)| value);
        for given in [&*argument, value].into_iter().filter(|given| inline(given) != **given) {
            text = text.replace(given, &inline(given));
        }
    }
    logging::put(printable(&without_colours(&text)).as_bytes());
    ExitCode::from(2)
}

/// `text` without the colours (ESC [ ... m) that clap has put into it.
fn without_colours(text: &str) -> String {
    let mut pieces = text.split("\u{1b}[");
    let first = pieces.next().unwrap_or_default().to_owned();
    first + &pieces.map(|piece| piece.split_once('m').map_or(piece, |(_, rest)| rest)).collect::<String>()
}
