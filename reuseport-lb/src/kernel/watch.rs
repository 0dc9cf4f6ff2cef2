//! Waiting in tokio until a descriptor is readable, for types that keep one descriptor as long as they live.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};

use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A type whose descriptor never changes and stays open until the value is dropped.
///
/// # Safety
/// `as_raw_fd` must return that one descriptor, open, as long as the value lives.
pub unsafe trait Steady: AsRawFd {}

// SAFETY: an `OwnedFd` owns its descriptor and never replaces it.
unsafe impl Steady for OwnedFd {}
// SAFETY: as above.
unsafe impl Steady for TcpListener {}
// SAFETY: an `EbpfLogger` owns the ring's map and never replaces it.
unsafe impl<T> Steady for EbpfLogger<T> {}

/// Registers `owner` with the current tokio runtime, to wait until it is readable.
pub fn readable<T: Steady>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: the descriptor is open, the same for as long as `owner` lives, and `AsyncFd` drops
    // its registration before `owner`.
    Ok(unsafe { AsyncFd::register_with_interest(owner, Interest::READABLE) }?)
}
