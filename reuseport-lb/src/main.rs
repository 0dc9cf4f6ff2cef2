//! Parse, run, exit. Exit codes: 0 done, 1 failed, 2 usage or invalid configuration.

use std::process::ExitCode;

use reuseport_lb::cli::Cli;
use reuseport_lb::cmd;
use reuseport_lb::config::Invalid;
use reuseport_lb::logging;
use reuseport_lb::printable::printable;

fn main() -> ExitCode {
    let cli = Cli::parse(std::env::args_os()).unwrap_or_else(|error| error.exit());
    match cmd::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Once, with everything that led to it, on one line.
            let text = format!("reuseport-lb: {error:#}\n");
            logging::put(printable(&text).as_bytes());
            logging::flush();
            ExitCode::from(if error.is::<Invalid>() { 2 } else { 1 })
        }
    }
}
