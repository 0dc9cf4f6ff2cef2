//! What a worker is born with: nothing of the daemon's but what it needs. Its session, signals,
//! descriptors, environment, and the lock that nobody else can hold.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]
#![expect(unsafe_code, reason = "terminals, and what a starter does before it starts something")]

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use testkit::config::Config;
use testkit::daemon::{Daemon, Paths, executed, is_alive, settled, signal, state, until};
use testkit::world::World;

/// Two workers of nobody that only sleep.
fn sleepers() -> Config {
    let config = Config::web().workers(2).set("user", "nobody").set("ready", "immediate");
    config.command(&["sleep", "1000"])
}

/// A field of `/proc/PID/status`.
fn status(pid: i32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap().trim().to_owned()
}

/// The session of a process.
fn session(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.split(' ').nth(3).unwrap().parse().unwrap()
}

/// Makes what `command` starts do `act` first.
fn before(command: &mut Command, act: impl Fn() -> io::Result<()> + Send + Sync + 'static) {
    // SAFETY: the callers' acts are single system calls, which are async-signal-safe.
    unsafe { command.pre_exec(act) };
}

/// A terminal: our end and the programs'.
fn terminal() -> (File, OwnedFd) {
    let (mut ours, mut theirs) = (0, 0);
    let nothing = std::ptr::null_mut();
    // SAFETY: the two numbers outlive the call; nothing else is wanted.
    let made =
        unsafe { libc::openpty(&raw mut ours, &raw mut theirs, nothing, nothing.cast(), nothing.cast()) };
    assert_eq!(made, 0, "{}", io::Error::last_os_error());
    // SAFETY: both were just opened, for us alone.
    unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) }
}

/// The daemon as in a shell's terminal, which is `theirs`.
fn start_in_terminal(world: &World, theirs: &OwnedFd, config: &Config) -> Child {
    config.write(world);
    let mut command = Paths::of(world).run();
    let share = || Stdio::from(theirs.try_clone().unwrap());
    command.stdin(share()).stdout(share()).stderr(share());
    before(&mut command, || {
        nix::unistd::setsid()?;
        // SAFETY: makes the terminal at descriptor 0 this session's; takes no pointer.
        if unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    });
    let daemon = command.spawn().unwrap();
    until("the workers to serve", || {
        let status = Paths::of(world).status()?;
        status.services.iter().all(settled).then_some(())
    });
    daemon
}

#[test]
fn a_worker_has_no_part_in_the_daemons_terminal() {
    let world = World::new();
    let said = world.path("said");
    fs::create_dir(&said).unwrap();
    fs::set_permissions(&said, fs::Permissions::from_mode(0o777)).unwrap();
    let config = Config::web().workers(1).set("user", "nobody").set("ready", "immediate");
    let configuration = config.server(&world, &format!("--intrude {}", said.display()));
    let (mut ours, theirs) = terminal();
    // Whoever reads fast finds something to read.
    nix::unistd::write(&ours, b"secret\n").unwrap();
    let mut daemon = start_in_terminal(&world, &theirs, &configuration);
    let words = until("the worker to have tried", || fs::read_to_string(said.join("words")).ok());
    // No such terminal; its output is none; open for writing only, twice; not its file.
    assert_eq!(words, "ENXIO ENOTTY EBADF EBADF EACCES");
    signal(daemon.id() as i32, Signal::SIGTERM);
    until("the daemon to end", || daemon.try_wait().unwrap());
    let mut log = [0; 64];
    assert!(ours.read(&mut log).unwrap() > 0, "the daemon still writes to its terminal");
}

#[test]
fn a_worker_leads_a_session_and_stopped_ones_survive_the_end_of_the_daemon() {
    let world = World::new();
    let (_ours, theirs) = terminal();
    let mut daemon = start_in_terminal(&world, &theirs, &sleepers());
    let status = Paths::of(&world).status().unwrap();
    let workers: Vec<i32> = status.services[0].workers.iter().filter_map(|worker| worker.pid).collect();
    for pid in &workers {
        assert_eq!(session(*pid), *pid);
        signal(*pid, Signal::SIGSTOP);
    }
    // The kernel sends SIGHUP and SIGCONT to a group with stopped processes that becomes an orphan.
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    drop(theirs);
    let next = Daemon::with(&world, &sleepers());
    for pid in &workers {
        assert_eq!(state(*pid), Some('T'));
        signal(*pid, Signal::SIGCONT);
    }
    assert_eq!(next.workers(), workers);
    next.stop();
}

#[test]
fn signals_that_the_starter_blocked_or_ignored_still_end_daemon_and_workers() {
    let world = World::new();
    sleepers().write(&world);
    let mut command = Paths::of(&world).run();
    before(&mut command, || {
        let mut blocked = nix::sys::signal::SigSet::all();
        blocked.thread_set_mask()?;
        blocked.clear();
        for ignored in
            [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGQUIT, libc::SIGCHLD]
        {
            // SAFETY: no handler is installed.
            unsafe { libc::signal(ignored, libc::SIG_IGN) };
        }
        Ok(())
    });
    let daemon = Daemon::start_as(&world, command);
    for pid in daemon.workers() {
        executed(pid);
        for field in ["SigBlk", "SigIgn"] {
            // 32 and 33 are the C library's own.
            let signals = u64::from_str_radix(&status(pid, field), 16).unwrap() & !(0b11 << 31);
            assert_eq!(signals, 0, "{field}");
        }
    }
    let first = daemon.workers()[0];
    daemon.run(&["drain", "web/0"]);
    assert!(!is_alive(first));
    assert!(!daemon.log().contains("SIGKILL"), "{}", daemon.log());
    daemon.stop();
}

#[test]
fn an_embedded_worker_has_neither_descriptors_nor_secrets_of_the_daemon() {
    let world = World::new();
    let secret = world.file("secret", "of root");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let open = File::open(&secret).unwrap();
    let number = open.as_raw_fd();
    let mut command =
        Paths::of(&world).command(&["run", "--listen", "tcp://127.0.0.1:3000", "--workers", "1"]);
    before(&mut command, move || {
        // SAFETY: duplicates a descriptor to numbers that nobody uses; takes no pointer.
        if unsafe { libc::dup2(number, 77) } == 77 { Ok(()) } else { Err(io::Error::last_os_error()) }
    });
    let words = [
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
        "CREDENTIALS_DIRECTORY",
        "RUNTIME_DIRECTORY",
        "SYSTEMD_EXEC_PID",
        "MEMORY_PRESSURE_WATCH",
    ];
    command.envs(words.map(|word| (word, "the daemon's")));
    command.env("JOURNAL_STREAM", "8:1").env("STATE_DIRECTORY", "/var/lib/web");
    let daemon = Daemon::start_as(&world, command);
    let held = |pid: i32| -> Vec<String> {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let links = fds.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
        links.map(|link| link.to_string_lossy().into_owned()).collect()
    };
    let secret = secret.to_string_lossy().into_owned();
    assert!(held(daemon.pid()).contains(&secret), "the daemon has it");
    let worker = daemon.workers()[0];
    assert!(!held(worker).contains(&secret), "{:?}", held(worker));
    let environment = fs::read(format!("/proc/{worker}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(!environment.contains("the daemon's"), "{environment}");
    // Its output is not the journal's stream.
    assert!(!environment.contains("JOURNAL_STREAM") && environment.contains("STATE_DIRECTORY="));
    daemon.stop();
}

/// Mode of a file.
fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// `flock` as nobody on `path`, held until it is dropped; fails if nobody may not even open it.
fn lock_as_nobody(path: &Path) -> io::Result<Child> {
    let mut command = Command::new("flock");
    // As one process: a child of it would outlive the test.
    command.arg("--no-fork").arg(path).args(["sh", "-c", "echo locked; exec sleep 1000"]);
    command.stdout(Stdio::piped()).stderr(Stdio::null()).uid(65534).gid(65534);
    let mut child = command.spawn()?;
    let mut word = [0; 6];
    let got = child.stdout.as_mut().unwrap().read_exact(&mut word);
    if got.is_err() {
        child.wait()?;
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(child)
}

#[test]
fn nobody_else_can_keep_a_daemon_from_starting_by_its_lock() {
    let world = World::new();
    let daemon = Daemon::with(&world, &sleepers());
    let lock = world.path("run/daemon.lock");
    // Everything there, and who may do what with it.
    for (name, expected) in [
        ("daemon.lock", 0o600),
        ("control.sock", 0o600),
        ("join.sock", 0o666),
        ("notify", 0o711),
        ("state", 0o700),
        ("", 0o755),
    ] {
        assert_eq!(mode(&world.path("run").join(name)), expected, "{name}");
    }
    for directory in ["run/notify", "run/state"] {
        for entry in fs::read_dir(world.path(directory)).unwrap() {
            assert_eq!(mode(&entry.unwrap().path()), 0o600);
        }
    }
    daemon.kill();
    assert!(lock_as_nobody(&lock).is_err());
    // As an earlier version left it.
    fs::set_permissions(&lock, fs::Permissions::from_mode(0o644)).unwrap();
    let daemon = Daemon::with(&world, &sleepers());
    assert_eq!(mode(&lock), 0o600);
    daemon.kill();
    // As an earlier version left it, and locked by another process.
    fs::set_permissions(&lock, fs::Permissions::from_mode(0o644)).unwrap();
    let mut stranger = lock_as_nobody(&lock).unwrap();
    let daemon = Daemon::with(&world, &sleepers());
    daemon.says("another user's process has locked");
    assert_eq!(mode(&lock), 0o600);
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    // A daemon's own lock still keeps others out.
    let second = daemon.paths().output(&["run", "--listen", "tcp://127.0.0.1:3001"]);
    let says = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(says.contains(&format!("another reuseport-lb (process {}) runs", daemon.pid())), "{says}");
    daemon.stop();
}

#[test]
fn a_notification_socket_has_a_path_that_cannot_be_guessed() {
    let world = World::new();
    let daemon = Daemon::with(&world, &sleepers());
    let entries = fs::read_dir(world.path("run/notify")).unwrap();
    let names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names.len(), 2);
    let random = |name: &str| name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(names.iter().all(|name| random(name)) && names[0] != names[1], "{names:?}");
    daemon.stop();
}

#[test]
fn control_characters_of_a_command_do_not_reach_the_terminal() {
    let world = World::new();
    let paths = Paths::of(&world);
    let arguments = ["run", "--listen", "tcp://127.0.0.1:3000", "--", "no\u{1b}[2Jsuch\u{7}program"];
    let output = paths.output(&arguments);
    let says = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(says.contains("no\\u{1b}[2Jsuch\\u{7}program"), "{says}");
    assert!(!says.chars().any(|c| c.is_control() && c != '\n'), "{says:?}");
}
