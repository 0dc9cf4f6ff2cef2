//! Processes that the daemon did not start join a service, serve, and leave.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reuseport_lb_client::api::ServiceStatus;
use testkit::client::ask;
use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, Paths, settled, until};
use testkit::fault::Dice;
use testkit::guests::{Guest, Guests, Manner, USER};
use testkit::load::{Failure, Load, Stage};
use testkit::patience::fewer;
use testkit::said::assert_said;
use testkit::server::words;
use testkit::traces::Traces;
use testkit::world::World;

/// Guests may join, and there is a worker that always stays. What is queued waits for as long as
/// the tests like.
fn service() -> Config {
    guests_only().workers(1).set("stall_timeout", "off")
}

fn guests_only() -> Config {
    Config::web().set("user", "nobody")
}

fn address() -> SocketAddr {
    "127.0.0.1:3000".parse().unwrap()
}

/// Asserts that the workers of `weights` have their quotas of the 65,536 buckets, by largest
/// remainder, and all others nothing.
#[track_caller]
fn assert_exact(service: &ServiceStatus, weights: &BTreeMap<String, u64>) {
    let sum: u64 = weights.values().sum();
    let (mut up, mut down, mut total) = (Vec::new(), Vec::new(), 0);
    for worker in &service.workers {
        let Some(weight) = weights.get(&worker.name) else {
            assert_eq!((worker.buckets, worker.member), (0, false), "{} has a share", worker.name);
            continue;
        };
        assert_eq!((&*worker.state, u64::from(worker.weight)), ("ready", *weight), "{}", worker.name);
        let due = 65536 * weight;
        match u64::from(worker.buckets).checked_sub(due / sum) {
            Some(0) => down.push(due % sum),
            Some(1) => up.push(due % sum),
            _ => panic!("{} has {} buckets, with {weights:?}", worker.name, worker.buckets),
        }
        assert_eq!(worker.share, f64::from(worker.buckets) / 65536.0);
        total += u64::from(worker.buckets);
    }
    assert_eq!((total, up.len() + down.len()), (65536, weights.len()), "{weights:?}");
    assert!(up.iter().min().zip(down.iter().max()).is_none_or(|(up, down)| up >= down), "{weights:?}");
    assert_eq!(service.groups[0].strangers, Some(0));
}

/// A guest, and how it is to take part.
struct Known {
    guest: Guest,
    weight: u64,
    manner: Manner,
}

#[test]
fn a_hundred_joins_and_leaves_keep_the_shares_exact_and_leave_nothing_behind() {
    let world = World::new();
    let daemon = Daemon::with(&world, &service());
    let guests = Guests::new(&world);
    daemon.run(&["weight", "web/0", "7"]);
    let mut dice = Dice::new();
    let before = Traces::of(&world, &daemon);
    let load = Load::to(address()).clients(8).kept(0).pause(Duration::from_millis(4)).start();

    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    let weights = |known: &BTreeMap<String, Known>| -> BTreeMap<String, u64> {
        let ready = known.iter().filter(|(_, known)| known.manner != Manner::Hangs);
        ready.map(|(name, known)| (name.clone(), known.weight)).chain([("web/0".into(), 7)]).collect()
    };
    let (mut joined, mut hung, mut kills, mut polite, mut most) = (0, 0, Vec::new(), 0, 0);
    let all = fewer(100);
    while joined < all || !known.is_empty() {
        if joined < all && known.len() < 12 && (known.is_empty() || dice.roll(2) == 0) {
            let weight = dice.one_of(&[0, 1, 1, 2, 3, 10, 99, 1000]);
            let manner = dice.one_of(&[Manner::Hangs, Manner::Abrupt, Manner::Polite, Manner::Polite]);
            let free = |name: &String| !known.contains_key(name);
            let lowest = (1..).map(|number| format!("web/{number}")).find(free).unwrap();
            let wished =
                Some(format!("web/{}", 20 + dice.roll(20))).filter(|_| dice.roll(3) == 0).filter(free);
            let weight_text = weight.to_string();
            let mut arguments = vec!["web", "--weight", &weight_text];
            arguments.extend(wished.iter().flat_map(|name| ["--name", name]));
            let guest = guests.join(&arguments, manner);
            let state = if manner == Manner::Hangs { "starting" } else { "ready" };
            let service = until("a guest", || {
                let service = daemon.service();
                let there = guest.worker(&service).is_some_and(|worker| worker.state == state);
                there.then_some(service)
            });
            let name = guest.worker(&service).unwrap().name.clone();
            assert_eq!(name, wished.unwrap_or(lowest));
            known.insert(name, Known { guest, weight, manner });
            assert_exact(&service, &weights(&known));
            joined += 1;
            hung += usize::from(manner == Manner::Hangs);
            most = most.max(known.len());
        } else {
            let name = known.keys().nth(dice.roll(known.len())).unwrap().clone();
            let Known { guest, manner, .. } = known.remove(&name).unwrap();
            let kill = dice.roll(3) == 0;
            if kill && manner != Manner::Hangs {
                kills.push(Instant::now());
            }
            polite += usize::from(!kill && manner == Manner::Polite);
            guest.tell(if kill { Signal::SIGKILL } else { Signal::SIGTERM });
            // From the first moment when it is not ready any more nothing is its own.
            let service = until("a guest to leave", || {
                let service = daemon.service();
                let stays = |state: &str| matches!(state, "ready" | "starting");
                let there = guest.worker(&service).is_some_and(|worker| stays(&worker.state));
                (!there).then_some(service)
            });
            assert_exact(&service, &weights(&known));
            until("a guest to be gone", || guest.worker(&daemon.service()).is_none().then_some(()));
            assert_eq!(guest.end().success(), !kill && manner != Manner::Hangs);
        }
    }

    let report = load.end();
    println!(
        "{joined} joined, {most} at most at a time, {hung} hung, {polite} said STOPPING=1, {} killed while ready",
        kills.len()
    );
    println!("{report}");
    // A guest answers one connection after the other: a kill breaks one that it had accepted, at most.
    let broken = |failure: &Failure| {
        let soon = |kill: &Instant| (*kill..*kill + Duration::from_secs(1)).contains(&failure.at);
        matches!(failure.stage, Stage::Send | Stage::Answer)
            && matches!(
                failure.kind,
                ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe
            )
            && kills.iter().any(soon)
    };
    let unexpected: Vec<String> = report.failed_except(broken).iter().map(ToString::to_string).collect();
    assert_eq!(unexpected, Vec::<String>::new());
    assert!(report.failed.len() <= kills.len(), "{} failed, {} kills", report.failed.len(), kills.len());
    assert!(report.answered.len() > fewer(10), "guests served as well: {:?}", report.answered);
    let counters = Counters::of(&daemon.service());
    counters.assert_only(&["arrival_packet", "owner_taken"], &["arrival_migration"]);
    before.assert_same(&world, &daemon);

    let guest = guests.join(&["web"], Manner::Abrupt);
    until("one more", || guest.worker(&daemon.service()).filter(|worker| worker.state == "ready").map(drop));
    guest.tell(Signal::SIGTERM);
    assert!(guest.end().success());
    daemon.stop();
}

/// Asserts that `output` is this exit code with one message that says all of `says`.
#[track_caller]
fn assert_refused(output: &Output, code: i32, says: &[&str]) {
    assert_said(output, code, says);
    assert_eq!(output.stdout, b"");
}

#[test]
fn whoever_may_not_or_asks_for_what_cannot_be_is_told_why() {
    let world = World::new();
    let own = Config::service("own").listen("tcp://127.0.0.1:3001").workers(1);
    let own = own.set("ready", "immediate").command(&["sleep", "1000"]);
    let daemon = Daemon::with(&world, &service().and(own));
    let guests = Guests::new(&world);
    let before = Traces::of(&world, &daemon);
    let service = daemon.service();
    let pid = service.workers[0].pid.unwrap().to_string();
    let other = USER - 1;
    let idle = |arguments: &[&'static str]| [&["exec"], arguments, &["--", "sleep", "1000"]].concat();
    let cases: &[(u32, i32, Vec<&str>, &[&str])] = &[
        (other, 1, idle(&["web"]), &["user id 65533 may not join service web", "root and user nobody"]),
        (USER, 1, idle(&["own"]), &["user id 65534 may not join service own", "only root", "has no `user`"]),
        (0, 1, idle(&["wbe"]), &["no service \"wbe\"", "there is web, own"]),
        (USER, 1, idle(&["web", "--name", "0"]), &["a worker web/0 already", &pid, "another --name"]),
        (USER, 1, idle(&["web", "--name", "web/1024"]), &["web/1024 cannot be", "from 0 to 1023"]),
        (USER, 2, idle(&["web", "--name", "own/1"]), &["\"own/1\" is not the name of a worker of \"web\""]),
        (USER, 2, idle(&["web", "--weight", "1000001"]), &["1000001 is too large: the most is 1000000"]),
        (USER, 1, vec!["exec", "web", "--", "no-such-command"], &["command not found", "no-such-command"]),
        (USER, 1, vec!["exec", "web", "--", "/etc/passwd"], &["command not found", "no executable file"]),
        (USER, 2, vec!["exec", "web"], &["required", "COMMAND"]),
        (USER, 1, vec!["status"], &["control.sock", "only root may", "sudo"]),
        (USER, 1, vec!["scale", "web", "3"], &["control.sock", "only root may", "sudo"]),
        (USER, 1, vec!["drain", "web/0"], &["control.sock", "only root may", "sudo"]),
        (USER, 1, vec!["stop"], &["control.sock", "only root may", "sudo"]),
    ];
    for (uid, code, arguments, says) in cases {
        assert_refused(&guests.command(*uid, arguments).output().unwrap(), *code, says);
    }
    let mut nowhere = Command::new(world.path("reuseport-lb"));
    nowhere.args(["--runtime-dir", "/no/such/directory", "exec", "web", "--", "sleep", "1000"]);
    assert_refused(&nowhere.output().unwrap(), 1, &["/no/such/directory/join.sock", "no daemon runs there"]);
    // What the command would not let through.
    for (line, says) in [
        ("{\"service\":\"web\",\"weight\":1000001}\n", "weight 1000001 is too large: the most is 1000000"),
        ("{\"service\":\"web\",\"worker\":\"own/1\"}\n", "not the name of a worker"),
        ("{\"service\":\"web\",\"wait\":1}\n", "unknown field `wait`"),
    ] {
        let mut stream = UnixStream::connect(world.path("run/join.sock")).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(
            answer.starts_with("{\"error\":\"") && answer.contains(&says.replace('"', "\\\"")),
            "{answer}"
        );
    }
    assert!(!daemon.log().contains("joins"), "{}", daemon.log());
    assert_eq!(daemon.service().moved, service.moved);
    before.assert_same(&world, &daemon);
    daemon.stop();
}

#[test]
fn a_shell_that_becomes_the_server_is_still_the_worker_until_it_ends() {
    let world = World::new();
    let daemon = Daemon::with(&world, &service());
    let guests = Guests::new(&world);
    let server = guests.server(Manner::Abrupt);
    let shell = "test $LISTEN_PID = $$ && exec \"$0\" \"$@\"";
    let command: Vec<&str> =
        ["sh", "-c", shell].into_iter().chain(server.iter().map(String::as_str)).collect();
    let guest = guests.exec(&["web", "--name", "web/7", "--weight", "3"], &command);
    let by_number = guests.exec(&["web", "--name", "9"], &command);
    let service =
        until("both to serve", || Some(daemon.service()).filter(|s| s.workers.len() == 3 && settled(s)));
    let worker = guest.worker(&service).unwrap();
    assert_eq!((&*worker.name, worker.weight, worker.joined), ("web/7", 3, true));
    assert_eq!(by_number.worker(&service).unwrap().name, "web/9");
    let command_line = fs::read_to_string(format!("/proc/{}/cmdline", guest.pid())).unwrap();
    assert!(command_line.starts_with(&format!("{}\0", server[0])), "{command_line:?}");
    let weights = [("web/0", 1), ("web/7", 3), ("web/9", 1)].map(|(name, weight)| (name.into(), weight));
    assert_exact(&service, &weights.into());
    let answer =
        until("it to answer", || Some(ask(address()).unwrap()).filter(|answer| answer.worker == "web/7"));
    assert_eq!(answer.pid, guest.pid());
    guest.tell(Signal::SIGTERM);
    assert!(guest.end().success());
    until("it to be gone", || (daemon.service().workers.len() == 2).then_some(()));
    by_number.tell(Signal::SIGKILL);
    until("it to be gone", || (daemon.service().workers.len() == 1).then_some(()));
    assert_eq!(daemon.service().workers[0].buckets, 65536);
    daemon.stop();
}

#[test]
fn drain_ends_a_worker_that_joined() {
    let world = World::new();
    let daemon = Daemon::with(&world, &service());
    let guests = Guests::new(&world);
    let deaf = words(&world, "--answer never --term ignore");
    for (manner, ready) in
        [(Some(Manner::Abrupt), 2), (Some(Manner::Polite), 2), (Some(Manner::Hangs), 1), (None, 1)]
    {
        let guest = match manner {
            Some(manner) => guests.join(&["web"], manner),
            None => guests.exec(&["web"], &deaf),
        };
        until("the guest", || {
            let service = daemon.service();
            let count = service.workers.iter().filter(|worker| worker.state == "ready").count();
            (service.workers.len() == 2 && count == ready).then_some(())
        });
        if manner.is_none() {
            // SigIgn has the bit of SIGTERM (proc_pid_status(5)).
            until("it to be deaf", || {
                let status = fs::read_to_string(format!("/proc/{}/status", guest.pid())).unwrap();
                let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
                (u64::from_str_radix(ignored, 16).unwrap() & 1 << 14 != 0).then_some(())
            });
        }
        let begun = Instant::now();
        let said = daemon.run(&["drain", "web/1", "--timeout", "1s"]);
        println!("{manner:?}: {said}");
        let (waits, told) = said.trim_end().rsplit_once('\n').unwrap_or(("", said.trim_end()));
        assert!(told.starts_with("web/1: 0 waited for it, 0 of those were handed over, it ended"), "{said}");
        let waits: Vec<&str> = waits.lines().collect();
        assert!(waits.iter().all(|line| line.starts_with("web/1: waits for web/1 (draining")), "{said}");
        assert!(waits.is_empty() || manner.is_none(), "{manner:?}: {said}");
        let took = begun.elapsed();
        assert_eq!(took > Duration::from_secs(1), manner.is_none(), "{manner:?}: {took:?}");
        use std::os::unix::process::ExitStatusExt;
        let end = guest.end();
        let expected = match manner {
            Some(Manner::Abrupt | Manner::Polite) => None,
            Some(Manner::Hangs) => Some(libc::SIGTERM),
            None => Some(libc::SIGKILL),
        };
        assert_eq!(end.signal(), expected, "{manner:?}: {end}");
        let service = daemon.service();
        assert_eq!((service.workers.len(), service.wanted), (1, 1));
    }
    daemon.stop();
}

#[test]
fn a_service_of_guests_only_serves_while_they_are_there_and_refuses_when_nobody_is() {
    let world = World::new();
    let daemon = Daemon::with(&world, &guests_only());
    let guests = Guests::new(&world);
    let before = Traces::of(&world, &daemon);
    let refused = || TcpStream::connect(address()).unwrap_err().kind();
    for round in 0..3 {
        assert_eq!(refused(), ErrorKind::ConnectionRefused);
        // One that starts is there: clients wait.
        let hanging = guests.join(&["web"], Manner::Hangs);
        until("it to come", || hanging.worker(&daemon.service()).map(drop));
        let mut early = TcpStream::connect(address()).unwrap();
        early.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        early.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(daemon.service().workers[0].sockets[0].queue, 1);
        let one = guests.join(&["web"], Manner::Polite);
        let other = guests.join(&["web"], Manner::Abrupt);
        let both = || daemon.service().workers.iter().filter(|worker| worker.buckets == 32768).count() == 2;
        until("two to serve", || both().then_some(()));
        // It ends, and what waited for it is answered by others.
        hanging.tell(Signal::SIGKILL);
        let mut answer = String::new();
        early.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("\nworker=web/"), "{answer}");
        for _ in 0..20 {
            ask(address()).unwrap();
        }
        for guest in [one, other] {
            ask(address()).unwrap();
            guest.tell(Signal::SIGTERM);
            assert!(guest.end().success());
            until("it to be gone", || (daemon.service().workers.len() < 2).then_some(()));
        }
        until("all to be gone", || daemon.service().workers.is_empty().then_some(()));
        println!("round {round}: {:?}", Counters::of(&daemon.service()));
    }
    assert_eq!(refused(), ErrorKind::ConnectionRefused);
    assert_refused(
        &daemon.paths().output(&["scale", "web", "2"]),
        1,
        &["service web has no command", "reuseport-lb exec web"],
    );
    before.assert_same(&world, &daemon);
    daemon.stop();
}

#[test]
fn what_becomes_of_guests_says_nothing_about_the_start_of_a_service() {
    let world = World::new();
    let gate = world.path("gate");
    let flags = format!("--answer never --gate {} --ready notify", gate.display());
    let config = Config::web().set("user", "nobody").server(&world, &flags);
    let guests = Guests::new(&world);
    config.write(&world);
    let is =
        |service: &ServiceStatus, state: &str| service.workers.first().is_some_and(|own| own.state == state);
    let daemon = Daemon::start_until(&world, Paths::of(&world).run(), |service| is(service, "starting"));
    // One ends before it has been ready, one never gets there.
    assert!(guests.exec(&["web"], &["true"]).end().success());
    daemon.says("worker removed");
    let hanging = guests.join(&["web"], Manner::Hangs);
    until("the other", || hanging.worker(&daemon.service()).map(drop));
    assert!(!daemon.log().contains("is up"), "{}", daemon.log());
    fs::write(&gate, "").unwrap();
    daemon.says("service web is up");
    assert!(is(&daemon.service(), "ready"));
    drop(hanging);
    daemon.stop();
}
