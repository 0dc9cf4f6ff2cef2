//! What a server says about itself (sd_notify(3)).

use std::io;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::flags::{Flags, Ready};
use crate::special;

/// Says `word` at the path that is there now.
pub(crate) fn say(word: &str) -> io::Result<()> {
    let path = std::env::var_os("NOTIFY_SOCKET").ok_or_else(|| io::Error::other("no NOTIFY_SOCKET"))?;
    UnixDatagram::unbound()?.send_to(word.as_bytes(), path).map(drop)
}

/// Says that the server is ready, and from now on that it lives, as it is told to.
pub(crate) fn begin(flags: &Flags) -> Result<()> {
    let connection = match &flags.connected {
        Some(_) => Some(connection()?),
        None => None,
    };
    let tell = move |word: &str| match &connection {
        Some(connection) => connection.send(word.as_bytes()).map(drop),
        None => say(word),
    };
    let heard = match flags.ready {
        Ready::Never => Ok(()),
        Ready::Notify => tell("READY=1"),
        Ready::Helper => return special::ready_by_helper(),
        Ready::Status => tell("STATUS=here\nREADY=1"),
        Ready::Pid => {
            println!("{}", std::process::id());
            Ok(())
        }
    };
    match (heard, &flags.unheard) {
        (Err(error), Some(file)) => std::fs::write(file, error.to_string())?,
        (heard, _) => heard.context("cannot say READY=1")?,
    }
    if let Some(file) = &flags.said {
        std::fs::write(file, "")?;
    }
    let Some(period) = period(flags)? else { return Ok(()) };
    let (beats, deaf) = (flags.beats.unwrap_or(u32::MAX), flags.connected.clone());
    std::thread::spawn(move || {
        for _ in 0..beats {
            std::thread::sleep(period);
            // Without a connection somebody may have removed the path for a moment.
            if let (Err(error), Some(deaf)) = (tell("WATCHDOG=1"), &deaf) {
                let _ = std::fs::write(deaf, error.to_string());
            }
        }
    });
    Ok(())
}

fn connection() -> Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(std::env::var_os("NOTIFY_SOCKET").context("no NOTIFY_SOCKET")?)?;
    Ok(socket)
}

/// The time between two words.
fn period(flags: &Flags) -> Result<Option<Duration>> {
    if !flags.watchdog {
        return Ok(flags.ping);
    }
    let pid: u32 = std::env::var("WATCHDOG_PID").context("no WATCHDOG_PID")?.parse()?;
    ensure!(pid == std::process::id(), "WATCHDOG_PID is {pid}, not {}", std::process::id());
    let time: u64 = std::env::var("WATCHDOG_USEC").context("no WATCHDOG_USEC")?.parse()?;
    Ok(Some(Duration::from_micros(time / 2)))
}
