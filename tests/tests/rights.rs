//! The daemon with no more rights than it needs, what workers get of them, and what it tells its
//! service manager.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::fs;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reuseport_lb::kernel::rights::NEEDED;
use rustix::thread::CapabilitySet;
use testkit::client::ask;
use testkit::config::Config;
use testkit::daemon::{Daemon, Paths, binary, executed, signal, until};
use testkit::rights::{ORDINARY, command, limit, needed};
use testkit::units;
use testkit::world::{World, repository};

/// A port that not everybody may listen on, workers of others, one of a command, one of the daemon's own.
fn services() -> Config {
    let service = |name: &str, port: u16| Config::service(name).listen(&format!("tcp://127.0.0.1:{port}"));
    let sleeper = |config: Config| config.workers(1).set("ready", "immediate").command(&["sleep", "1000"]);
    let web = service("web", 80).listen("udp://127.0.0.1:80").workers(2);
    web.set("user", "daemon")
        .set("when_busy", "next")
        .and(sleeper(service("other", 81).set("user", "nobody")))
        .and(sleeper(service("own", 82)))
}

/// The daemon of [`services`] as the user `uid`, with nothing but the rights that it needs.
fn limited(world: &World, uid: u32) -> Daemon {
    let file = services().write(world);
    Daemon::start_as(world, command(world, uid, needed(), &["run", "--config", &file.to_string_lossy()]))
}

/// A line of `/proc/PID/status`.
fn status(pid: i32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .unwrap()
        .trim_start_matches(':')
        .trim()
        .to_owned()
}

fn capabilities(pid: i32, set: &str) -> CapabilitySet {
    CapabilitySet::from_bits_retain(u64::from_str_radix(&status(pid, set), 16).unwrap())
}

fn workers(daemon: &Daemon, service: &str) -> Vec<i32> {
    let services = daemon.status().services;
    let service = services.iter().find(|one| one.name == service).unwrap();
    service.workers.iter().filter_map(|worker| worker.pid).collect()
}

/// What holds for root with these rights and for an ordinary user with them.
fn serves(uid: u32) {
    let world = World::new();
    let daemon = limited(&world, uid);
    assert_eq!(status(daemon.pid(), "Uid").split_whitespace().next(), Some(&*uid.to_string()));
    for set in ["CapEff", "CapPrm"] {
        assert_eq!(capabilities(daemon.pid(), set), needed(), "{set}");
    }
    ask("127.0.0.1:80".parse().unwrap()).unwrap();
    daemon.run(&["scale", "web", "4"]);
    daemon.run(&["scale", "web", "3"]);
    ask("127.0.0.1:80".parse().unwrap()).unwrap();

    ["other", "own"].iter().flat_map(|it| workers(&daemon, it)).for_each(executed);
    let web = workers(&daemon, "web");
    assert_eq!(web.len(), 3);
    let mut without_rights = [web, workers(&daemon, "other")].concat();
    if uid != 0 {
        without_rights.extend(workers(&daemon, "own"));
    }
    for pid in &without_rights {
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(capabilities(*pid, set), CapabilitySet::empty(), "{set} of a worker");
        }
    }
    let own = workers(&daemon, "own");
    assert_eq!(status(own[0], "Uid").split_whitespace().next(), Some(&*uid.to_string()));

    // The next daemon needs no more than that to take all of it over.
    let before = workers(&daemon, "web");
    daemon.kill();
    let daemon = limited(&world, uid);
    assert_eq!(workers(&daemon, "web"), before);
    daemon.run(&["restart", "web/0", "--trial", "10ms"]);
    ask("127.0.0.1:80".parse().unwrap()).unwrap();
    daemon.stop();
}

#[test]
fn root_with_only_what_is_needed_serves() {
    serves(0);
}

// vm: short
#[test]
fn an_ordinary_user_with_only_what_is_needed_serves() {
    serves(ORDINARY);
}

#[test]
fn root_gives_up_what_is_not_needed_and_its_workers_get_roots_rights_at_exec() {
    let world = World::new();
    let daemon = Daemon::with(&world, &services());
    for set in ["CapEff", "CapPrm"] {
        assert_eq!(capabilities(daemon.pid(), set), needed(), "{set}");
    }
    let bounding = capabilities(std::process::id().try_into().unwrap(), "CapBnd");
    assert_eq!(capabilities(daemon.pid(), "CapBnd"), bounding);
    let own = workers(&daemon, "own")[0];
    executed(own);
    assert_eq!(capabilities(own, "CapEff"), bounding);
    daemon.stop();
}

#[test]
fn each_missing_right_is_named() {
    for uid in [0, ORDINARY] {
        let world = World::new();
        for one in NEEDED {
            let output = command(&world, uid, needed() - one.capability, &["run"]).output().unwrap();
            let says = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{says}");
            for other in NEEDED {
                let named = says.contains(&format!("{} ({})", other.name, other.reason));
                assert_eq!(named, other.name == one.name, "without {}: {says}", one.name);
            }
        }
        assert_eq!(Paths::of(&world).leftovers(), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_place_that_only_its_owner_may_enter_is_refused_and_left_as_it_was() {
    let world = World::new();
    let private = world.path("private");
    fs::DirBuilder::new().mode(0o700).create(&private).unwrap();
    chown(&private, Some(ORDINARY), None).unwrap();
    let output = Command::new(binary())
        .args(["run", "--listen", "tcp://127.0.0.1:3000", "--runtime-dir"])
        .arg(private.join("run"))
        .arg("--bpffs")
        .arg(world.bpffs())
        // Embedded workers, of another user, would be the first whom it keeps out.
        .args(["--ready", "immediate", "--", "sleep", "1000"])
        .output()
        .unwrap();
    let says = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && says.contains("out of reach"), "{says}");
    assert!(says.contains("CAP_DAC_OVERRIDE"), "{says}");
    assert_eq!(fs::read_dir(private).unwrap().count(), 0);
    assert_eq!(Paths::of(&world).leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn without_the_right_to_mount_it_asks_for_a_bpf_file_system() {
    let world = World::new();
    let plain = world.path("plain");
    fs::create_dir(&plain).unwrap();
    let mut command = Command::new(binary());
    command.arg("run").arg("--runtime-dir").arg(world.path("run")).arg("--bpffs").arg(&plain);
    limit(&mut command, 0, needed());
    let output = command.output().unwrap();
    let says = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && says.contains("CAP_SYS_ADMIN"), "{says}");
    assert!(says.contains(&format!("mount -t bpf bpf {}", plain.display())), "{says}");
}

/// The socket at which a service manager listens.
struct Manager {
    path: PathBuf,
    socket: UnixDatagram,
}

impl Manager {
    fn new(world: &World) -> Self {
        let path = world.path("manager.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        Self { path, socket }
    }

    /// The next message, unless there is none within `patience`.
    fn hear(&self, patience: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(patience)).unwrap();
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).ok()?;
        Some(String::from_utf8_lossy(&message[..length]).into_owned())
    }

    /// The first message with this line.
    fn hear_of(&self, line: &str) -> String {
        until(line, || self.hear(Duration::from_secs(30)).filter(|said| said.lines().any(|one| one == line)))
    }
}

#[test]
fn the_service_manager_hears_when_all_is_up_that_it_lives_and_when_it_ends() {
    let world = World::new();
    let manager = Manager::new(&world);
    let fast = Config::service("fast").listen("tcp://127.0.0.1:3000").workers(1);
    let slow = Config::service("slow").listen("tcp://127.0.0.1:3001").workers(1).set("user", "nobody");
    let slow = slow.server(&world, "--answer never --load 300ms --ready notify");
    fast.and(slow).write(&world);
    let mut command = Paths::of(&world).run();
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "200000");
    let begun = Instant::now();
    let daemon = Daemon::start_as(&world, command);
    manager.hear_of("READY=1");
    assert!(begun.elapsed() >= Duration::from_millis(300));
    for worker in daemon.workers() {
        let environment = fs::read(format!("/proc/{worker}/environ")).unwrap();
        let environment = String::from_utf8_lossy(&environment);
        assert!(!environment.contains("manager.sock") && !environment.contains("WATCHDOG"), "{environment}");
    }

    let waits = Duration::from_secs(2);
    for _ in 0..5 {
        assert_eq!(manager.hear(waits).as_deref(), Some("WATCHDOG=1"));
    }
    // A daemon that hangs says nothing.
    signal(daemon.pid(), Signal::SIGSTOP);
    until("the daemon to stand still", || status(daemon.pid(), "State").starts_with('T').then_some(()));
    while manager.hear(Duration::from_millis(1)).is_some() {}
    assert_eq!(manager.hear(Duration::from_millis(500)), None);
    signal(daemon.pid(), Signal::SIGCONT);
    assert_eq!(manager.hear(waits).as_deref(), Some("WATCHDOG=1"));

    daemon.stop();
    manager.hear_of("STOPPING=1");
}

#[test]
fn pings_for_another_process_and_a_deaf_manager_do_no_harm() {
    let world = World::new();
    let manager = Manager::new(&world);
    let mut command = Paths::of(&world).command(&["run", "--listen", "tcp://127.0.0.1:3000"]);
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "2000").env("WATCHDOG_PID", "1");
    let daemon = Daemon::start_as(&world, command);
    manager.hear_of("READY=1");
    assert_eq!(manager.hear(Duration::from_millis(100)), None);
    daemon.stop();

    // Far more than its queue takes, and nobody reads.
    let mut command = Paths::of(&world).command(&["run", "--listen", "tcp://127.0.0.1:3000"]);
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "2000");
    let daemon = Daemon::start_as(&world, command);
    daemon.says("cannot tell the service manager");
    ask("127.0.0.1:3000".parse().unwrap()).unwrap();
    daemon.stop();
}

#[test]
fn a_manager_whose_socket_is_full_of_pings_hears_that_all_is_up_when_it_listens() {
    let world = World::new();
    let manager = Manager::new(&world);
    let arguments = ["run", "--listen", "tcp://127.0.0.1:3000", "--ready", "immediate", "--", "sleep", "100"];
    let mut command = Paths::of(&world).command(&arguments);
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "2000");
    let daemon = Daemon::start_as(&world, command);
    assert_eq!(daemon.log().matches("cannot tell the service manager").count(), 1, "{}", daemon.log());
    manager.hear_of("READY=1");
    daemon.stop();
}

#[test]
fn systemd_takes_the_units_as_they_are() {
    let world = World::new();
    units::verify(&world, &[]);
}

#[test]
fn unit_and_documentation_list_the_same_rights() {
    let text = |path: &str| fs::read_to_string(repository().join(path)).unwrap();
    let names: Vec<&str> = NEEDED.iter().map(|needed| needed.name).collect();
    let line = format!("\nCapabilityBoundingSet={}\n", names.join(" "));
    assert!(text("reuseport-lb/systemd/reuseport-lb.service").contains(&line), "{line}");
    let documentation = text("docs/SYSTEMD.md");
    for one in NEEDED {
        let line = format!("| `{}` | {} |", one.name, one.reason);
        assert!(documentation.contains(&line), "docs/SYSTEMD.md lacks the line {line}");
    }
}
