//! Programs that join with the library, and the one of docs/JOIN.md that joins without it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reuseport_lb_client::api::ServiceStatus;
use reuseport_lb_common::slots::MAX_SLOTS;
use testkit::background::beside;
use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, settled, signal, until};
use testkit::documents::Document;
use testkit::guests::USER;
use testkit::traces::Traces;
use testkit::world::World;

/// One worker, and those that join. What is queued waits for as long as the tests like.
fn service() -> Config {
    Config::web().workers(1).set("stall_timeout", "off")
}

fn address() -> SocketAddr {
    "127.0.0.1:3000".parse().unwrap()
}

/// A process that joins with the library, step by step.
struct Puppet {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Puppet {
    /// Starts one, and waits until it has joined with this name.
    fn join(world: &World, weight: u32, name: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_member"));
        command.arg(world.path("run")).args(["web", &weight.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut puppet = Self { child, input, output };
        assert_eq!(puppet.hear(), name);
        puppet
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn say(&mut self, word: &str) -> String {
        writeln!(self.input, "{word}").unwrap();
        self.hear()
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_member_of_the_library_gets_its_share_and_hands_over_what_it_has_not_accepted() {
    let world = World::new();
    let daemon = Daemon::with(&world, &service());
    let before = Traces::of(&world, &daemon);
    let shares = || -> Vec<u32> { daemon.service().workers.iter().map(|worker| worker.buckets).collect() };
    for _ in 0..3 {
        let mut puppet = Puppet::join(&world, 3, "web/1");
        assert_eq!(shares(), [65536, 0]);
        assert_eq!(puppet.say("ready"), "ready");
        let before = daemon.service();
        until("its share", || (shares() == [16384, 49152]).then_some(()));
        let mut clients: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(address()).unwrap()).collect();
        let queued = daemon.service().workers[1].sockets[0].queue;
        assert!(queued > 5, "{queued}");
        let served = puppet.say("accept");
        assert_eq!(puppet.say("leave"), "leaves");
        until("it to be gone", || (shares() == [65536]).then_some(()));
        let (mut by_member, mut by_other) = (0, 0);
        for client in &mut clients {
            client.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut answer = Vec::new();
            // Who closes with unread bytes resets, after its answer.
            let _ = client.read_to_end(&mut answer);
            if client.local_addr().unwrap().to_string() == served {
                assert_eq!(answer, b"web/1\n");
                by_member += 1;
            } else {
                assert!(String::from_utf8_lossy(&answer).contains("worker=web/0\n"), "{answer:?}");
                by_other += 1;
            }
        }
        assert_eq!((by_member, by_other), (1, 39));
        // Those that it had not accepted were handed over.
        let rest = u64::from(queued) - 1;
        let counted = [("arrival_packet", 40), ("arrival_migration", rest), ("owner_taken", 40 + rest)];
        assert_eq!(Counters::difference(&before, &daemon.service()), Counters::expected(&counted));
        // Its listener was shut down, and the process lives on.
        assert_eq!(puppet.say("accept"), libc::EINVAL.to_string());
        assert!(puppet.child.try_wait().unwrap().is_none());
    }
    before.assert_same(&world, &daemon);
    daemon.stop();
}

#[test]
fn no_slot_is_lost_however_many_come_and_go() {
    let world = World::new();
    let daemon = Daemon::with(&world, &service().set("user", "nobody"));
    let many = world.program(Path::new(env!("CARGO_BIN_EXE_member")), "member");
    let begun = Instant::now();
    let mut seen = BTreeSet::new();
    // As many as there can be. Then, since a freed slot is used again last, all others, in parts.
    let rounds = [1025].into_iter().chain([255; 8]).chain([7]);
    for (round, asked) in rounds.enumerate() {
        if round == 1 {
            seen.clear();
        }
        let mut command = Command::new(&many);
        command.arg(world.path("run")).args(["web", "1", &asked.to_string()]);
        command.uid(USER).gid(USER).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let said: Vec<String> = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map(Result::unwrap)
            .take_while(|line| line != "done")
            .collect();
        // The service's own worker counts.
        let taken = asked.min(1023);
        assert_eq!(said.len(), asked - taken, "{said:?}");
        assert!(said.iter().all(|line| line.contains("1025 workers are too many")), "{said:?}");
        let service = daemon.service();
        assert_eq!(service.workers.len(), 1 + taken);
        seen.extend(service.workers.iter().map(|worker| worker.slot));
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
        until("all to be gone", || (daemon.service().workers.len() == 1).then_some(()));
    }
    println!("3,070 came and went in {:?}", begun.elapsed());
    assert_eq!(seen.len(), MAX_SLOTS);
    daemon.stop();
}

/// `joined_server`, the example.
fn example(world: &World) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_joined-server"));
    command.arg("web").arg(world.path("run")).stdout(Stdio::piped()).spawn().unwrap()
}

#[test]
fn servers_that_are_made_like_the_example_replace_each_other_and_lose_nothing() {
    let world = World::new();
    let daemon = Daemon::with(&world, &Config::web());
    let ready = |count| {
        let all = |service: &ServiceStatus| service.workers.len() == count && settled(service);
        until("the servers", || Some(daemon.service()).filter(all));
    };
    let mut servers = vec![example(&world), example(&world)];
    ready(2);
    let asking = |over: &AtomicBool| {
        let mut answered: BTreeMap<String, u64> = BTreeMap::new();
        while !over.load(Ordering::Relaxed) {
            let mut stream = TcpStream::connect(address()).expect("cannot connect");
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut said = String::new();
            stream.read_to_string(&mut said).expect("no answer");
            assert!(said.starts_with("worker=web/"), "{said:?}");
            *answered.entry(said).or_default() += 1;
        }
        answered
    };
    let clients = |over: &AtomicBool| {
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..3).map(|_| scope.spawn(|| asking(over))).collect();
            clients.into_iter().for_each(|client| println!("answered: {:?}", client.join().unwrap()));
        })
    };
    let replace = || {
        for round in 0..5 {
            servers.push(example(&world));
            ready(3);
            let mut oldest = servers.remove(0);
            signal(oldest.id().try_into().unwrap(), Signal::SIGTERM);
            let end = until("it to end", || oldest.try_wait().unwrap());
            let mut said = String::new();
            oldest.stdout.unwrap().read_to_string(&mut said).unwrap();
            assert!(end.success() && said.ends_with(" leaves\n"), "round {round}: {end}: {said}");
            ready(2);
        }
    };
    beside(clients, replace);
    let counters = Counters::of(&daemon.service());
    counters.assert_only(&["arrival_packet", "owner_taken"], &["arrival_migration"]);
    for mut server in servers {
        signal(server.id().try_into().unwrap(), Signal::SIGTERM);
        assert!(until("it to end", || server.try_wait().unwrap()).success());
    }
    daemon.stop();
}

#[test]
fn the_python_of_the_page_on_joining_joins() {
    let world = World::new();
    let daemon = Daemon::with(&world, &Config::web().workers(0));
    let document = Document::read("docs/JOIN.md");
    let program = document
        .block("recv_fds")
        .text
        .replace("/run/reuseport-lb", &world.path("run").display().to_string());
    let program = format!("{program}\nlisteners[0].accept()\n");
    let mut joined = Command::new("python3").args(["-c", &program]).spawn().unwrap();
    let worker = until("it to be ready", || {
        daemon.service().workers.pop().filter(|worker| worker.state == "ready" && worker.buckets == 65_536)
    });
    assert_eq!((worker.joined, worker.pid), (true, i32::try_from(joined.id()).ok()));
    TcpStream::connect("127.0.0.1:3000").unwrap();
    assert!(joined.wait().unwrap().success(), "it accepts");
    until("it to be gone", || daemon.service().workers.is_empty().then_some(()));
    daemon.stop();
}
