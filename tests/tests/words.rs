//! What people write by mistake on the command line, and around it: each is told what was wrong and what to
//! write, before anything is started.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use testkit::client::ask;
use testkit::config::Config;
use testkit::daemon::{Daemon, Paths, is_alive, signal, until};
use testkit::said::{assert_said, said};
use testkit::world::World;

const LISTEN: [&str; 2] = ["--listen", "tcp://127.0.0.1:3000"];

#[test]
fn a_sign_scales_from_what_is_wanted() {
    let world = World::new();
    let daemon = Daemon::start(&world, &[&LISTEN[..], &["--workers", "2"]].concat());
    let wanted = || daemon.service().wanted;
    assert!(daemon.run(&["scale", "demo", "+1"]).contains("2 → 3 workers"));
    assert!(daemon.run(&["scale", "demo", "-2"]).contains("3 → 1 workers"));
    assert!(daemon.run(&["scale", "demo", "+0"]).contains("1 → 1 workers"));
    assert!(daemon.run(&["scale", "demo", "2"]).contains("1 → 2 workers"));
    let refused = |by: &str, code, says: &[&str]| {
        assert_said(&daemon.paths().output(&["scale", "demo", by]), code, says);
        assert_eq!(wanted(), 2, "{by}");
    };
    refused("-3", 1, &["demo wants 2 workers", "cannot have 3 fewer"]);
    refused("+1023", 1, &["1025 workers are too many", "at most 1024"]);
    for by in ["++1", "+", "-", "1.5", "many", ""] {
        refused(by, 2, &["like +1 or -1", "from 0 to 1024"]);
    }
    // Many at once: each counts once.
    let paths = daemon.paths().clone();
    std::thread::scope(|scope| {
        for by in ["+1", "+1", "+2", "-1", "+1", "-1"] {
            let paths = &paths;
            scope.spawn(move || {
                assert_said(&paths.output(&["scale", "demo", by, "--no-wait"]), 0, &["begun"])
            });
        }
    });
    assert_eq!(wanted(), 5);
    daemon.stop();
}

#[test]
fn names_of_the_wrong_kind_are_told_the_right_one() {
    let world = World::new();
    let daemon = Daemon::start(&world, &[&LISTEN[..], &["--workers", "2"]].concat());
    let paths = daemon.paths();
    let one = daemon.run(&["status", "demo/1"]);
    assert!(one.contains(" demo/1 ") && !one.contains(" demo/0 "), "{one}");
    assert!(one.contains("2 of 2 workers ready"), "of the service: {one}");
    let json: serde_json::Value = serde_json::from_str(&daemon.run(&["status", "demo/1", "--json"])).unwrap();
    assert_eq!(json["services"][0]["workers"].as_array().unwrap().len(), 1);
    for (line, code, says) in [
        (&["status", "demo/9"][..], 1, &["no worker demo/9", "demo/0, demo/1"][..]),
        (&["status", "web/0"], 1, &["no service \"web\"", "there is demo"]),
        (&["status", "demo/x"], 2, &["\"demo/x\" is not a name"]),
        (&["status", "a b"], 2, &["\"a b\" is not a name"]),
        (&["status", "demo?x"], 2, &["\"demo?x\" is not a name"]),
        (&["status", ""], 2, &["\"\" is not a name"]),
        (&["drain", "demo"], 2, &["\"demo\" is not a worker", "perhaps a service", "like web/2"]),
        (&["drain", "demo/"], 2, &["\"demo/\" is not a worker", "like web/2"]),
        (&["weight", "demo", "1"], 2, &["\"demo\" is not a worker", "perhaps a service", "like web/2"]),
        (&["restart", "demo/9"], 1, &["no worker demo/9"]),
        (&["trace", "demo/0"], 2, &["\"demo/0\" is a worker", "write `trace demo`"]),
        (&["scale", "demo/0", "2"], 2, &["\"demo/0\" is a worker", "write `scale demo`"]),
        (&["exec", "demo/3", "--", "true"], 2, &["\"demo/3\" is a worker", "write `exec demo --name 3`"]),
    ] {
        let output = paths.output(line);
        assert_said(&output, code, says);
        assert!(!said(&output).contains("/v1/"), "{line:?}: {}", said(&output));
    }
    assert_eq!(daemon.service().workers.len(), 2);
    daemon.stop();
}

#[test]
fn a_word_that_is_no_command_ends_nothing() {
    let world = World::new();
    let paths = Paths::of(&world);
    for word in ["stpo", "metrics"] {
        let output = paths.output(&[word]);
        assert_said(&output, 2, &["unrecognized subcommand", "reuseport-lb --help"]);
        assert!(!said(&output).contains("stop"), "{}", said(&output));
    }
    assert_said(&paths.output(&["statsu"]), 2, &["did you mean `status`?"]);
    for help in ["reload", "run", "stop", "exec"] {
        let text = said(&paths.output(&[help, "--help"]));
        for wide in ["pidof", "pkill", "killall"] {
            assert!(!text.contains(wide), "{help}: {text}");
        }
    }
    assert_said(&paths.output(&["reload", "--help"]), 0, &["systemctl reload", "head -n1", "daemon.lock"]);
}

#[test]
fn the_lock_names_whom_a_hangup_is_for_and_embedded_workers_ignore_it() {
    let world = World::new();
    let daemon = Daemon::with(&world, &Config::web().workers(2));
    let before = daemon.workers();
    before.iter().for_each(|pid| signal(*pid, Signal::SIGHUP));
    Config::web().workers(3).write(&world);
    let lock = fs::read_to_string(world.path("run/daemon.lock")).unwrap();
    signal(lock.lines().next().unwrap().parse().unwrap(), Signal::SIGHUP);
    until("the reload", || (daemon.workers().len() == 3).then_some(()));
    assert!(before.iter().all(|pid| is_alive(*pid) && daemon.workers().contains(pid)));
    assert!(daemon.service().workers.iter().all(|worker| worker.restarts == 0));
    daemon.stop();
}

#[test]
fn a_command_that_goes_to_the_background_is_told_to_stay() {
    let world = World::new();
    let left = world.path("left");
    // It keeps the sockets, in a session of its own, as servers do that go to the background.
    let server = format!("setsid sleep 1000 & echo $! >> {}; exit 0", left.display());
    let command = [&LISTEN[..], &["--workers", "1", "--", "sh", "-c", &server]].concat();
    let output = Paths::of(&world).output(&[&["run"], &command[..]].concat());
    // It may have been started again before the daemon gave up.
    let left = fs::read_to_string(&left).unwrap();
    left.lines().for_each(|pid| signal(pid.parse().unwrap(), Signal::SIGKILL));
    assert_ne!(left, "");
    assert_said(
        &output,
        1,
        &["exited with status 0", "keep it in the foreground", "daemon off", "haproxy -db"],
    );
    assert_eq!(Paths::of(&world).leftovers(), Vec::<PathBuf>::new());

    // Later it is a crash, and the log says it.
    let marker = world.path("again");
    let server = format!("test -e {} && exit 0; exec sleep 1000", marker.display());
    let more = ["--workers", "1", "--ready", "immediate", "--", "sh", "-c", &server];
    let daemon = Daemon::start(&world, &[&LISTEN[..], &more].concat());
    daemon.says("demo is up");
    fs::write(&marker, "").unwrap();
    daemon.workers().iter().for_each(|pid| signal(*pid, Signal::SIGKILL));
    daemon.says("keep it in the foreground");
    daemon.stop();
}

#[test]
fn an_address_below_all_addresses_is_said_aloud() {
    let world = World::new();
    let service = |name: &str, to: &str| Config::service(name).listen(to).workers(1);
    let config = service("all", "tcp://0.0.0.0:3000").and(service("one", "tcp://127.0.0.1:3000"));
    let file = config.write(&world);
    let file = file.to_string_lossy();
    let says = "what is sent to 127.0.0.1:3000 goes to one, and only the rest to all";
    let paths = Paths::of(&world);
    assert_said(&paths.output(&["check", &file]), 0, &["warning: ", says]);
    assert_said(&paths.output(&["check", "--json", &file]), 0, &["\"warnings\"", says]);
    assert_said(&paths.output(&["doctor", "--config", &file]), 0, &["WARNING", says]);
    let daemon = Daemon::with(&world, &config);
    daemon.says(says);
    // The log is right.
    assert!(ask("127.0.0.1:3000".parse().unwrap()).unwrap().worker.starts_with("one/"));
    assert!(ask("127.0.0.2:3000".parse().unwrap()).unwrap().worker.starts_with("all/"));
    daemon.stop();
}

#[test]
fn without_ipv6_the_demo_listens_on_what_there_is() {
    let world = World::new();
    fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
    let daemon = Daemon::start(&world, &[]);
    assert_eq!(daemon.log().matches("IPv6 is off").count(), 1, "{}", daemon.log());
    let listen: Vec<String> = daemon.service().groups.iter().map(|group| group.listen.clone()).collect();
    assert_eq!(listen, ["tcp://127.0.0.1:8080", "udp://127.0.0.1:8080"]);
    ask("127.0.0.1:8080".parse().unwrap()).unwrap();
    daemon.stop();
    let paths = Paths::of(&world);
    assert_said(&paths.output(&["doctor"]), 0, &["WARNING  ipv6", "IPv6 is off"]);
    // An address that was asked for is an error.
    let wanted = ["run", "--listen", "tcp://[::1]:8080"];
    assert_said(
        &paths.output(&wanted),
        1,
        &["cannot listen on tcp://[::1]:8080", "IPv6 is off", "disable_ipv6=0"],
    );
    let file = Config::service("web").listen("udp://[::1]:8080").write(&world);
    let output = paths.output(&["doctor", "--config", &file.to_string_lossy()]);
    assert_said(&output, 1, &["FAILURE  address", "no IPv6", "disable_ipv6=0"]);
    assert_eq!(paths.leftovers(), Vec::<PathBuf>::new());
}

/// Makes sockets of IPv6 unknown to `command`, as a kernel without IPv6 does.
#[expect(unsafe_code, reason = "a seccomp filter is applied between fork and exec")]
fn without_the_family(command: &mut Command) {
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule, TargetArch,
    };
    let arch: TargetArch = std::env::consts::ARCH.try_into().unwrap();
    let v6 = u64::try_from(libc::AF_INET6).unwrap();
    let family = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, v6).unwrap();
    let rules = [(libc::SYS_socket, vec![SeccompRule::new(vec![family]).unwrap()])].into_iter().collect();
    let errno = SeccompAction::Errno(u32::try_from(libc::EAFNOSUPPORT).unwrap());
    let filter: BpfProgram =
        SeccompFilter::new(rules, SeccompAction::Allow, errno, arch).unwrap().try_into().unwrap();
    // SAFETY: the filter was made before the fork; applying it is two system calls.
    unsafe { command.pre_exec(move || seccompiler::apply_filter(&filter).map_err(std::io::Error::other)) };
}

#[test]
fn so_it_does_on_a_kernel_without_ipv6() {
    let world = World::new();
    let mut command = Paths::of(&world).command(&["run"]);
    without_the_family(&mut command);
    let daemon = Daemon::start_as(&world, command);
    assert_eq!(daemon.log().matches("IPv6 is off").count(), 1, "{}", daemon.log());
    assert_eq!(daemon.service().groups.len(), 2);
    daemon.stop();
    let mut command = Paths::of(&world).command(&["run", "--listen", "tcp://[::1]:8080"]);
    without_the_family(&mut command);
    assert_said(&command.output().unwrap(), 1, &["cannot listen on tcp://[::1]:8080", "IPv6 is off"]);
    let mut command = Paths::of(&world).command(&["run", "--listen", "tcp://*:8080"]);
    without_the_family(&mut command);
    let says =
        ["cannot listen on tcp://*:8080", "IPv6 is off", "listen on IPv4 addresses only (all are 0.0.0.0)"];
    assert_said(&command.output().unwrap(), 1, &says);
}

#[test]
fn all_addresses_of_both_families_need_no_ipv6_address_and_no_other_listener_of_ipv6() {
    let world = World::new();
    let paths = Paths::of(&world);
    fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
    let daemon = Daemon::start(&world, &["--listen", "tcp://*:8080"]);
    ask("127.0.0.1:8080".parse().unwrap()).unwrap();
    daemon.stop();
    let both = ["run", "--listen", "tcp://*:8080", "--listen", "tcp://[::]:8080"];
    let says = "tcp://[::]:8080 and tcp://*:8080 have the same IPv6 addresses";
    assert_said(&paths.output(&both), 2, &[says, "leave one of them out"]);
    assert_said(
        &paths.output(&["run", "--listen", "tcp://*:80", "--listen", "tcp://*:80"]),
        2,
        &["listed twice"],
    );
    let file = Config::service("a")
        .listen("udp://[::]:80")
        .and(Config::service("b").listen("udp://*:80"))
        .write(&world);
    let says =
        ["line 6: udp://*:80 and udp://[::]:80 have the same IPv6 addresses", "listen = [\"udp://*:80\"]"];
    assert_said(&paths.output(&["check", &file.to_string_lossy()]), 2, &says);
}

#[test]
fn a_file_for_another_machine_is_checked_without_it() {
    let world = World::new();
    let text = "[[service]]\nname = \"web\"\nlisten = [\"tcp://192.0.2.1:80\"]\ncommand = [\"/srv/no-such-server\"]\n\
                user = \"no-such-user\"\n";
    let file = world.file("other.toml", text);
    let paths = Paths::of(&world);
    let check = |file: &Path, offline: bool| {
        let line = if offline { vec!["check", "--offline"] } else { vec!["check"] };
        paths.command(&line).arg(file).output().unwrap()
    };
    assert_said(&check(&file, true), 0, &["is valid", "/srv/no-such-server"]);
    assert_said(&check(&file, false), 2, &["line 5: there is no user \"no-such-user\""]);
    for (wrong, says) in [
        (text.replace("tcp://192.0.2.1:80", "tcp://host:80"), "names are not looked up"),
        (text.replace("user", "usr"), "did you mean `user`?"),
        (text.replace("[[service]]", "[service]"), "write [[service]]"),
        (
            format!("{text}workers = \"4\"\n"),
            "line 6: `workers` cannot be \"4\": write a whole number from 0 to 1024",
        ),
        (format!("{text}command = []\n"), "duplicate key"),
    ] {
        assert_said(&check(&world.file("wrong.toml", &wrong), true), 2, &[says]);
    }
}
