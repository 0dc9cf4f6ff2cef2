//! Joining a running daemon as a worker, from within any Rust program: [`JoinedWorker`]. docs/JOIN.md describes the
//! protocol. Calls block for a short time only, and need no async runtime.
//!
//! ```no_run
//! use reuseport_lb_client::worker::{JoinOptions, JoinedWorker};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let mut worker = JoinedWorker::join(&JoinOptions::new("web"))?;
//!     let (_name, listener) = worker.take_tcp().remove(0);
//!     // From here on the worker gets its share of connections.
//!     worker.ready()?;
//!     loop {
//!         let (_stream, peer) = listener.accept()?;
//!         println!("{} serves {peer}", worker.name());
//!     }
//! }
//! ```

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::ioctl_fionbio;
use rustix::net::SocketType;
use rustix::net::sockopt::socket_type;

use crate::join::{self, Answer, Ask, LONGEST_REQUEST};
use crate::stream;

/// Runtime directory of a daemon without `--runtime-dir`.
const RUNTIME_DIR: &str = "/run/reuseport-lb";

/// How long an answer is waited for; usually it takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of the longest answer that is read: one with 64 sockets takes less than 8 KiB.
const LONGEST_ANSWER: usize = 64 << 10;

/// Why a process could not join, or could not send a message to the daemon.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// No daemon listens on the join socket.
    #[error(
        "cannot reach {path}: no daemon runs there; start one with `reuseport-lb run`, or give its runtime \
         directory"
    )]
    NoDaemon {
        /// The join socket.
        path: PathBuf,
        /// Error of the kernel.
        source: io::Error,
    },
    /// This user may not use the join socket, or may not enter a directory on the way.
    #[error("cannot reach {path}: this user may not use it; join as the service's user, or as root")]
    NotPermitted {
        /// The join socket.
        path: PathBuf,
        /// Error of the kernel.
        source: io::Error,
    },
    /// The daemon refuses; the text says why, and what to do.
    #[error("the daemon refuses: {0}")]
    Refused(String),
    /// Anything else.
    #[error("{what}")]
    Failed {
        /// What was tried, and what to do where that is known.
        what: String,
        /// Error of the kernel.
        source: io::Error,
    },
}

impl JoinError {
    fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        |source| Self::Failed { what: what.into(), source }
    }
}

/// Which worker to become, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinOptions {
    /// The daemon's runtime directory.
    pub runtime_dir: PathBuf,
    /// Name of the service.
    pub service: String,
    /// Name of the worker, like `web/7`; `None`: the one with the lowest free number.
    pub worker: Option<String>,
    /// Weight from 0 (no new flows) to 1,000,000; the share of flows is the weight over the sum of all.
    pub weight: u32,
}

impl JoinOptions {
    /// Options for a worker of `service` with any free number and weight 1, of the daemon in `/run/reuseport-lb`.
    #[must_use]
    pub fn new(service: &str) -> Self {
        Self { runtime_dir: RUNTIME_DIR.into(), service: service.into(), worker: None, weight: 1 }
    }
}

/// This process as a worker. It stays one until it ends, which the daemon watches for. Dropping a `JoinedWorker` only closes
/// its sockets in this process; the daemon has duplicates.
#[derive(Debug)]
pub struct JoinedWorker {
    name: String,
    notify: PathBuf,
    watchdog: Option<Duration>,
    env: BTreeMap<String, String>,
    listeners: Vec<(String, OwnedFd)>,
    voice: UnixDatagram,
}

impl JoinedWorker {
    /// Asks the daemon to make this process a worker of a service. Its sockets receive nothing before
    /// [`ready`](Self::ready), unless no other worker is ready.
    pub fn join(options: &JoinOptions) -> Result<Self, JoinError> {
        Self::join_over(&Self::connect(options)?, options)
    }

    /// Joins a process that opens its sockets itself and gets none: `calls` is the descriptor by which its calls of
    /// bind(2) and listen(2) are answered, which wait for that (seccomp_unotify(2)).
    pub fn join_opening(options: &JoinOptions, calls: BorrowedFd<'_>) -> Result<Self, JoinError> {
        Self::ask(&Self::connect(options)?, options, Some(calls))
    }

    fn connect(options: &JoinOptions) -> Result<UnixStream, JoinError> {
        let path = join::path(&options.runtime_dir);
        stream::connected(&path, PATIENCE).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                JoinError::NoDaemon { path, source }
            }
            io::ErrorKind::PermissionDenied => JoinError::NotPermitted { path, source },
            io::ErrorKind::WouldBlock => JoinError::failed(stuck(&path))(source),
            _ => JoinError::failed(format!("cannot connect to {}", path.display()))(source),
        })
    }

    /// Asks the daemon at the other end of `stream`, a connection to the join socket. The process that has connected
    /// it becomes the worker, be it this one or another.
    pub fn join_over(stream: &UnixStream, options: &JoinOptions) -> Result<Self, JoinError> {
        Self::ask(stream, options, None)
    }

    fn ask(
        mut stream: &UnixStream,
        options: &JoinOptions,
        calls: Option<BorrowedFd<'_>>,
    ) -> Result<Self, JoinError> {
        let path = join::path(&options.runtime_dir);
        let JoinOptions { service, worker, weight, .. } = options.clone();
        let calls = calls.map(|calls| calls.as_raw_fd());
        let request = serde_json::to_string(&Ask { service, worker, weight, calls })
            .map_err(|error| JoinError::failed("cannot write the request")(error.into()))?;
        if request.len() >= LONGEST_REQUEST {
            return Err(JoinError::Refused("the name of the service or of the worker is too long".into()));
        }
        // If the daemon has closed the connection already, its answer says why.
        let written = stream.write_all((request + "\n").as_bytes());
        let (line, fds) = hear(stream).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => JoinError::failed(stuck(&path))(source),
            _ => JoinError::failed(format!("no answer from {}", path.display()))(
                written.err().unwrap_or(source),
            ),
        })?;
        let answer = serde_json::from_slice(&line).map_err(|error| {
            JoinError::failed("the daemon's answer is not what this version expects")(error.into())
        })?;
        let (name, notify, names, watchdog_usec, env) = match answer {
            Answer::Joined { worker, notify, names, watchdog_usec, env } => {
                (worker, notify, names, watchdog_usec, env)
            }
            Answer::Refused { error } => return Err(JoinError::Refused(error)),
        };
        if names.len() != fds.len() {
            let why = format!("{} sockets with {} names", fds.len(), names.len());
            return Err(JoinError::failed("the daemon's answer is broken")(io::Error::other(why)));
        }
        let listeners: Vec<(String, OwnedFd)> = names.into_iter().zip(fds).collect();
        let own = || -> io::Result<UnixDatagram> {
            for (_, socket) in &listeners {
                // An earlier worker with this socket may have made it non-blocking.
                ioctl_fionbio(socket, false)?;
            }
            let voice = UnixDatagram::unbound()?;
            voice.set_nonblocking(true)?;
            Ok(voice)
        };
        let voice = own().map_err(JoinError::failed("cannot prepare the worker's sockets"))?;
        let watchdog = watchdog_usec.map(Duration::from_micros);
        Ok(Self { name, notify, watchdog, env, listeners, voice })
    }

    /// Name of the worker, like `web/7`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The notification socket, which [`ready`](Self::ready) writes to: the value of NOTIFY_SOCKET.
    #[must_use]
    pub fn notify(&self) -> &Path {
        &self.notify
    }

    /// Longest time between two calls of [`watchdog`](Self::watchdog), of which half is usual; `None` if the service
    /// has no watchdog.
    #[must_use]
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Variables that a started worker would have in its environment, besides those of sd_listen_fds(3) and sd_notify(3): with
    /// `quic` in the service, its server id (docs/QUIC.md).
    #[must_use]
    pub fn env(&self) -> &BTreeMap<String, String> {
        &self.env
    }

    /// The sockets that have not been taken, in blocking mode, with their names (`tcp-127.0.0.1-80`), in the order of
    /// the service's listeners.
    pub fn listeners(&self) -> impl Iterator<Item = (&str, &OwnedFd)> {
        self.listeners.iter().map(|(name, socket)| (name.as_str(), socket))
    }

    /// Takes all sockets.
    pub fn take(&mut self) -> Vec<(String, OwnedFd)> {
        std::mem::take(&mut self.listeners)
    }

    /// Takes the TCP listeners.
    pub fn take_tcp(&mut self) -> Vec<(String, TcpListener)> {
        self.take_kind(SocketType::STREAM)
    }

    /// Takes the UDP sockets.
    pub fn take_udp(&mut self) -> Vec<(String, UdpSocket)> {
        self.take_kind(SocketType::DGRAM)
    }

    fn take_kind<T: From<OwnedFd>>(&mut self, kind: SocketType) -> Vec<(String, T)> {
        let taken =
            self.listeners.extract_if(.., |(_, socket)| socket_type(socket).is_ok_and(|its| its == kind));
        taken.map(|(name, socket)| (name, socket.into())).collect()
    }

    /// Sends `READY=1`: from now on the worker gets its share of new flows.
    pub fn ready(&self) -> Result<(), JoinError> {
        self.say("READY=1", PATIENCE)
    }

    /// Sends `WATCHDOG=1`, which shows that the worker is not stuck. Does not block: fails if the daemon does not read
    /// at the moment.
    pub fn watchdog(&self) -> Result<(), JoinError> {
        self.say("WATCHDOG=1", Duration::ZERO)
    }

    /// Sends `STOPPING=1`: the daemon moves the worker's buckets to other workers, waits until its queue
    /// is empty, hands over connections that come late, and removes the worker.
    ///
    /// Keep accepting until the listener is shut down (`accept` fails with EINVAL),
    /// or at least for a moment; finish the open connections; then end the process. A
    /// process that just ends loses no queued connection either: the daemon hands them over.
    pub fn leave(&self) -> Result<(), JoinError> {
        self.say("STOPPING=1", PATIENCE)
    }

    fn say(&self, word: &str, patience: Duration) -> Result<(), JoinError> {
        let (path, end) = (self.notify.display(), Instant::now() + patience);
        let what = |why: &str| format!("cannot say {word} to {path}: {why}");
        if !self.notify.is_absolute() {
            let error = io::ErrorKind::InvalidInput.into();
            return Err(JoinError::failed(what("not the absolute path of a socket"))(error));
        }
        loop {
            let error = match self.voice.send_to(word.as_bytes(), &self.notify) {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            let why = match error.kind() {
                io::ErrorKind::Interrupted => continue,
                io::ErrorKind::WouldBlock if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(10));
                    continue;
                }
                io::ErrorKind::WouldBlock => "the daemon does not read it; is it stopped?",
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    "the daemon does not listen there any more; if it has ended, join the next one"
                }
                io::ErrorKind::PermissionDenied => "only the user that has joined may, and root",
                io::ErrorKind::InvalidInput => {
                    "no socket can have this path; give the daemon another runtime directory"
                }
                _ => "it could not be sent",
            };
            return Err(JoinError::failed(what(why))(error));
        }
    }
}

fn stuck(path: &Path) -> String {
    format!("the daemon does not answer on {} within {PATIENCE:?}; is it stopped?", path.display())
}

/// Reads a line, without its newline, and the descriptors that come with it.
fn hear(from: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let (mut line, mut fds) = (Vec::new(), Vec::new());
    let mut buffer = [0; 4096];
    while line.len() < LONGEST_ANSWER {
        let (length, came) = stream::receive(from, &mut buffer)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        fds.extend(came);
        line.extend_from_slice(&buffer[..length]);
        if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            line.truncate(end);
            return Ok((line, fds));
        }
    }
    Err(io::Error::other("the answer is too long"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(notify: &Path) -> JoinedWorker {
        let voice = UnixDatagram::unbound().unwrap();
        voice.set_nonblocking(true).unwrap();
        let sockets = [
            ("tcp-a", OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap())),
            ("udp-b", OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap())),
            ("tcp-c", OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap())),
        ];
        let listeners = sockets.map(|(name, socket)| (name.into(), socket)).into();
        let env = BTreeMap::new();
        JoinedWorker { name: "web/7".into(), notify: notify.into(), watchdog: None, env, listeners, voice }
    }

    #[test]
    fn sockets_are_taken_by_kind() {
        let mut worker = worker(Path::new("/x"));
        assert_eq!(worker.listeners().map(|(name, _)| name).collect::<Vec<_>>(), ["tcp-a", "udp-b", "tcp-c"]);
        let tcp: Vec<String> = worker.take_tcp().into_iter().map(|(name, _)| name).collect();
        assert_eq!(tcp, ["tcp-a", "tcp-c"]);
        assert_eq!(worker.listeners().count(), 1);
        assert_eq!(worker.take_udp().len(), 1);
        assert!(worker.take().is_empty());
    }

    #[test]
    fn what_cannot_hear_is_named() {
        let long = format!("/{}", "x".repeat(200));
        for (path, says) in [
            ("\0abstract", "not the absolute path"),
            ("@abstract", "not the absolute path"),
            ("", "not the absolute path"),
            (&long, "no socket can have this path"),
            ("/no/such/socket", "does not listen there any more"),
        ] {
            let error = worker(Path::new(path)).ready().unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("READY=1"), "{path:?}: {error}");
        }
    }

    #[test]
    fn its_words_are_those_of_systemd() {
        let path = std::env::temp_dir().join(format!("reuseport-lb-worker-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).unwrap();
        let worker = worker(&path);
        worker.ready().unwrap();
        worker.watchdog().unwrap();
        worker.leave().unwrap();
        let mut buffer = [0; 64];
        for word in ["READY=1", "WATCHDOG=1", "STOPPING=1"] {
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], word.as_bytes());
        }
        // The socket is not read: the watchdog does not block.
        let error = std::iter::repeat_with(|| worker.watchdog()).take(100_000).find_map(Result::err);
        assert!(error.unwrap().to_string().contains("is it stopped?"));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn without_a_daemon_it_says_so() {
        let options = JoinOptions { runtime_dir: "/no/such/directory".into(), ..JoinOptions::new("web") };
        let error = JoinedWorker::join(&options).unwrap_err();
        assert!(matches!(error, JoinError::NoDaemon { .. }));
        assert!(error.to_string().contains("/no/such/directory/join.sock: no daemon runs there"), "{error}");
    }
}
