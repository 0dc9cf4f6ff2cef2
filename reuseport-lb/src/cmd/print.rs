//! Standard output of the commands.

use anyhow::Result;

use crate::printable;

/// Prints text to standard output, with control characters escaped.
pub(super) fn print(text: &str) -> Result<()> {
    write(&printable::printable(text))
}

/// Prints JSON and the end of the line.
pub(super) fn print_json(text: &str) -> Result<()> {
    write(&(printable::json(text).into_owned() + "\n"))
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
