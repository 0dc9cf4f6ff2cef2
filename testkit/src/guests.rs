//! Guests: processes of another user that join by `exec`.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use nix::sys::signal::Signal;
use reuseport_lb_client::api::{ServiceStatus, WorkerStatus};

use crate::background::Killed;
use crate::daemon::{Paths, binary, signal, until};
use crate::server;
use crate::world::World;

/// Who they are: nobody, whom every system has.
pub const USER: u32 = 65534;

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
    server: Vec<String>,
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
        Self {
            paths: Paths::of(world),
            binary: copy,
            server: server::words(world, "--wait poll --patience 5s"),
        }
    }

    /// The binary with `arguments`, run by the user `uid`.
    #[must_use]
    pub fn command(&self, uid: u32, arguments: &[&str]) -> Command {
        let usual = self.paths.command(arguments);
        let mut command = Command::new(&self.binary);
        command.args(usual.get_args()).stdin(Stdio::null()).current_dir("/").uid(uid).gid(uid);
        command
    }

    /// Their server: one thread that answers one connection after the other, as the embedded worker does.
    #[must_use]
    pub fn server(&self, manner: Manner) -> Vec<String> {
        let flags: &[&str] = match manner {
            Manner::Hangs => &["--answer", "never"],
            Manner::Abrupt => &["--ready", "notify", "--term", "abrupt"],
            Manner::Polite => &["--ready", "notify", "--term", "polite"],
        };
        self.server.iter().cloned().chain(flags.iter().map(|flag| (*flag).to_owned())).collect()
    }

    /// `exec` with these arguments, some options and a service, by [`USER`].
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn exec<T: AsRef<str>>(&self, arguments: &[&str], command: &[T]) -> Guest {
        let command: Vec<&str> = command.iter().map(AsRef::as_ref).collect();
        let all = [&["exec"], arguments, &["--"], &command].concat();
        Guest(Killed(self.command(USER, &all).spawn().expect("cannot start reuseport-lb")))
    }

    /// `exec` with these arguments and a server of this manner, by [`USER`].
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn join(&self, arguments: &[&str], manner: Manner) -> Guest {
        self.exec(arguments, &self.server(manner))
    }
}

/// A process that joins; killed on drop.
pub struct Guest(Killed);

impl Guest {
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.0.0.id()).expect("a process id")
    }

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
        until("a guest to end", || self.0.0.try_wait().expect("cannot wait for a guest"))
    }
}
