//! Whoever talks nonsense to the daemon's sockets gets an error, and nobody else notices.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reuseport_lb::api::connection_limit;
use reuseport_lb::kernel::{fd_passing, host};
use testkit::daemon::{Daemon, counter, until};
use testkit::guests::{Guests, Manner};
use testkit::load::Load;
use testkit::patience::{at_most, fewer};
use testkit::traces::{Traces, descriptors};
use testkit::world::World;

const SERVICE: &str =
    "[[service]]\nname = \"web\"\nlisten = [\"tcp://127.0.0.1:3000\"]\nworkers = 2\nuser = \"nobody\"\n";

const JOIN_SOCKET: &str = "run/join.sock";
const CONTROL_SOCKET: &str = "run/control.sock";

/// Requests to each of the two sockets.
fn requests() -> usize {
    fewer(10_000)
}

/// Connections to each of them that are held open.
const HELD: usize = 1_000;

/// How long an honest user may wait for anything while the others talk nonsense.
fn prompt() -> Duration {
    at_most(Duration::from_secs(2))
}

fn address() -> SocketAddr {
    "127.0.0.1:3000".parse().unwrap()
}

/// Bytes by chance (xorshift64), always the same.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        (0..1 + self.next() % most).map(|_| self.next() as u8).collect()
    }

    /// What is left of `whole` when the rest is cut off: not all of it.
    fn cut(&mut self, whole: &[u8]) -> Vec<u8> {
        whole[..1 + (self.next() % (whole.len() as u64 - 1)) as usize].to_vec()
    }

    fn one_of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[(self.next() % all.len() as u64) as usize]
    }
}

/// A valid request to join.
const JOIN: &str = "{\"service\":\"web\",\"worker\":\"web/7\",\"weight\":3}\n";

fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// A request to `join.sock` that must not be granted.
fn bad_join(chance: &mut Chance, kind: usize) -> Vec<u8> {
    match kind {
        0 => chance.bytes(600),
        1 => chance.cut(JOIN.as_bytes()),
        2 => [&chance.bytes(60)[..], JOIN.as_bytes()].concat(),
        3 => vec![b'x'; 64 << 10],
        4 => format!("{{\"service\":\"{}\"}}\n", "w".repeat(5_000)).into_bytes(),
        5 => JOIN.repeat(2).into_bytes(),
        6 => post("/v1/services/web/scale", "{\"workers\":9}").into_bytes(),
        _ => chance
            .one_of(&[
                "\n",
                "null\n",
                "[]\n",
                "{}\n",
                "{\"service\":7}\n",
                "{\"service\":null}\n",
                "{\"service\":\"web\",\"weight\":\"1\"}\n",
                "{\"service\":\"web\",\"weight\":-1}\n",
                "{\"service\":\"web\",\"weight\":1e99}\n",
                "{\"service\":\"web\",\"weight\":1000001}\n",
                "{\"service\":\"web\",\"worker\":7}\n",
                "{\"service\":\"web\",\"worker\":\"web/\"}\n",
                "{\"service\":\"web\",\"worker\":\"web/99999999999999999999\"}\n",
                "{\"service\":\"web\",\"worker\":\"web/5000\"}\n",
                "{\"service\":\"web\",\"worker\":\"web/0\"}\n",
                "{\"service\":\"\"}\n",
                "{\"service\":\"../web\"}\n",
                "{\"service\":\"web\",\"service\":\"web\"}\n",
                "[\"web\",null,1]\n",
                "{\"service\":\"web\"} {\"service\":\"web\"}\n",
            ])
            .into(),
    }
}

/// A request to `control.sock` that must not be granted.
fn bad_control(chance: &mut Chance, kind: usize) -> Vec<u8> {
    let good = post("/v1/services/web/scale", "{\"workers\":9}");
    match kind {
        0 => chance.bytes(600),
        1 => chance.cut(good.as_bytes()),
        2 => [&chance.bytes(60)[..], good.as_bytes()].concat(),
        3 => vec![b'x'; 64 << 10],
        4 => post("/v1/services/web/scale", &"7".repeat(70_000)).into_bytes(),
        5 => good.replace("POST", &"P".repeat(20_000)).into_bytes(),
        6 => good.replace("Host: x", &format!("Host: {}", "x".repeat(20_000))).into_bytes(),
        _ => {
            let path = chance.one_of(&[
                "/v1/services/web/scale",
                "/v1/workers/web/0/weight",
                "/v1/workers/web/0/drain",
            ]);
            let body = chance.one_of(&[
                "[]",
                "[9]",
                "{",
                "{\"workers\":\"2\"}",
                "{\"workers\":-1}",
                "{\"workers\":1e99}",
                "{\"workers\":5000}",
                "{\"weight\":{}}",
                "{\"weight\":-1}",
                "{\"weight\":1000001}",
                "{\"timeout_ms\":\"soon\"}",
                "{\"workers\":2,\"x\":1}",
                "\u{0}",
            ]);
            post(path, body).into_bytes()
        }
    }
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// The daemon says what is wrong.
    Explained,
    /// It says that something is wrong.
    Refused,
    /// It just closes.
    Closed,
    /// The kernel refuses to send descriptors to it (from Linux 6.16 on).
    Unsent,
}

/// Sends `bytes` and with the first of them `fds`, and nothing more.
fn ask(path: &Path, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> End {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(8))).unwrap();
    // The daemon may hang up in the middle, which is its right.
    let sent = fd_passing::send(&stream, bytes, fds);
    if !fds.is_empty() && sent.as_ref().is_err_and(|error| error.kind() == ErrorKind::PermissionDenied) {
        return End::Unsent;
    }
    let _ = sent.and_then(|sent| stream.write_all(&bytes[sent..]));
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{:?}", String::from_utf8_lossy(bytes));
    }
    let answer = String::from_utf8_lossy(&answer);
    let granted = answer.contains("\"notify\"") || answer.contains(" 200 OK");
    assert!(!granted, "{:?} was granted: {answer}", String::from_utf8_lossy(bytes));
    match &*answer {
        "" => End::Closed,
        answer if answer.contains("{\"error\":\"") => End::Explained,
        answer => {
            assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
            End::Refused
        }
    }
}

/// Memory of a process, in KiB.
fn resident(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    line.unwrap().trim().parse().unwrap()
}

/// Honest users, again and again until `stop`: `status`, `scale`, and a worker that joins and leaves.
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

/// Connections that never finish what they say, and never go by themselves.
fn hold(world: &World, socket: &str, half: &str) -> Vec<UnixStream> {
    let held = (0..HELD).map(|nth| {
        let mut stream = UnixStream::connect(world.path(socket)).unwrap();
        // Those that are too many have to go at once.
        let _ = stream.write_all(&half.as_bytes()[..nth % half.len()]);
        stream
    });
    held.collect()
}

/// All of that at the same time, with honest users in between.
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
    let daemon = Daemon::configured(&world, SERVICE);
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
    assert_eq!(counter(&daemon.service(), "refused"), 0);
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
    let daemon = Daemon::configured(&world, SERVICE);
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
    let daemon = Daemon::configured(&world, SERVICE);
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
    let daemon = Daemon::configured(&world, SERVICE);
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
    let daemon = Daemon::configured(&world, SERVICE);
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
