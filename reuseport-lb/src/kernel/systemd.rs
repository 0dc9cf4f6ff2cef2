//! What the daemon says to its own service manager (sd_notify(3)); nothing if it has none. Not: what
//! workers say to the daemon (`service/sd_notify.rs`).
//!
//! Sending never blocks, so no service manager can hold the daemon up. A state (`READY=1`, `RELOADING=1`,
//! `STOPPING=1`) that was not sent is sent again with the next watchdog ping, if there are pings.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tracing::warn;

/// Variables of a service manager's unit that would mislead a worker, be it started by the daemon or joined.
pub const OURS: [&str; 5] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PIDFDID", "FDSTORE"];

/// Further variables that describe the daemon's own process and unit (systemd.exec(5)); workers that it starts
/// do not get them. Not here: INVOCATION_ID, which holds for workers as well, JOURNAL_STREAM, which is for what keeps
/// their output, and directories that a drop-in may have made for workers (STATE_DIRECTORY, LOGS_DIRECTORY, ...).
pub const DAEMONS: [&str; 12] = [
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "CREDENTIALS_DIRECTORY",
    "RUNTIME_DIRECTORY",
    "SYSTEMD_EXEC_PID",
    "MANAGERPID",
    "MANAGERPIDFDID",
    "MAINPID",
    "PIDFILE",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
];

thread_local! {
    /// The latest state, if sending it failed.
    static UNSENT: RefCell<Option<String>> = const { RefCell::new(None) };
    /// The last message failed: a warning is logged for the first one of a row.
    static FAILING: Cell<bool> = const { Cell::new(false) };
}

/// Counts services that are not up yet; the last one makes the daemon ready.
#[derive(Default)]
pub struct Starting {
    services: Cell<usize>,
    over: Cell<bool>,
}

impl Starting {
    /// One more service is being started.
    pub fn begun(&self) {
        self.services.set(self.services.get() + 1);
    }

    /// A service was taken over and serves already: from now on a service that fails to start does not end the
    /// daemon.
    pub fn serves(&self) {
        self.over.set(true);
    }

    /// Whether the daemon's start is over: all services were up, or some were before it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over.get()
    }

    /// The start of a service has succeeded or failed. `READY=1` follows the last one.
    pub fn done(&self) {
        self.services.set(self.services.get().saturating_sub(1));
        if self.services.get() == 0 {
            self.over.set(true);
            ready();
        } else {
            let _ = tell(&format!("STATUS={} services are starting", self.services.get()));
        }
    }
}

/// Says that every service is up, or that a reload has ended, successful or not.
pub fn ready() {
    tell_state("READY=1\nSTATUS=all services are up".into());
}

/// Says that the configuration is being read again; [`ready`] must follow.
pub fn reloading() {
    // Type=notify-reload takes the message for the answer to its signal only with the time.
    let now = clock_gettime(ClockId::Monotonic);
    let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
    tell_state(format!("RELOADING=1\nMONOTONIC_USEC={microseconds}\nSTATUS=reading the configuration"));
}

/// Says that the daemon is about to end.
pub fn stopping() {
    tell_state("STOPPING=1\nSTATUS=stopping".into());
}

/// Sends watchdog pings, if the service manager has asked for them. Never returns. It is a task of the
/// daemon's only thread, so pings end when that thread hangs.
pub async fn stay_alive() {
    let variable = |name| std::env::var(name).ok();
    match watchdog(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), std::process::id()) {
        Some(patience) => loop {
            alive();
            tokio::time::sleep(patience / 2).await;
        },
        None => std::future::pending().await,
    }
}

const PING: &str = "WATCHDOG=1";

/// Sends the watchdog's ping, together with a state that could not be sent before.
fn alive() {
    match UNSENT.take() {
        Some(words) if words.ends_with(PING) => tell_state(words),
        Some(words) => tell_state(words + "\n" + PING),
        None => drop(tell(PING)),
    }
}

/// How long the service manager waits for a ping, if it watches this process (sd_watchdog_enabled(3)).
fn watchdog(patience: Option<String>, whose: Option<String>, own: u32) -> Option<Duration> {
    if whose.is_some_and(|pid| pid.parse() != Ok(own)) {
        return None;
    }
    // Below a millisecond the daemon would do nothing but ping.
    patience?.parse().ok().filter(|microseconds| *microseconds >= 1000).map(Duration::from_micros)
}

/// Sends a state; if that fails, keeps it for the next ping in place of an earlier one.
fn tell_state(words: String) {
    let sent = tell(&words);
    UNSENT.set((!sent).then_some(words));
}

/// Sends a message; false if that failed, true if there is no service manager.
fn tell(words: &str) -> bool {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return true };
    let sent = send(socket.as_bytes(), words);
    let failed = sent.is_err();
    if let Err(error) = sent
        && !FAILING.get()
    {
        warn!("cannot tell the service manager at {}: {error}", socket.to_string_lossy());
    }
    FAILING.set(failed);
    !failed
}

fn send(socket: &[u8], words: &str) -> io::Result<()> {
    let address = match socket.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(socket))?,
    };
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to_addr(words.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_of_another_process_is_ignored() {
        let of = |usec: &str, pid: Option<&str>| watchdog(Some(usec.into()), pid.map(Into::into), 7);
        assert_eq!(of("2000000", None), Some(Duration::from_secs(2)));
        assert_eq!(of("2000000", Some("7")), Some(Duration::from_secs(2)));
        assert_eq!(of("2000000", Some("8")), None);
        assert_eq!(of("2000000", Some("x")), None);
        assert_eq!(of("0", None), None);
        assert_eq!(of("soon", None), None);
        assert_eq!(watchdog(None, None, 7), None);
    }

    #[test]
    fn paths_and_abstract_names_are_reached_and_a_full_socket_does_not_block() {
        let name = format!("reuseport-lb-test-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let abstract_address = SocketAddr::from_abstract_name(&name).expect("an address");
        for (socket, receiver) in [
            (format!("@{name}"), UnixDatagram::bind_addr(&abstract_address)),
            (path.to_string_lossy().into_owned(), UnixDatagram::bind(&path)),
        ] {
            let receiver = receiver.expect("a socket");
            send(socket.as_bytes(), "READY=1").expect("sent");
            let mut heard = [0; 16];
            assert_eq!(receiver.recv(&mut heard).map(|length| &heard[..length]).ok(), Some(&b"READY=1"[..]));
            let full = std::iter::repeat_with(|| send(socket.as_bytes(), "WATCHDOG=1")).find_map(Result::err);
            assert_eq!(full.map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
        }
        std::fs::remove_file(path).expect("removed");
    }
}
