//! The daemon: puts services, signals and the control socket together, and ends in order.

use std::cell::RefCell;
use std::fs::{self, DirBuilder, File};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};
use tracing::{info, warn};

use crate::config;
use crate::control::{self, Services};
use crate::kernel::bpffs::Pins;
use crate::kernel::host;
use crate::notify;
use crate::service::{Command, Service, Surroundings};

/// Longest path of a UNIX socket: `sun_path` (unix(7)) without its terminating zero.
const SUN_PATH: usize = 107;

/// Longest name of a notification socket: a count of starts.
const NOTIFY_NAME: usize = 12;

/// Where a daemon lives.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Its sockets and lock.
    pub runtime_dir: PathBuf,
    /// A BPF file system; mounted there if none is.
    pub bpffs: PathBuf,
}

impl Paths {
    /// The socket for administrators.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.runtime_dir.join("control.sock")
    }
}

/// Runs `services` until SIGTERM, SIGINT or `stop`; a second signal ends it without patience.
/// Returns when no process, pin or socket file of it is left.
pub fn run(services: Vec<config::Service>, paths: &Paths) -> Result<()> {
    host::require_root()?;
    for service in &services {
        crate::service::find_command(service).map_err(anyhow::Error::msg)?;
        if !service.command.is_empty() && service.user.is_none() {
            warn!("service {}: its workers run as root; `user` says whom else they may run as", service.name);
        }
    }
    host::expect_children();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let open_files = host::raise_open_files();
    let files = Files::make(paths)?;
    let pins = Pins::prepare(&paths.bpffs, &paths.runtime_dir)?;
    let (ours, runtime_dir) = (RefCell::default(), paths.runtime_dir.clone());
    let surroundings = Rc::new(Surroundings { pins, ours, runtime_dir, open_files });
    let ended = LocalSet::new().block_on(&runtime, serve(services, &files, surroundings.clone()));
    surroundings.pins.remove()?;
    ended
}

async fn serve(services: Vec<config::Service>, files: &Files, surroundings: Rc<Surroundings>) -> Result<()> {
    let mut signals = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let mut hangup = signal(SignalKind::hangup())?;
    let listener = files.listen()?;
    let interactive = io::stderr().is_terminal();

    let mut running = JoinSet::new();
    let mut all = Vec::new();
    let (fail, mut failures) = mpsc::unbounded_channel();
    for service in services {
        let name = service.name.clone();
        let opened = Service::open(service, surroundings.clone(), fail.clone())?;
        let (send, receive) = mpsc::unbounded_channel();
        all.push((name, send));
        running.spawn_local(opened.run(receive));
    }
    let (stop, mut stopped) = mpsc::unbounded_channel();
    let services = Rc::new(Services { all, stop });
    tokio::task::spawn_local(control::serve(listener, services.clone()));
    info!("control socket {}", files.paths.control().display());

    let mut outcome = Ok(());
    loop {
        tokio::select! {
            () = any(&mut signals) => break,
            _ = stopped.recv() => break,
            // A service ends only when it is told to.
            Some(ended) = running.join_next() => {
                outcome = ended.context("a service's task failed");
                break;
            }
            // A terminal that was closed; without one, it is the usual word for "read your files again".
            _ = hangup.recv() => {
                if interactive {
                    break;
                }
                warn!("SIGHUP: there is no reload in this version; nothing changes");
            }
            Some(error) = failures.recv() => {
                outcome = Err(error);
                break;
            }
        }
    }
    info!("stopping: nothing new is let in, workers finish what they have");
    let tell = |command: fn() -> Command| {
        for (_, commands) in &services.all {
            // A service that has ended already needs no telling.
            let _ = commands.send(command());
        }
    };
    tell(|| Command::Stop);
    if outcome.is_err() {
        tell(|| Command::Kill);
    }
    loop {
        tokio::select! {
            ended = running.join_next() => match ended {
                None => break,
                Some(Err(error)) => outcome = outcome.and(Err(error).context("a service's task failed")),
                Some(Ok(())) => {}
            },
            () = any(&mut signals) => {
                warn!("a second signal: workers are killed");
                tell(|| Command::Kill);
            }
        }
    }
    info!("stopped");
    outcome
}

/// Takes the lock of a runtime directory, for as long as the file is open.
fn lock(directory: &Path) -> Result<File> {
    let path = directory.join("daemon.lock");
    loop {
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        if !host::try_lock(&lock).with_context(|| format!("cannot lock {}", path.display()))? {
            let mut pid = String::new();
            let _ = lock.read_to_string(&mut pid);
            bail!(
                "another reuseport-lb (process {}) runs in {}: stop it with `reuseport-lb stop`, or give this one \
                 its own --runtime-dir",
                pid.trim(),
                directory.display()
            );
        }
        // A daemon that ended meanwhile has removed the file: then this is the lock of nothing.
        let ours = lock.metadata().context("cannot look at the lock")?.ino();
        if fs::metadata(&path).is_ok_and(|there| there.ino() == ours) {
            return Ok(lock);
        }
    }
}

async fn any(signals: &mut [Signal; 2]) {
    let [one, other] = signals;
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

/// The runtime directory with its lock; removed on drop, as far as it is ours.
struct Files {
    paths: Paths,
    made: bool,
    _lock: File,
}

impl Files {
    fn make(paths: &Paths) -> Result<Self> {
        let directory = &paths.runtime_dir;
        let longest = notify::directory(directory).as_os_str().len() + 1 + NOTIFY_NAME;
        if longest > SUN_PATH {
            bail!(
                "the runtime directory {} is too long a path for sockets in it: use one of at most {} bytes",
                directory.display(),
                SUN_PATH - (longest - directory.as_os_str().len())
            );
        }
        let made = !directory.exists();
        let make = |path: &Path, mode| DirBuilder::new().recursive(true).mode(mode).create(path);
        make(directory, 0o755)
            .and_then(|()| {
                // Workers of other users go through it, whatever the umask is.
                if made { fs::set_permissions(directory, fs::Permissions::from_mode(0o755)) } else { Ok(()) }
            })
            .with_context(|| format!("cannot make the runtime directory {}", directory.display()))?;
        let lock = lock(directory)?;
        // From here on the directory is ours, and leaving early cleans it up.
        let files = Self { paths: paths.clone(), made, _lock: lock };
        files
            .prepare()
            .with_context(|| format!("cannot prepare the runtime directory {}", directory.display()))?;
        Ok(files)
    }

    fn prepare(&self) -> io::Result<()> {
        self.sweep();
        let mut lock = &self._lock;
        lock.set_len(0)?;
        write!(lock, "{}", std::process::id())?;
        let notify = notify::directory(&self.paths.runtime_dir);
        DirBuilder::new().recursive(true).mode(0o711).create(&notify)?;
        fs::set_permissions(&notify, fs::Permissions::from_mode(0o711))
    }

    /// Listens on the control socket, for root only from its first moment.
    fn listen(&self) -> Result<UnixListener> {
        let path = self.paths.control();
        host::with_umask(0o177, || UnixListener::bind(&path))
            .with_context(|| format!("cannot make the control socket {}", path.display()))
    }

    /// Removes what this or an earlier daemon made; what is missing is no error.
    fn sweep(&self) {
        let _ = fs::remove_file(self.paths.control());
        let notify = notify::directory(&self.paths.runtime_dir);
        for entry in fs::read_dir(&notify).into_iter().flatten().flatten() {
            // Somebody may have put something else there.
            if entry.file_type().is_ok_and(|kind| kind.is_socket()) {
                let _ = fs::remove_file(entry.path());
            }
        }
        let _ = fs::remove_dir(notify);
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.sweep();
        let _ = fs::remove_file(self.paths.runtime_dir.join("daemon.lock"));
        if self.made {
            // Only if nobody else has put anything into it.
            let _ = fs::remove_dir(&self.paths.runtime_dir);
        }
    }
}
