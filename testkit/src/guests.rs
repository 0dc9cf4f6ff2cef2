//! Guests: processes of another user that join by `exec`.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::Signal;
use reuseport_lb_client::api::{ServiceStatus, WorkerStatus};

use crate::daemon::{Paths, binary, signal, until};
use crate::world::World;

/// Who they are: nobody, whom every system has.
pub const USER: u32 = 65534;

/// A server with one thread that answers one connection after the other, as the embedded worker
/// does. Its argument says how it takes part.
const SERVER: &str = r#"
import os, select, signal, socket, sys

manner = sys.argv[1]
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.connect(os.environ['NOTIFY_SOCKET'])
if manner == 'hangs':
    signal.pause()
told, tell = socket.socketpair()
told.setblocking(False)
tell.setblocking(False)
signal.signal(signal.SIGTERM, lambda *_: None)
signal.set_wakeup_fd(tell.fileno())
listener = socket.socket(fileno=3)
listener.setblocking(False)

def answer(connection, peer):
    connection.settimeout(5)
    received = b''
    while b'\r\n\r\n' not in received:
        more = connection.recv(4096)
        if not more:
            return
        received += more
    body = f'worker={os.environ["REUSEPORT_LB_WORKER"]}\npid={os.getpid()}\npeer={peer[0]}:{peer[1]}\n'
    head = f'HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n'
    connection.sendall((head + body).encode())

notify.send(b'READY=1')
while True:
    if told in select.select([listener, told], [], [])[0]:
        told.recv(1)
        if manner == 'abrupt':
            sys.exit()
        notify.send(b'STOPPING=1')
    try:
        connection, peer = listener.accept()
    except BlockingIOError:
        continue
    except OSError:
        # The daemon has shut it down: this worker has left.
        sys.exit()
    with connection:
        try:
            answer(connection, peer)
        except OSError:
            pass
"#;

/// How a guest takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Never says `READY=1`.
    Hangs,
    /// Serves; on SIGTERM answers what it has accepted and ends without a word.
    Abrupt,
    /// Serves; on SIGTERM says `STOPPING=1` and ends when its listener is shut down.
    Polite,
}

/// Where guests come from.
pub struct Guests {
    paths: Paths,
    binary: PathBuf,
    server: PathBuf,
}

impl Guests {
    /// Gets ready for them.
    ///
    /// # Panics
    /// If there is no room for the files that they need.
    #[must_use]
    pub fn new(world: &World) -> Self {
        // The binary may lie where others cannot look.
        let copy = world.program(&binary(), "reuseport-lb");
        Self { paths: Paths::of(world), binary: copy, server: world.file("guest.py", SERVER) }
    }

    /// The binary with `arguments`, run by the user `uid`.
    #[must_use]
    pub fn command(&self, uid: u32, arguments: &[&str]) -> Command {
        let usual = self.paths.command(arguments);
        let mut command = Command::new(&self.binary);
        command.args(usual.get_args()).stdin(Stdio::null()).current_dir("/").uid(uid).gid(uid);
        command
    }

    /// Their server, for python3.
    #[must_use]
    pub fn server(&self) -> String {
        self.server.to_string_lossy().into_owned()
    }

    /// `exec` with these arguments, some options and a service, by [`USER`].
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn exec(&self, arguments: &[&str], command: &[&str]) -> Guest {
        let all = [&["exec"], arguments, &["--"], command].concat();
        Guest(self.command(USER, &all).spawn().expect("cannot start reuseport-lb"))
    }

    /// The same with a server of this manner.
    #[must_use]
    pub fn join(&self, arguments: &[&str], manner: Manner) -> Guest {
        let manner = format!("{manner:?}").to_lowercase();
        self.exec(arguments, &["python3", &self.server(), &manner])
    }
}

/// A process that joins; killed on drop.
pub struct Guest(Child);

impl Guest {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).expect("a process id")
    }

    /// Sends it a signal.
    pub fn tell(&self, what: Signal) {
        signal(self.pid(), what);
    }

    /// The worker that it is.
    #[must_use]
    pub fn worker<'a>(&self, service: &'a ServiceStatus) -> Option<&'a WorkerStatus> {
        service.workers.iter().find(|worker| worker.pid == Some(self.pid()))
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    pub fn end(mut self) -> ExitStatus {
        until("a guest to end", || self.0.try_wait().expect("cannot wait for a guest"))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // One that has ended is fine as well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
