//! The daemon under test: the real binary, in a test's world.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use reuseport_lb_client::api::{ServiceStatus, Status, WorkerStatus};
use reuseport_lb_client::control::{ControlClient, ControlError};

use crate::config::Config;
use crate::patience::patience;
use crate::world::{World, target};

/// Waits until `look` finds something.
///
/// # Panics
/// If that takes longer than [`patience`].
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    until_within(patience(), what, look)
}

/// Waits for something that takes longer than [`patience`] allows.
///
/// # Panics
/// If it takes longer than `limit`.
pub fn until_within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < limit, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(5)); // sleep: between two looks
    }
}

/// Looks again and again for `time`: what has to hold all the time is for `look` to assert.
pub fn throughout(time: Duration, mut look: impl FnMut()) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        look();
        std::thread::sleep(Duration::from_millis(5)); // sleep: between two looks
    }
}

/// The binary, as users run it.
///
/// # Panics
/// If it is not built.
#[must_use]
pub fn binary() -> PathBuf {
    let binary = target().join("release/reuseport-lb");
    assert!(binary.is_file(), "{} is not built: run `cargo xtask build`", binary.display());
    binary
}

/// A running daemon; stopped on drop, with a look at what it left behind.
pub struct Daemon {
    child: Child,
    paths: Paths,
}

/// Where a daemon lives.
#[derive(Clone)]
pub struct Paths {
    runtime_dir: PathBuf,
    bpffs: PathBuf,
    config: PathBuf,
    log: PathBuf,
}

impl Paths {
    /// The usual place in a world.
    #[must_use]
    pub fn of(world: &World) -> Self {
        let config = world.path("config.toml");
        Self { runtime_dir: world.path("run"), bpffs: world.bpffs(), config, log: world.path("daemon.log") }
    }

    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.runtime_dir.join("control.sock")
    }

    /// The binary with these paths and `arguments`.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("--runtime-dir").arg(&self.runtime_dir).arg("--bpffs").arg(&self.bpffs).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    /// `run` with the configuration file that is there.
    #[must_use]
    pub fn run(&self) -> Command {
        self.command(&["run", "--config", &self.config.to_string_lossy()])
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("cannot run reuseport-lb")
    }

    /// What a daemon must not leave behind: processes aside, files and pins.
    #[must_use]
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let mut left = Vec::new();
        for directory in [&self.runtime_dir, &self.bpffs.join("reuseport-lb")] {
            if directory.exists() {
                left.push(directory.clone());
                left.extend(
                    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()),
                );
            }
        }
        left
    }

    /// `None` if the daemon does not answer.
    ///
    /// # Panics
    /// If it answers what is no status.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        match ControlClient::new(self.control()).status() {
            Ok(status) => Some(status),
            Err(error @ ControlError::Unexpected(_)) => panic!("no status: {error:?}"),
            Err(_) => None,
        }
    }
}

impl Daemon {
    /// Starts a daemon and waits until all workers are ready and have buckets.
    ///
    /// # Panics
    /// If it does not get there, with its log.
    #[must_use]
    pub fn start(world: &World, arguments: &[&str]) -> Self {
        Self::start_as(world, Paths::of(world).command(&[&["run"], arguments].concat()))
    }

    /// With a command line of [`Paths::of`] that the caller has changed to its needs.
    ///
    /// # Panics
    /// If it does not get there, with its log.
    #[must_use]
    pub fn start_as(world: &World, command: Command) -> Self {
        Self::start_until(world, command, settled)
    }

    /// Starts a daemon and waits until each service is as `there` wants it.
    ///
    /// # Panics
    /// If it does not get there, with its log.
    #[must_use]
    pub fn start_until(world: &World, mut command: Command, there: impl Fn(&ServiceStatus) -> bool) -> Self {
        let log = Paths::of(world).log;
        let log = File::options().create(true).append(true).open(log).expect("cannot make a log");
        command.stdout(log.try_clone().expect("cannot share the log")).stderr(log);
        Self::start_unheard(world, command, there)
    }

    /// Starts a daemon whose log goes where the caller has it go, and waits until each service is as `there` wants it.
    ///
    /// # Panics
    /// If it does not get there.
    #[must_use]
    pub fn start_unheard(
        world: &World,
        mut command: Command,
        there: impl Fn(&ServiceStatus) -> bool,
    ) -> Self {
        let child = command.spawn().expect("cannot start reuseport-lb");
        let mut daemon = Self { child, paths: Paths::of(world) };
        until("the services to be up", || {
            if let Ok(Some(status)) = daemon.child.try_wait() {
                panic!("the daemon ended with {status}:\n{}", daemon.log());
            }
            let status = daemon.paths.status()?;
            status.services.iter().all(&there).then_some(())
        });
        daemon
    }

    /// Starts a daemon with the world's configuration file, whose standard error is the journal as far as it can see.
    ///
    /// # Panics
    /// If it does not get there.
    #[must_use]
    pub fn in_journal(world: &World) -> Self {
        let paths = Paths::of(world);
        let log = File::options().create(true).append(true).open(&paths.log).expect("cannot make a log");
        let about = log.metadata().expect("cannot look at the log");
        let mut command = paths.run();
        command.env("JOURNAL_STREAM", format!("{}:{}", about.dev(), about.ino()));
        command.stdout(Stdio::null()).stderr(log);
        Self::start_unheard(world, command, settled)
    }

    /// With a configuration file of this content.
    #[must_use]
    pub fn configured(world: &World, configuration: &str) -> Self {
        let _ = world.file("config.toml", configuration);
        Self::start_as(world, Paths::of(world).run())
    }

    /// With this configuration.
    #[must_use]
    pub fn with(world: &World, config: &Config) -> Self {
        Self::configured(world, &config.to_string())
    }

    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id")
    }

    #[must_use]
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.paths.log).unwrap_or_default()
    }

    /// Waits until the log has `text`.
    ///
    /// # Panics
    /// If it does not come.
    pub fn says(&self, text: &str) {
        until(&format!("the log to say {text:?}"), || self.log().contains(text).then_some(()));
    }

    /// Its first service.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn service(&self) -> ServiceStatus {
        self.status().services.remove(0)
    }

    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn status(&self) -> Status {
        self.paths.status().unwrap_or_else(|| panic!("no status:\n{}", self.log()))
    }

    /// Waits until all workers of the first service are ready and process `gone` is none of them: status may say for
    /// a moment that a worker is ready whose process was just killed.
    ///
    /// # Panics
    /// If that takes too long.
    pub fn settled_without(&self, gone: i32) -> ServiceStatus {
        let others = |it: &ServiceStatus| it.workers.iter().all(|worker| worker.pid != Some(gone));
        until("a successor", || Some(self.service()).filter(|service| others(service) && settled(service)))
    }

    /// Runs a command that must succeed; returns what it printed.
    ///
    /// # Panics
    /// If it fails, with what it said.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.paths.output(arguments);
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?} failed: {err}\n{}", self.log());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Ends it with SIGTERM and waits.
    ///
    /// # Panics
    /// If it does not end, or leaves anything behind.
    pub fn stop(mut self) {
        let workers = self.workers();
        let status = self.terminate();
        assert!(status.success(), "the daemon ended with {status}:\n{}", self.log());
        assert_eq!(self.paths.leftovers(), Vec::<PathBuf>::new());
        for pid in workers {
            assert!(!is_alive(pid), "process {pid} is left");
        }
    }

    /// Ends it with SIGKILL; its workers stay, and another daemon may be started in the same world.
    ///
    /// # Panics
    /// If it does not end.
    pub fn kill(mut self) {
        signal(self.pid(), nix::sys::signal::Signal::SIGKILL);
        until("the daemon to be dead", || self.child.try_wait().expect("cannot wait for the daemon"));
    }

    /// Ends it with SIGTERM while another one lives on the same bpffs.
    ///
    /// # Panics
    /// If it does not end well.
    pub fn stop_beside(mut self) {
        assert!(self.terminate().success(), "{}", self.log());
        assert!(!self.paths.runtime_dir.exists());
    }

    /// The processes of all its workers, but for those that others have started.
    #[must_use]
    pub fn workers(&self) -> Vec<i32> {
        let status = self.status();
        let own = status.services.iter().filter(|service| service.adopts.is_none());
        own.flat_map(|service| &service.workers).filter_map(|worker| worker.pid).collect()
    }

    fn terminate(&mut self) -> ExitStatus {
        signal(self.pid(), nix::sys::signal::Signal::SIGTERM);
        until("the daemon to end", || self.child.try_wait().expect("cannot wait for the daemon"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            signal(self.pid(), nix::sys::signal::Signal::SIGTERM);
            let begun = Instant::now();
            while let Ok(None) = self.child.try_wait() {
                if begun.elapsed() > patience() {
                    let _ = self.child.kill();
                }
                std::thread::sleep(Duration::from_millis(5)); // sleep: `until` would panic while another panic unwinds
            }
        }
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
    }
}

/// Whether a process runs; one that has ended but was not noticed by its parent does not.
#[must_use]
pub fn is_alive(pid: i32) -> bool {
    !matches!(state(pid), None | Some('Z' | 'X'))
}

/// Waits until a worker that has a command has become it: with `ready = "immediate"` it is ready before that.
///
/// # Panics
/// If it does not.
pub fn executed(pid: i32) {
    until("a worker to become its command", || {
        let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        (program.file_name()? != "reuseport-lb").then_some(())
    });
}

/// The state of a process, like `S` or `T` (proc_pid_stat(5)).
#[must_use]
pub fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Sends a signal to a process that the test started. After SIGSTOP it has stopped: what a busy machine has
/// only woken up could still accept a connection.
///
/// # Panics
/// If it does not stop.
pub fn signal(pid: i32, signal: nix::sys::signal::Signal) {
    // It may have ended by itself, which the test then sees.
    let sent = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
    if sent.is_ok() && signal == nix::sys::signal::Signal::SIGSTOP {
        until("a process to stop", || matches!(state(pid), None | Some('T' | 't' | 'Z' | 'X')).then_some(()));
    }
}

/// Whether all workers are ready and have their buckets, and nothing is under way: what a daemon shows while it takes over has
/// no counts.
#[must_use]
pub fn settled(service: &ServiceStatus) -> bool {
    let ready = |worker: &WorkerStatus| worker.state == "ready" && worker.buckets > 0;
    service.busy.is_none() && service.workers.iter().all(ready)
}

/// Selections of a worker over all its sockets.
#[must_use]
pub fn selected(worker: &WorkerStatus) -> u64 {
    worker.sockets.iter().map(|socket| socket.selected).sum()
}

/// A counter of a service, over all its groups.
#[must_use]
pub fn counter(service: &ServiceStatus, name: &str) -> u64 {
    service.groups.iter().map(|group| group.counters[name]).sum()
}
