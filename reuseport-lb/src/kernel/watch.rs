//! Waiting for a descriptor in tokio, for types that keep one descriptor for all their life.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};

use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A type whose descriptor never changes and stays open until the value is dropped.
///
/// # Safety
/// Just that.
pub unsafe trait Steady: AsRawFd {}

// SAFETY: it is the descriptor's owner.
unsafe impl Steady for OwnedFd {}
// SAFETY: as above.
unsafe impl Steady for TcpListener {}
// SAFETY: it owns the ring's map, which it never replaces.
unsafe impl<T> Steady for EbpfLogger<T> {}

/// Registers `owner` with the runtime that this is called in, to wait until it is readable.
pub fn readable<T: Steady>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: the descriptor is open, the same for as long as `owner` lives, and `AsyncFd` drops
    // its registration before `owner`.
    Ok(unsafe { AsyncFd::register_with_interest(owner, Interest::READABLE) }?)
}
