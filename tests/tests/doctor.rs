//! `doctor` in real situations: the line, the exit code, and nothing that stays.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::BTreeSet;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::CapabilitySet;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use testkit::config::Config;
use testkit::daemon::{Daemon, Paths, signal};
use testkit::rights::{ORDINARY, command, limit, needed};
use testkit::said::assert_said;
use testkit::world::{World, run};

fn web() -> Config {
    web_at("127.0.0.1:3000")
}

/// A service over TCP and UDP.
fn web_at(address: &str) -> Config {
    let [tcp, udp] = ["tcp", "udp"].map(|protocol| format!("{protocol}://{address}"));
    Config::service("web").listen(&tcp).listen(&udp)
}

/// What doctor found.
struct Found {
    code: Option<i32>,
    checks: Vec<Value>,
    said: String,
}

impl Found {
    fn of(output: &Output) -> Self {
        let said = String::from_utf8_lossy(&[&*output.stdout, &output.stderr].concat()).into_owned();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
        Self { code: output.status.code(), checks: report["checks"].as_array().unwrap().clone(), said }
    }

    /// Asserts that a line of this check has this verdict and says all of that, and that the exit code
    /// fits all lines.
    #[track_caller]
    fn says(&self, check: &str, verdict: &str, says: &[&str]) {
        let of = |one: &&Value| one["check"] == check && one["verdict"] == verdict;
        let fits = |one: &Value| says.iter().all(|says| one.to_string().contains(says));
        assert!(self.checks.iter().filter(of).any(fits), "no {check} {verdict} {says:?} in {}", self.said);
        let failed = self.checks.iter().any(|one| one["verdict"] == "failure");
        assert_eq!(self.code, Some(i32::from(failed)), "{}", self.said);
    }

    #[track_caller]
    fn is_fine(&self) {
        assert_eq!((self.code, self.complaints()), (Some(0), vec![]), "{}", self.said);
    }

    /// All lines that are not `ok`.
    fn complaints(&self) -> Vec<&Value> {
        self.checks.iter().filter(|one| one["verdict"] != "ok").collect()
    }
}

/// Asks about `config`, after `change` to the command line.
fn doctor_as(world: &World, config: &Config, change: impl FnOnce(&mut Command)) -> Found {
    let file = config.write(world);
    let mut command = Paths::of(world).command(&["doctor", "--json", "--config", &file.to_string_lossy()]);
    change(&mut command);
    Found::of(&command.output().unwrap())
}

/// Asks about `config` with another directory in place of one that the command line names.
fn doctor_at(world: &World, config: &Config, option: &str, directory: &Path) -> Found {
    doctor_as(world, config, |command| {
        command.arg(option).arg(directory);
    })
}

fn doctor(world: &World, config: &Config) -> Found {
    doctor_as(world, config, |_| ())
}

/// What is on the BPF file system; the kernel may put something there itself.
fn pins(world: &World) -> BTreeSet<PathBuf> {
    fs::read_dir(world.bpffs()).unwrap().map(|entry| entry.unwrap().path()).collect()
}

// vm: short
#[test]
fn where_nothing_is_wrong_it_says_so_and_leaves_nothing() {
    let world = World::new();
    let (before, there) = (run("cat", &["/proc/self/mounts"]), pins(&world));
    let found = doctor(&world, &web().workers(2));
    found.is_fine();
    for check in ["kernel", "rights", "bpffs", "program", "hand-over", "btf", "jit", "open-files", "memory"] {
        assert!(found.checks.iter().any(|one| one["check"] == check), "no {check} in {}", found.said);
    }
    found.says("program", "ok", &["udp over IPv4, affinity flow"]);
    found.says("hand-over", "ok", &["woke up"]);
    found.says("address", "ok", &["udp://127.0.0.1:3000"]);
    found.says("user", "ok", &["nobody"]);
    assert_eq!(Paths::of(&world).leftovers(), Vec::<PathBuf>::new());
    assert_eq!(pins(&world), there);
    assert_eq!(run("cat", &["/proc/self/mounts"]), before);

    // The demo, as a table.
    let output = Paths::of(&world).output(&["doctor"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && said.contains("ok       address        udp://[::1]:8080: free"),
        "{said}"
    );
    assert!(said.ends_with(", 0 failures\n"), "{said}");
}

#[test]
fn what_doctor_calls_fine_works() {
    let world = World::new();
    let config = web().workers(20);
    let found = doctor(&world, &config);
    assert_eq!(found.code, Some(0), "{}", found.said);
    let daemon = Daemon::with(&world, &config);
    let files = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    // As many as it was said, and not much less.
    let said = found.checks.iter().find(|one| one["check"] == "open-files").unwrap()["says"].to_string();
    let need: usize = said.split("about ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
    assert!(files <= need && files * 2 > need, "{files} of {said}");
    daemon.stop();
}

#[test]
fn missing_rights_are_named() {
    let world = World::new();
    let there = pins(&world);
    for uid in [0, ORDINARY] {
        let without = needed() - CapabilitySet::KILL;
        let found = Found::of(&command(&world, uid, without, &["doctor", "--json"]).output().unwrap());
        found.says("rights", "failure", &["CAP_KILL (ends workers", "refuses to start"]);
    }
    let none = command(&world, ORDINARY, CapabilitySet::empty(), &["doctor", "--json"]).output().unwrap();
    let found = Found::of(&none);
    found.says("rights", "failure", &["CAP_BPF", "sudo"]);
    found.says("program", "failure", &["not permitted", "CAP_BPF"]);
    found.says("user", "warning", &["nobody", "not known"]);
    // Not more than is needed, and nothing is left of what was tried on the daemon's own bpffs.
    let found = Found::of(&command(&world, ORDINARY, needed(), &["doctor", "--json"]).output().unwrap());
    assert_eq!(found.code, Some(0), "{}", found.said);
    found.says("hand-over", "ok", &["woke up"]);
    assert_eq!(Paths::of(&world).leftovers(), Vec::<PathBuf>::new());
    assert_eq!(pins(&world), there);
}

#[test]
fn a_port_that_others_have() {
    let world = World::new();
    let (tcp, udp) = (TcpListener::bind("127.0.0.1:3000").unwrap(), UdpSocket::bind("0.0.0.0:3000").unwrap());
    let found = doctor(&world, &web());
    for listener in ["tcp://127.0.0.1:3000", "udp://127.0.0.1:3000"] {
        found.says("address", "failure", &[listener, "without SO_REUSEPORT", "ss -ltunp sport = :3000"]);
    }
    drop((tcp, udp));

    let v6 = web_at("[::1]:3000");
    let elsewhere = UdpSocket::bind("[::]:3001").unwrap();
    assert_eq!(doctor(&world, &v6).code, Some(0));
    let there = (TcpListener::bind("[::1]:3000").unwrap(), UdpSocket::bind("[::1]:3000").unwrap());
    let found = doctor(&world, &v6);
    for listener in ["tcp://[::1]:3000", "udp://[::1]:3000"] {
        found.says("address", "failure", &[listener, "without SO_REUSEPORT"]);
    }
    drop((elsewhere, there));

    let absent = web_at("192.0.2.1:3000");
    for listener in ["tcp://192.0.2.1:3000", "udp://192.0.2.1:3000"] {
        doctor(&world, &absent).says("address", "failure", &[listener, "no interface"]);
    }
}

fn stranger(to: &str, kind: Type) -> Socket {
    let to: std::net::SocketAddr = to.parse().unwrap();
    let socket = Socket::new(Domain::for_address(to), kind, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&to.into()).unwrap();
    if kind == Type::STREAM {
        socket.listen(8).unwrap();
    }
    socket
}

#[test]
fn strangers_are_found_and_keep_what_they_get() {
    let world = World::new();
    let strangers = [stranger("127.0.0.1:3000", Type::STREAM), stranger("127.0.0.1:3000", Type::DGRAM)];
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    let received = |sent: usize| {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 8];
        (0..sent).filter(|_| strangers[1].recv(&mut buffer).is_ok()).count()
    };
    strangers[1].set_read_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
    // While it is asked again and again, every datagram arrives where it did before.
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| doctor(&world, &web()));
        let mut sent = 0;
        while !asking.is_finished() {
            client.send_to(b"?", "127.0.0.1:3000").unwrap();
            sent += 1;
            assert_eq!(received(1), 1, "datagram {sent}");
        }
        let found = asking.join().unwrap();
        for listener in ["tcp://127.0.0.1:3000", "udp://127.0.0.1:3000"] {
            found.says(
                "address",
                "warning",
                &[listener, "1 sockets of others are in its group", "get nothing"],
            );
        }
    });
}

#[test]
fn a_daemons_own_sockets_are_no_strangers() {
    let world = World::new();
    let daemon = Daemon::with(&world, &web().workers(2));
    let pid = daemon.pid();
    let found = doctor(&world, &web());
    found.says("daemon", "ok", &[&format!("process {pid} runs"), "web"]);
    found.is_fine();
    let more = stranger("127.0.0.1:3000", Type::STREAM);
    doctor(&world, &web()).says("address", "warning", &["1 sockets of others are in its group"]);
    drop(more);
    // Nor are those of workers that wait for the next daemon; that one finds everything.
    let workers = daemon.workers();
    daemon.kill();
    let found = doctor(&world, &web());
    found.says("daemon", "ok", &["left 1 services"]);
    found.is_fine();
    let daemon = Daemon::with(&world, &web().workers(2));
    assert_eq!(daemon.workers(), workers);
    daemon.stop();
}

#[test]
fn limits_that_are_too_low() {
    let world = World::new();
    let low = |command: &mut Command| limit_files(command, 200);
    let says = ["is 200", "100 workers and 2 listeners", "LimitNOFILE="];
    doctor_as(&world, &web().workers(100), low).says("open-files", "failure", &says);

    let somaxconn = Path::new("/proc/sys/net/core/somaxconn");
    fs::write(somaxconn, "128").unwrap();
    let found = doctor(&world, &web());
    found.says("backlog", "warning", &["web", "caps it at 128", "sysctl -w net.core.somaxconn=4096"]);
    assert_eq!((found.code, found.complaints().len()), (Some(0), 1), "{}", found.said);
    fs::write(somaxconn, "4096").unwrap();

    let listening = web_at("127.0.0.1:40000");
    doctor(&world, &listening).says("local-ports", "warning", &["ip_local_reserved_ports=40000"]);
    fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", "40000").unwrap();
    doctor(&world, &listening).is_fine();
}

#[expect(unsafe_code, reason = "a limit is set between fork and exec")]
fn limit_files(command: &mut Command, most: u64) {
    let limit = Rlimit { current: Some(most), maximum: Some(most) };
    // SAFETY: one system call.
    unsafe { command.pre_exec(move || Ok(setrlimit(Resource::Nofile, limit)?)) };
}

#[test]
fn without_a_bpf_file_system() {
    let world = World::new();
    let plain = world.path("plain");
    fs::create_dir(&plain).unwrap();
    let with = |bpffs: &Path| doctor_at(&world, &web(), "--bpffs", bpffs);
    let found = doctor_as(&world, &web(), |command| {
        command.arg("--bpffs").arg(&plain);
        limit(command, 0, needed());
    });
    found.says("bpffs", "failure", &["cannot mount one", &format!("mount -t bpf bpf {}", plain.display())]);
    found.says("program", "warning", &["not tried", "no BPF file system"]);
    let found = with(&plain);
    found.says("bpffs", "ok", &["`run` mounts one there"]);
    found.says("program", "ok", &["loads"]);
    assert!(!run("cat", &["/proc/self/mounts"]).contains("/plain"));
    with(&world.path(".")).says("bpffs", "failure", &["is not empty", "would be hidden", "--bpffs"]);
    with(&world.path("none")).says("bpffs", "failure", &["does not exist"]);
    with(&world.path("config.toml")).says("bpffs", "failure", &["no directory"]);
}

#[test]
fn the_kernels_type_information_is_not_needed() {
    let world = World::new();
    let nothing: Option<&str> = None;
    mount(Some("none"), "/sys/kernel/btf", Some("tmpfs"), MsFlags::empty(), nothing).unwrap();
    let found = doctor(&world, &web());
    found.says("btf", "ok", &["is not there", "nothing here depends on it"]);
    found.is_fine();
    Daemon::start(&world, &["--listen", "tcp://127.0.0.1:3000", "--workers", "1"]).stop();

    // But for one thing, which is refused with the reason.
    let busy = web().set("when_busy", "next");
    let found = doctor(&world, &busy);
    assert_eq!(found.code, Some(1), "{}", found.said);
    found.says("btf", "failure", &["is not there", "when_busy"]);
    found.says("program", "failure", &["cannot read /sys/kernel/btf/vmlinux", "leave `when_busy` and"]);
    let output = Paths::of(&world).run().output().unwrap();
    assert_said(&output, 1, &["cannot read /sys/kernel/btf/vmlinux"]);
    assert_eq!(Paths::of(&world).leftovers(), Vec::<PathBuf>::new());
}

// vm: short
#[test]
fn who_waits_for_work_is_tried_where_a_service_wants_to_know() {
    let world = World::new();
    let there = pins(&world);
    let found = doctor(&world, &web().set("when_busy", "next"));
    found.is_fine();
    found.says("waiting", "ok", &["told a worker that sleeps"]);
    found.says("program", "ok", &["tcp over IPv4, affinity flow, when_busy next"]);
    assert_eq!(pins(&world), there);
}

#[test]
fn a_directory_above_that_is_closed_to_workers() {
    let world = World::new();
    let private = world.path("private");
    fs::DirBuilder::new().mode(0o700).create(&private).unwrap();
    let inside = private.join("run");
    let found = doctor_at(&world, &web(), "--runtime-dir", &inside);
    // A service without workers: those that join.
    assert_eq!(found.code, Some(0), "{}", found.said);
    let demo = |mode| {
        fs::set_permissions(&private, fs::Permissions::from_mode(mode)).unwrap();
        doctor_at(&world, &web().workers(1), "--runtime-dir", &inside)
    };
    let says = ["nobody cannot go through", "/private: Permission denied", "cannot say READY=1", "chmod o+x"];
    demo(0o700).says("user", "failure", &says);
    assert_eq!(demo(0o711).code, Some(0));

    // A start fails as doctor said.
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    let mut start = Paths::of(&world).command(&["run", "--listen", "tcp://127.0.0.1:3000", "--workers", "1"]);
    let output = start.arg("--runtime-dir").arg(&inside).output().unwrap();
    assert_said(&output, 1, &["cannot say READY=1 to the daemon: Permission denied"]);
}

#[test]
fn a_runtime_directory_that_does_not_do() {
    let world = World::new();
    let at = |directory: &Path| doctor_at(&world, &web(), "--runtime-dir", directory);
    let open = world.path("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    at(&open).says("runtime-dir", "failure", &["others than its user may write", "chmod go-w"]);
    let long = world.path(&"x".repeat(90));
    at(&long).says("runtime-dir", "failure", &["too long", "at most"]);
    assert!(!long.exists());
    let theirs = world.path("theirs");
    fs::DirBuilder::new().mode(0o700).create(&theirs).unwrap();
    std::os::unix::fs::chown(&theirs, Some(ORDINARY), None).unwrap();
    at(&theirs.join("run")).says("runtime-dir", "failure", &["/theirs is closed to the daemon"]);
    at(&theirs).says("runtime-dir", "failure", &["belongs to user 12345"]);
}

#[test]
fn commands_and_users() {
    let world = World::new();
    let of = |command: &[&str]| doctor(&world, &web().command(command));
    of(&["no-such-command"]).says("command", "failure", &["web", "no-such-command", "PATH"]);
    let root = of(&["sleep", "1"]);
    root.says("user", "warning", &["run as root", "set `user`"]);
    root.says("command", "ok", &["/sleep"]);
    let hidden = world.path("hidden");
    fs::DirBuilder::new().mode(0o700).create(&hidden).unwrap();
    let server = world.program(Path::new("/bin/sleep"), "hidden/server").display().to_string();
    let of_nobody = |command: &str| doctor(&world, &web().command(&[command]).set("user", "nobody"));
    of_nobody(&server).says("command", "failure", &["nobody may not execute", "Permission denied"]);
    of_nobody("sleep").says("command", "ok", &["/sleep"]);
}

#[test]
fn a_daemon_that_does_not_answer_is_not_mistaken_for_strangers() {
    let world = World::new();
    let daemon = Daemon::with(&world, &web().workers(1));
    signal(daemon.pid(), Signal::SIGSTOP);
    let found = doctor(&world, &web());
    signal(daemon.pid(), Signal::SIGCONT);
    found.says("daemon", "warning", &["does not answer", "hangs"]);
    found.says("address", "warning", &["1 sockets are there", "a daemon that does not tell"]);
    daemon.stop();
}
