//! Standard output of the commands.

use anyhow::Result;
use serde::Serialize;
use serde_json::json;
use thiserror::Error;

use crate::printable;

/// An error that the JSON on standard output says already.
#[derive(Debug, Error)]
#[error("{0}")]
pub(super) struct Reported(pub(super) String);

/// Prints text to standard output, with control characters escaped.
pub(super) fn print(text: &str) -> Result<()> {
    write(&printable::printable(text))
}

/// Prints JSON and the end of the line.
pub(super) fn print_json(text: &str) -> Result<()> {
    write(&(printable::json(text).into_owned() + "\n"))
}

/// Prints a value as one line of JSON.
pub(super) fn print_object(value: &impl Serialize) -> Result<()> {
    print_json(&serde_json::to_string(value)?)
}

/// Prints why a command with `--json` failed, unless that stands there already.
pub(super) fn print_error(error: &anyhow::Error) {
    if !error.is::<Reported>() {
        // The error goes to standard error as well.
        let _ = print_object(&json!({ "error": format!("{error:#}") }));
    }
}

/// Clears the terminal that is standard output, and begins again at its top.
pub(super) fn clear_terminal() -> Result<()> {
    write("\u{1b}[H\u{1b}[2J")
}

/// Writes to standard output; a closed pipe (`| head`) ends the command.
fn write(text: &str) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        written => Ok(written?),
    }
}
