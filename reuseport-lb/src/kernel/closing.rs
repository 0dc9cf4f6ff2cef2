//! Closes descriptors that other processes have sent, in threads of their own: `close` may block for unsent data
//! (SO_LINGER), or on the file system of a file.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};

use super::options;

/// Most threads that close at a time, one for each call of [`close`]; further descriptors share one more thread.
const MOST: usize = 64;

/// include/uapi/asm-generic/socket.h, Linux 6.16; not in the libc crate.
const SO_PASSRIGHTS: i32 = 83;

static CLOSING: AtomicUsize = AtomicUsize::new(0);

/// Makes sending descriptors to this UNIX socket, or to a socket accepted from it, fail with EPERM.
/// False before Linux 6.16, which has no SO_PASSRIGHTS.
pub fn refuse_descriptors(socket: impl AsFd) -> bool {
    options::set(socket, (libc::SOL_SOCKET, SO_PASSRIGHTS), &0i32.to_ne_bytes()).is_ok()
}

/// Closes `descriptors` in another thread.
pub fn close(descriptors: Vec<OwnedFd>) {
    static LATE: OnceLock<Sender<Vec<OwnedFd>>> = OnceLock::new();
    if descriptors.is_empty() {
        return;
    }
    if CLOSING.fetch_add(1, Ordering::Relaxed) < MOST {
        let close = move || {
            drop(descriptors);
            CLOSING.fetch_sub(1, Ordering::Relaxed);
        };
        // If no thread can be started, dropping `close` closes them here.
        let _ = std::thread::Builder::new().name("closing".into()).spawn(close);
        return;
    }
    CLOSING.fetch_sub(1, Ordering::Relaxed);
    let late = LATE.get_or_init(|| {
        let (sender, receiver) = channel();
        let close_all = move || receiver.iter().for_each(drop);
        let _ = std::thread::Builder::new().name("closing".into()).spawn(close_all);
        sender
    });
    let _ = late.send(descriptors);
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;
    use crate::kernel::fd_passing;

    #[test]
    fn no_peer_can_send_descriptors_to_what_is_accepted_from_a_socket_that_refuses_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let refuses = refuse_descriptors(&listener);
        let client = UnixStream::connect(&path).unwrap();
        let _accepted = listener.accept().unwrap();
        let sent = fd_passing::send(&client, b"x", &[listener.as_fd()]);
        assert_eq!(sent.is_err(), refuses, "{sent:?}");
        assert_eq!(fd_passing::send(&client, b"x", &[]).unwrap(), 1);
    }
}
