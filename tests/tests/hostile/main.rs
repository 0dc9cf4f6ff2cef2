//! Invalid requests to the daemon's sockets get an error and disturb no other client.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod nonsense;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reuseport_lb::api::connection_limit;
use reuseport_lb::kernel::{fd_passing, host};
use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, until};
use testkit::guests::{Guests, Manner};
use testkit::load::Load;
use testkit::patience::{at_most, fewer};
use testkit::traces::{Traces, descriptors};
use testkit::world::World;

use nonsense::{Chance, End, JOIN, ask, bad_control, bad_join};

fn service() -> Config {
    Config::web().workers(2).set("user", "nobody")
}

const JOIN_SOCKET: &str = "run/join.sock";
const CONTROL_SOCKET: &str = "run/control.sock";

/// Requests to each of the two sockets.
fn requests() -> usize {
    fewer(10_000)
}

/// Connections to each of them that are held open.
const HELD: usize = 1_000;

/// How long a valid request may take beside the invalid ones.
fn prompt() -> Duration {
    at_most(Duration::from_secs(2))
}

fn address() -> SocketAddr {
    "127.0.0.1:3000".parse().unwrap()
}

/// Memory of a process, in KiB.
fn resident(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    line.unwrap().trim().parse().unwrap()
}

/// Valid requests, again and again until `stop`: `status`, `scale`, and a worker that joins and leaves.
/// Returns how often, and the longest time that each took.
fn be_honest(daemon: &Daemon, guests: &Guests, stop: &AtomicBool) -> (u32, BTreeMap<&'static str, Duration>) {
    let (mut rounds, mut longest) = (0, BTreeMap::new());
    while !stop.load(Ordering::Relaxed) || rounds < 3 {
        let mut begun = Instant::now();
        let mut done = |what| {
            let longest: &mut Duration = longest.entry(what).or_default();
            *longest = begun.elapsed().max(*longest);
            begun = Instant::now();
        };
        assert_eq!(daemon.service().workers.len(), 2);
        done("status");
        daemon.run(&["scale", "web", "3"]);
        done("scale up");
        daemon.run(&["scale", "web", "2"]);
        done("scale down");
        let guest = guests.join(&["web", "--weight", "2"], Manner::Polite);
        until("an honest guest", || {
            guest.worker(&daemon.service()).filter(|it| it.buckets == 32768).map(drop)
        });
        done("join");
        guest.tell(Signal::SIGTERM);
        assert!(guest.end().success());
        until("it to be gone", || (daemon.service().workers.len() == 2).then_some(()));
        done("leave");
        rounds += 1;
    }
    (rounds, longest)
}

/// How many requests to each socket ended how.
type Ends = BTreeMap<(&'static str, End), usize>;

/// [`requests`] to one socket, one after the other.
fn talk_nonsense(world: &World, socket: &'static str) -> Ends {
    let (path, file) = (world.path(socket), fs::File::open("/dev/null").unwrap());
    let (mut chance, mut ends) = (Chance(0x5eed), Ends::new());
    for nth in 0..requests() {
        let kind = nth % 16;
        let bytes =
            if socket == JOIN_SOCKET { bad_join(&mut chance, kind) } else { bad_control(&mut chance, kind) };
        // Every fifth brings descriptors that nobody has asked for.
        let count = if nth % 5 == 0 { 1 + chance.next() as usize % fd_passing::MOST } else { 0 };
        *ends.entry((socket, ask(&path, &bytes, &vec![file.as_fd(); count]))).or_default() += 1;
    }
    ends
}

/// Connections that never finish their request and stay open.
fn hold(world: &World, socket: &str, half: &str) -> Vec<UnixStream> {
    let held = (0..HELD).map(|nth| {
        let mut stream = UnixStream::connect(world.path(socket)).unwrap();
        // Those that are too many have to go at once.
        let _ = stream.write_all(&half.as_bytes()[..nth % half.len()]);
        stream
    });
    held.collect()
}

/// All of that at the same time, with valid requests in between.
fn storm(world: &World, daemon: &Daemon, guests: &Guests) {
    let (before, stop) = (descriptors(daemon.pid()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let held = [
            hold(world, JOIN_SOCKET, &JOIN[..20]),
            hold(world, CONTROL_SOCKET, "POST /v1/services/web/scale HTTP/1.1\r\nHost: x\r\n"),
        ];
        // A process that wants to join is known by a pidfd from the start.
        let bound = before + 3 * connection_limit::MOST;
        until("only so many to be kept", || (descriptors(daemon.pid()) == bound).then_some(()));
        let honest = scope.spawn(|| be_honest(daemon, guests, &stop));
        let begun = Instant::now();
        let talking =
            [JOIN_SOCKET, CONTROL_SOCKET].map(|socket| scope.spawn(move || talk_nonsense(world, socket)));
        let ends: Ends = talking.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        println!("{} requests in {:?}: {ends:?}", 2 * requests(), begun.elapsed());
        stop.store(true, Ordering::Relaxed);
        let (rounds, longest) = honest.join().unwrap();
        println!("meanwhile {rounds} rounds of honest work, the slowest: {longest:?}");
        assert!(longest.values().all(|longest| *longest < prompt()), "{longest:?}");
        let ends_so = |socket, end| ends.get(&(socket, end)).copied().unwrap_or_default();
        // A kernel that refuses descriptors refuses them all.
        let unsent = [JOIN_SOCKET, CONTROL_SOCKET].map(|socket| ends_so(socket, End::Unsent));
        assert!([[0; 2], [requests().div_ceil(5); 2]].contains(&unsent), "{ends:?}");
        assert_eq!(ends_so(JOIN_SOCKET, End::Explained) + unsent[0], requests(), "{ends:?}");
        assert!(ends_so(CONTROL_SOCKET, End::Explained) > (requests() - unsent[1]) / 2, "{ends:?}");
        drop(held);
    });
}

#[test]
fn nonsense_on_both_sockets_disturbs_nobody_and_leaves_nothing_behind() {
    host::raise_open_files();
    let world = World::new();
    let daemon = Daemon::with(&world, &service());
    let guests = Guests::new(&world);
    let before = Traces::of(&world, &daemon);
    let load = Load::to(address()).clients(4).kept(20).pause(Duration::from_millis(5)).start();
    let mut memory = vec![resident(daemon.pid())];
    // The first one shows how much room so many connections at a time need, the others what stays.
    for _ in 0..3 {
        storm(&world, &daemon, &guests);
        memory.push(resident(daemon.pid()));
    }
    let report = load.end();
    println!("VmRSS {memory:?} kB; log {} KiB", daemon.log().len() >> 10);
    println!("{report}");
    assert_eq!(report.failed, vec![]);
    let counters = Counters::of(&daemon.service());
    counters.assert_only(&["arrival_packet", "owner_taken"], &["arrival_migration"]);
    assert!(memory[1] < memory[0] + (16 << 10), "{memory:?}");
    assert!(memory[3] < memory[1] + (4 << 10), "{memory:?}");
    before.assert_same(&world, &daemon);
    assert!(!daemon.log().contains("panicked"));
    daemon.stop();
}

/// A connection whose last close waits for 20 s: it has unsent data that nobody takes, and lingers. With the other
/// end, whose close ends that.
fn lingering() -> (std::net::TcpStream, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut here = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let there = listener.accept().unwrap().0;
    here.set_nonblocking(true).unwrap();
    while here.write(&[0; 65536]).is_ok() {}
    here.set_nonblocking(false).unwrap();
    socket2::SockRef::from(&here).set_linger(Some(Duration::from_secs(20))).unwrap();
    (here, there)
}

#[test]
fn closing_what_somebody_sent_holds_nobody_up() {
    let world = World::new();
    let daemon = Daemon::with(&world, &service());
    for (socket, bytes) in [
        (JOIN_SOCKET, &b"{\"service\":\"web\"}\n"[..]),
        (JOIN_SOCKET, b"{"),
        (CONTROL_SOCKET, b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n"),
    ] {
        let (here, there) = lingering();
        let stream = UnixStream::connect(world.path(socket)).unwrap();
        // From Linux 6.16 on it cannot even be sent.
        let sent = fd_passing::send(&stream, bytes, &[here.as_fd()]);
        if sent.is_err() {
            // Then its last close is here.
            socket2::SockRef::from(&here).set_linger(None).unwrap();
        }
        drop((stream, here));
        assert_eq!(daemon.service().workers.len(), 2);
        println!("{socket}: {sent:?}");
        drop(there);
    }
    let longest = daemon.paths().status().unwrap().longest_step_ms;
    assert!(longest < 10_000.0, "{longest} ms in one step of the loop");
    daemon.stop();
}

#[test]
fn who_is_refused_again_and_again_is_in_the_log_once() {
    let world = World::new();
    let daemon = Daemon::with(&world, &service());
    for _ in 0..50 {
        // There is a worker web/0 already.
        let taken = b"{\"service\":\"web\",\"worker\":\"web/0\"}\n";
        assert!(matches!(ask(&world.path(JOIN_SOCKET), taken, &[]), End::Explained));
    }
    assert_eq!(daemon.log().matches("may not join").count(), 1, "{}", daemon.log());
    daemon.stop();
}

#[test]
fn when_too_many_wait_the_oldest_have_to_go_and_no_others() {
    let world = World::new();
    let daemon = Daemon::with(&world, &service());
    for (socket, each) in [(JOIN_SOCKET, 2), (CONTROL_SOCKET, 1)] {
        let before = descriptors(daemon.pid());
        let mut held: Vec<UnixStream> = (0..connection_limit::MOST + 40)
            .map(|_| {
                let mut stream = UnixStream::connect(world.path(socket)).unwrap();
                let _ = stream.write_all(b"P");
                stream
            })
            .collect();
        until("only so many to be kept", || {
            (descriptors(daemon.pid()) == before + each * connection_limit::MOST).then_some(())
        });
        for (nth, stream) in held.iter_mut().enumerate() {
            stream.set_nonblocking(true).unwrap();
            let mut answer = String::new();
            let end = stream.read_to_string(&mut answer);
            assert_eq!(end.is_ok(), nth < 40, "{socket}: {nth}: {answer}");
            assert_eq!(answer.contains("256 newer connections wait as well"), nth < 40, "{socket}: {answer}");
        }
    }
    daemon.stop();
}

#[test]
fn who_says_half_of_something_has_to_go_after_a_while() {
    let world = World::new();
    let daemon = Daemon::with(&world, &service());
    let before = descriptors(daemon.pid());
    let begun = Instant::now();
    let mut held = Vec::new();
    for (socket, half) in [
        (JOIN_SOCKET, "{\"serv"),
        (CONTROL_SOCKET, "GET /v1/status HTTP/1.1\r\nHo"),
        (CONTROL_SOCKET, ""),
        (JOIN_SOCKET, ""),
    ] {
        let mut stream = UnixStream::connect(world.path(socket)).unwrap();
        stream.write_all(half.as_bytes()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        held.push((socket, half, stream));
    }
    until("all to be accepted", || (descriptors(daemon.pid()) == before + 6).then_some(()));
    for (socket, half, mut stream) in held {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        println!("{socket} {half:?}: {answer:?} after {:?}", begun.elapsed());
        if socket == JOIN_SOCKET {
            assert!(answer.contains("did not arrive within 5s"), "{answer}");
        }
    }
    assert!((5..8).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    until("all to be closed", || (descriptors(daemon.pid()) == before).then_some(()));
    daemon.stop();
}
