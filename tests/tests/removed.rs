//! Somebody removes what is in the runtime directory while the daemon and its workers run: it is there again, nobody is
//! killed, and there are never two daemons.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use reuseport_lb_client::api::ServiceStatus;
use testkit::client::ask;
use testkit::config::Config;
use testkit::daemon::{Daemon, Paths, binary, settled, signal, until};
use testkit::guests::Guests;
use testkit::said::assert_said;
use testkit::server::words;
use testkit::world::World;

fn pids(service: &ServiceStatus) -> Vec<Option<i32>> {
    service.workers.iter().map(|worker| worker.pid).collect()
}

/// What is in a directory and below it, with owner and mode.
fn all(directory: &Path) -> Vec<(PathBuf, u32, u32)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(about) = entry.metadata() else { continue };
        found.push((entry.path(), about.uid(), about.mode()));
        if about.is_dir() {
            found.extend(all(&entry.path()));
        }
    }
    found.sort();
    found
}

fn remove(path: &Path) {
    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
}

/// Another daemon with the same runtime directory, which must find this one.
#[track_caller]
fn assert_refused(daemon: &Daemon, world: &World) {
    let config = world.path("config.toml");
    // One that is let in would run on.
    let mut command = Command::new("timeout");
    command
        .arg("30")
        .arg(binary())
        .arg("--runtime-dir")
        .arg(world.path("run"))
        .arg("--bpffs")
        .arg(world.bpffs());
    let output = command.args(["run", "--config"]).arg(config).output().unwrap();
    let by =
        format!("another reuseport-lb (process {}) runs in {}", daemon.pid(), world.path("run").display());
    assert_said(&output, 1, &[&by]);
}

#[test]
fn whatever_is_removed_is_there_again_and_nobody_notices() {
    let world = World::new();
    let config = Config::web().workers(2).set("watchdog", "600ms").set("user", "nobody");
    let daemon = Daemon::with(&world, &config);
    let run = world.path("run");
    // One that joined has such a socket as well.
    let words = words(&world, "--ready notify --ping 100ms");
    let guest = Guests::new(&world).exec(&["web"], &words);
    let before = until("all to be ready", || {
        let service = daemon.service();
        (service.workers.len() == 3 && settled(&service)).then_some(service)
    });
    let there = all(&run);
    assert_eq!(there.len(), 10, "{there:?}");
    let sockets = there.iter().filter(|(path, ..)| path.parent() == Some(&run.join("notify")));
    assert_eq!(sockets.filter(|(_, uid, mode)| (*uid, *mode) == (65534, 0o140_600)).count(), 3, "{there:?}");
    let each = there.iter().map(|(path, ..)| path).chain([&run]);
    for path in each {
        remove(path);
        assert_refused(&daemon, &world);
        until("it to be there again", || (all(&run) == there).then_some(()));
        assert_eq!(fs::metadata(&run).unwrap().mode() & 0o7777, 0o755);
        assert_refused(&daemon, &world);
        let service = daemon.service();
        assert_eq!(pids(&service), pids(&before), "{path:?}: {}", daemon.log());
        assert!(settled(&service) && service.unsaved.is_none(), "{path:?}: {service:?}");
        assert!(ask("127.0.0.1:3000".parse().unwrap()).is_ok());
    }
    let log = daemon.log();
    for says in
        ["state was removed, and is", "daemon.lock was removed, and is", "control.sock was removed, and is"]
    {
        assert!(log.contains(says), "{says}: {log}");
    }
    for says in ["its notification socket was removed, and is", "its state was removed, and is written"] {
        assert!(log.contains(says), "{says}: {log}");
    }
    assert!(!log.contains("no WATCHDOG=1") && !log.contains("cannot be made again"), "{log}");
    // A worker that hangs is still found, and started again.
    let victim = before.workers[0].pid.unwrap();
    remove(&run.join("notify"));
    signal(victim, Signal::SIGSTOP);
    let after = daemon.settled_without(victim);
    daemon.says("no WATCHDOG=1");
    until("it to be saved", || (all(&run).len() == there.len()).then_some(()));
    daemon.kill();
    let daemon = Daemon::with(&world, &config);
    assert_eq!(pids(&daemon.service()), pids(&after));
    drop(guest);
    daemon.stop();
}

#[test]
fn what_was_said_before_is_heard_and_who_has_connected_goes_on() {
    let world = World::new();
    let deaf = world.path("deaf");
    let connected = format!("--ready notify --ping 100ms --connected {}", deaf.display());
    let web = Config::web().workers(1).set("ready", "notify").set("watchdog", "500ms");
    // The second one says READY=1 when it is to, and never waits for work: nothing but the word makes it ready.
    let (go, said) = (world.path("go"), world.path("go-said"));
    let silent = format!("--answer never --gate {} --ready notify --said {}", go.display(), said.display());
    let late = Config::service("late").listen("tcp://127.0.0.1:3001").workers(1);
    let late = late.set("ready", "notify").set("stall_timeout", "off").server(&world, &silent);
    web.server(&world, &connected).and(late).write(&world);
    let command = Paths::of(&world).run();
    let daemon = Daemon::start_until(&world, command, |service| service.name == "late" || settled(service));
    let before = daemon.status();
    signal(daemon.pid(), Signal::SIGSTOP);
    fs::write(&go, "").unwrap();
    until("it to be said", || said.exists().then_some(()));
    fs::remove_dir_all(world.path("run/notify")).unwrap();
    signal(daemon.pid(), Signal::SIGCONT);
    until("it to be heard", || settled(&daemon.status().services[1]).then_some(()));
    until("the sockets to be there again", || {
        (daemon.log().matches("its notification socket was removed, and is there again").count() == 2)
            .then_some(())
    });
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        let now = daemon.status();
        assert_eq!(pids(&now.services[0]), pids(&before.services[0]), "{}", daemon.log());
        assert_eq!(pids(&now.services[1]), pids(&before.services[1]), "{}", daemon.log());
    }
    assert!(!deaf.exists(), "{:?}", fs::read_to_string(&deaf));
    daemon.stop();
}

#[test]
fn who_says_ready_while_nobody_can_hear_it_is_seen_to_wait_for_work() {
    let world = World::new();
    let (go, unheard) = (world.path("go"), world.path("go-unheard"));
    let flags = format!("--gate {} --ready notify --unheard {}", go.display(), unheard.display());
    Config::web().workers(1).set("ready", "notify").server(&world, &flags).write(&world);
    let command = Paths::of(&world).run();
    let daemon = Daemon::start_until(&world, command, |service| service.workers[0].pid.is_some());
    testkit::daemon::executed(daemon.workers()[0]);
    // So that the daemon cannot make it again before it is needed.
    signal(daemon.pid(), Signal::SIGSTOP);
    fs::remove_dir_all(world.path("run/notify")).unwrap();
    fs::write(&go, "").unwrap();
    until("it to be unheard", || unheard.exists().then_some(()));
    signal(daemon.pid(), Signal::SIGCONT);
    let service = until("it to be ready", || Some(daemon.service()).filter(settled));
    assert_eq!(service.workers[0].restarts, 0);
    assert!(ask("127.0.0.1:3000".parse().unwrap()).is_ok());
    daemon.stop();
}

#[test]
fn what_is_removed_all_at_once_is_made_again() {
    let world = World::new();
    let config = Config::web().workers(2);
    let daemon = Daemon::with(&world, &config);
    let run = world.path("run");
    for name in ["notify", "state"] {
        fs::remove_dir_all(run.join(name)).unwrap();
    }
    let before = daemon.service();
    for name in ["control.sock", "join.sock"] {
        fs::remove_file(run.join(name)).unwrap();
    }
    until("the sockets to be there again", || {
        run.join("join.sock").exists().then(|| daemon.paths().status()).flatten()
    });
    let victim = before.workers[0].pid.unwrap();
    signal(victim, Signal::SIGKILL);
    let after = daemon.settled_without(victim);
    until("the state to be written", || state_files(&world).iter().all(|file| file.exists()).then_some(()));
    daemon.kill();
    let daemon = Daemon::with(&world, &config);
    assert_eq!(pids(&daemon.service()), pids(&after));
    assert!(ask("127.0.0.1:3000".parse().unwrap()).is_ok());
    daemon.stop();
}

fn state_files(world: &World) -> [PathBuf; 2] {
    ["state", "copy"].map(|kind| world.path("run").join(format!("state/web.{kind}")))
}

/// Mounts a file system of this size at `place`, or changes the size of the one that is there.
fn resize(place: &Path, size: &str, flags: MsFlags) {
    let options = format!("size={size},mode=700");
    mount(Some("tmpfs"), place, Some("tmpfs"), flags, Some(&*options)).unwrap();
}

#[test]
fn a_state_that_could_not_be_written_is_written_when_there_is_room() {
    let world = World::new();
    let config = Config::web().workers(2);
    let daemon = Daemon::with(&world, &config);
    // A file system that is full before anything is in it.
    let place = world.path("run").join("state");
    resize(&place, "4k", MsFlags::empty());
    fs::write(place.join("filler"), vec![0; 4096]).unwrap();
    daemon.run(&["scale", "web", "3"]);
    let said = until("status to say it", || daemon.service().unsaved);
    assert!(said.contains("No space left on device"), "{said}");
    assert!(daemon.run(&["status"]).contains("not saved: "));
    fs::remove_file(place.join("filler")).unwrap();
    resize(&place, "4m", MsFlags::MS_REMOUNT);
    until("it to be written", || daemon.service().unsaved.is_none().then_some(()));
    assert!(state_files(&world).iter().all(|file| file.exists()));
    let before = daemon.service();
    daemon.kill();
    let daemon = Daemon::with(&world, &config);
    assert_eq!(pids(&daemon.service()), pids(&before));
    let _ = nix::mount::umount2(&place, nix::mount::MntFlags::MNT_DETACH);
    daemon.stop();
}

#[test]
fn a_runtime_directory_that_is_moved_away_is_not_free() {
    let world = World::new();
    let daemon = Daemon::with(&world, &Config::web().workers(2));
    let (run, away) = (world.path("run"), world.path("away"));
    let before = daemon.service();
    fs::rename(&run, &away).unwrap();
    assert_refused(&daemon, &world);
    let there = all(&away).len();
    until("all to be there again", || (all(&run).len() == there).then_some(()));
    assert_refused(&daemon, &world);
    assert_eq!(pids(&daemon.service()), pids(&before));
    // Back, as from a copy: nobody listens at those sockets any more.
    fs::remove_dir_all(&run).unwrap();
    fs::rename(&away, &run).unwrap();
    until("the daemon to be heard again", || daemon.paths().status().map(|_| ()));
    assert_refused(&daemon, &world);
    daemon.kill();
    let daemon = Daemon::with(&world, &Config::web().workers(2));
    assert_eq!(pids(&daemon.service()), pids(&before));
    daemon.stop();
}

#[test]
fn a_file_system_that_goes_with_the_daemon_goes_though_the_note_was_removed() {
    let world = World::new();
    let own = world.path("own");
    fs::create_dir(&own).unwrap();
    let config = Config::web().workers(1).write(&world);
    let arguments = ["run", "--config", &*config.to_string_lossy(), "--bpffs", &*own.to_string_lossy()];
    let mut command = std::process::Command::new(testkit::daemon::binary());
    command.arg("--runtime-dir").arg(world.path("run")).args(arguments);
    let daemon = Daemon::start_as(&world, command);
    let mounted =
        || fs::read_to_string("/proc/thread-self/mountinfo").unwrap().contains(&*own.to_string_lossy());
    assert!(mounted());
    fs::remove_dir_all(world.path("run")).unwrap();
    until("the note to be there again", || world.path("run/bpffs-mounted").exists().then_some(()));
    daemon.stop();
    assert!(!mounted());
}
