//! `connect`: joins standard input and output to one worker.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reuseport_lb_client::control::WorkerStream;

use super::client::client;
use super::names;
use crate::cli;
use crate::daemon::Paths;

/// Bytes that are read at once: the longest datagram is below that.
const AT_ONCE: usize = 64 << 10;

/// What has happened at one of the two ends.
enum Event {
    /// Standard input has ended.
    Asked,
    /// The worker has said this.
    Said(Vec<u8>),
    /// The worker has closed the connection, or it broke.
    Closed(io::Result<()>),
}

pub(super) fn run(arguments: &cli::ConnectArgs, paths: &Paths) -> Result<()> {
    names::worker(&arguments.worker)?;
    let listen = arguments.listen.map(|listen| listen.to_string());
    let WorkerStream { stream, received } = client(paths).connect(&arguments.worker, listen.as_deref())?;
    let (tell, events) = mpsc::channel();
    // Sending fails only when this command is at its end.
    let _ = tell.send(Event::Said(received));
    let (to, from, tells) = (stream.try_clone()?, stream, tell.clone());
    let shutdown = arguments.shutdown;
    thread::spawn(move || ask(to, shutdown, &tells));
    thread::spawn(move || hear(from, &tell));
    let (mut patience, mut silent) = (Duration::MAX, true);
    loop {
        match events.recv_timeout(patience) {
            Ok(Event::Asked) => patience = arguments.wait,
            Ok(Event::Said(bytes)) => {
                silent &= bytes.is_empty();
                if !write(&bytes)? {
                    return Ok(());
                }
            }
            Ok(Event::Closed(ended)) => {
                return ended.with_context(|| format!("the connection to {} broke", arguments.worker));
            }
            Err(RecvTimeoutError::Timeout) if silent => {
                bail!("{} has said nothing within {:?} (--wait)", arguments.worker, arguments.wait);
            }
            Err(_) => return Ok(()),
        }
    }
}

/// Sends what is read from standard input.
fn ask(mut to: UnixStream, shutdown: bool, tell: &Sender<Event>) {
    let mut bytes = vec![0; AT_ONCE];
    let mut input = io::stdin().lock();
    // A worker that does not hear any more may still speak.
    while let Ok(length @ 1..) = input.read(&mut bytes)
        && to.write_all(&bytes[..length]).is_ok()
    {}
    if shutdown {
        let _ = to.shutdown(Shutdown::Write);
    }
    let _ = tell.send(Event::Asked);
}

/// Tells what the worker says.
fn hear(mut from: UnixStream, tell: &Sender<Event>) {
    let mut bytes = vec![0; AT_ONCE];
    loop {
        let event = match from.read(&mut bytes) {
            Ok(0) => Event::Closed(Ok(())),
            Ok(length) => Event::Said(bytes[..length].to_vec()),
            Err(error) => Event::Closed(Err(error)),
        };
        let is_last = matches!(event, Event::Closed(_));
        if tell.send(event).is_err() || is_last {
            return;
        }
    }
}

/// Writes to standard output as it is; false if nobody reads any more.
fn write(bytes: &[u8]) -> Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => Ok(written.map(|()| true)?),
    }
}
