//! What only one process at a time can have: a lock on a file, and a port of its own.

use std::fs::File;
use std::net::TcpListener;

use anyhow::Result;
use rustix::fs::{FlockOperation, flock};

use crate::flags::Flags;

/// What a process holds until it ends.
#[expect(dead_code, reason = "held, not used")]
pub(crate) struct Held {
    lock: Option<File>,
    metrics: Option<TcpListener>,
}

/// Takes what the flags name; ends the process if another one has it.
pub(crate) fn take(flags: &Flags) -> Result<Held> {
    let lock = flags.lock.as_ref().map(File::create).transpose()?;
    if let Some(lock) = &lock
        && flock(lock, FlockOperation::NonBlockingLockExclusive).is_err()
    {
        std::process::exit(7);
    }
    let listen = |address| TcpListener::bind(address).unwrap_or_else(|_| std::process::exit(8));
    Ok(Held { lock, metrics: flags.metrics.map(listen) })
}
