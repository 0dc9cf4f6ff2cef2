//! Connections to one worker, whatever its share and state are, and nobody else's goes elsewhere for that.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use reuseport_lb_client::api::{Refusal, ServiceStatus};
use reuseport_lb_client::control::{ControlClient, ControlError};
use socket2::{Domain, Socket, Type};
use testkit::background::Killed;
use testkit::client::{ask, ask_udp, http, timeout};
use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, Paths, selected, signal, until};
use testkit::fault::times;
use testkit::load::Load;
use testkit::said::assert_said;
use testkit::world::{World, program};

/// How often each worker is asked.
const TIMES: u64 = 10;

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn control(daemon: &Daemon) -> ControlClient {
    ControlClient::new(daemon.paths().control())
}

/// Who answers, and whom they see.
fn answered(text: &str) -> (String, IpAddr) {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
    (field("worker="), at(&field("peer=")).ip())
}

/// Asks a worker once at a listener.
fn met(control: &ControlClient, worker: &str, listen: &str) -> (String, IpAddr) {
    let mut stream = control.connect(worker, Some(listen)).unwrap().stream;
    if listen.starts_with("tcp") {
        return answered(&http(stream, "GET", "/").unwrap().body);
    }
    stream.set_read_timeout(Some(timeout())).unwrap();
    stream.write_all(b"?").unwrap();
    let mut buffer = [0; 1024];
    let length = stream.read(&mut buffer).unwrap();
    answered(&String::from_utf8_lossy(&buffer[..length]))
}

/// Asks each worker again and again at a listener; each must answer itself.
fn meet_all(daemon: &Daemon, listen: &str) -> u64 {
    let (control, mut asked) = (control(daemon), 0);
    for worker in daemon.service().workers {
        for _ in 0..TIMES {
            let (who, peer) = met(&control, &worker.name, listen);
            assert_eq!(who, worker.name, "{listen}");
            assert!(peer.to_canonical().is_loopback(), "{listen}: {peer}");
            asked += 1;
        }
    }
    asked
}

/// What one listener counted between two looks, and each worker there.
fn counted(before: &ServiceStatus, after: &ServiceStatus) -> (Counters, Vec<u64>) {
    let each = after.workers.iter().map(|worker| {
        let earlier = before.workers.iter().find(|it| it.name == worker.name).unwrap();
        selected(worker) - selected(earlier)
    });
    (Counters::difference(before, after), each.collect())
}

#[test]
fn each_is_met_with_every_affinity_over_both_protocols_and_families() {
    let world = World::new();
    let every = ["flow", "source", "random", "cpu"];
    let listeners = ["tcp://127.0.0.1:3000", "tcp://[::1]:3000", "tcp://0.0.0.0:3001", "tcp://*:3002"];
    let datagrams = ["udp://127.0.0.1:3000", "udp://[::1]:3000", "udp://*:3002"];
    for (affinity, more) in every.into_iter().map(|it| (it, "")).chain([("flow", "least"), ("flow", "next")])
    {
        let mut config = Config::web().workers(3).set("affinity", affinity);
        for listen in &listeners[1..] {
            config = config.listen(listen);
        }
        match more {
            "least" => config = config.set("balance", "least"),
            "next" => config = config.set("when_busy", "next"),
            _ => {}
        }
        if affinity == "random" || affinity == "cpu" {
            config = config.set("flows", "none");
        }
        let over_udp = if more.is_empty() { &datagrams[..] } else { &[] };
        config = over_udp.iter().fold(config, |config, listen| config.listen(listen));
        let daemon = Daemon::with(&world, &config);
        // One that gets nothing from anyone else.
        daemon.run(&["weight", "web/1", "0"]);
        for listen in listeners.iter().chain(over_udp) {
            let before = daemon.service();
            let asked = meet_all(&daemon, listen);
            let (counters, each) = counted(&before, &daemon.service());
            let wanted = Counters::expected(&[("arrival_packet", asked), ("owner_directed", asked)]);
            assert_eq!((counters, each), (wanted, vec![TIMES; 3]), "{affinity} {more} {listen}");
        }
        daemon.stop();
    }
}

#[test]
fn keys_that_come_from_the_datagram_do_not_matter() {
    let world = World::new();
    let config = Config::service("web").listen("udp://127.0.0.1:3000").workers(3);
    let daemon =
        Daemon::with(&world, &config.toml("affinity", "{ payload = { offset = 0, length = 1 } }".into()));
    let before = daemon.service();
    let asked = meet_all(&daemon, "udp://127.0.0.1:3000");
    let (counters, each) = counted(&before, &daemon.service());
    let wanted = Counters::expected(&[("arrival_packet", asked), ("owner_directed", asked)]);
    assert_eq!((counters, each), (wanted, vec![TIMES; 3]));
    // Afterwards a session has its worker again.
    let before = daemon.service();
    let who: BTreeSet<String> =
        (0..20).map(|_| ask_udp(at("127.0.0.1:3000"), None).unwrap().worker).collect();
    assert_eq!(who.len(), 1, "{who:?}");
    assert_eq!(Counters::difference(&before, &daemon.service()), Counters::all_taken(20));
    daemon.stop();
}

#[test]
fn under_load_each_meets_its_worker_and_nobody_else_does_for_that_reason() {
    let world = World::new();
    let daemon = Daemon::with(&world, &Config::web().workers(4));
    let control = control(&daemon);
    let before = daemon.service();
    let load = Load::to(at("127.0.0.1:3000")).clients(8).kept(50).start();
    let mut asked = 0;
    for turn in 0..500 * times(1) {
        let worker = format!("web/{}", turn % 4);
        assert_eq!(met(&control, &worker, "tcp://127.0.0.1:3000").0, worker);
        asked += 1;
    }
    let report = load.end();
    assert_eq!(
        report.failed_except(|_| false),
        Vec::<&testkit::load::Failure>::new(),
        "{}",
        report.summary()
    );
    let counters = Counters::difference(&before, &daemon.service());
    println!("{counters:?}; {}", report.summary());
    counters.assert_only(&["arrival_packet", "owner_taken", "owner_directed"], &[]);
    assert_eq!(counters.get("owner_directed"), asked, "{counters:?}");
    daemon.stop();
}

/// A server that opens its own sockets, and says its process id: so many processes, each with one of its own.
const SERVER: &str = "\
import os, socket, sys
for _ in range(int(sys.argv[1]) - 1):
    if os.fork() == 0:
        break
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
s.bind(('127.0.0.1', 3000))
s.listen()
while True:
    c, _ = s.accept()
    c.recv(1000)
    c.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\n%d' % os.getpid())
    c.close()
";

/// Each worker answers with its own process id.
fn meet_processes(daemon: &Daemon, workers: usize) {
    let before = daemon.service();
    assert_eq!(before.workers.len(), workers);
    for worker in before.workers.iter().cycle().take(workers * TIMES as usize) {
        let stream = control(daemon).connect(&worker.name, None).unwrap().stream;
        assert_eq!(
            http(stream, "GET", "/").unwrap().body,
            worker.pid.unwrap().to_string(),
            "{}",
            worker.name
        );
    }
    let asked = workers as u64 * TIMES;
    let wanted = Counters::expected(&[("arrival_packet", asked), ("owner_directed", asked)]);
    assert_eq!(Counters::difference(&before, &daemon.service()), wanted);
}

#[test]
fn so_are_workers_whose_sockets_are_their_own_or_were_adopted() {
    let world = World::new();
    let python = program("python3").display().to_string();
    let config = Config::web().workers(2).set("sockets", "bind").command(&[&*python, "-c", SERVER, "1"]);
    let daemon = Daemon::with(&world, &config);
    meet_processes(&daemon, 2);
    daemon.stop();

    let server = Killed(Command::new(python).args(["-c", SERVER, "3"]).spawn().unwrap());
    let address = at("127.0.0.1:3000");
    until("the server", || TcpStream::connect(address).is_ok().then_some(()));
    let adopt =
        ["--listen", "tcp://127.0.0.1:3000", "--name", "web", "--adopt", &format!("pid={}", server.0.id())];
    let daemon = Daemon::start(&world, &adopt);
    until("all of its sockets", || (daemon.service().workers.len() == 3).then_some(()));
    meet_processes(&daemon, 3);
    daemon.stop();
}

/// Connects from a port of an address, and says which worker answers.
fn ask_from_port(from: SocketAddr, to: SocketAddr) -> Option<String> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&from.into()).ok()?;
    socket.connect(&to.into()).unwrap();
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    Some(answered(&said).0)
}

#[test]
fn nobody_can_take_the_place_of_the_daemon() {
    let world = World::new();
    let daemon = Daemon::with(&world, &Config::web().workers(2).set("affinity", "random"));
    daemon.run(&["weight", "web/1", "0"]);
    // While it is open everything is looked at; the worker, which does not read, keeps it so.
    let worker = daemon.workers()[1];
    signal(worker, Signal::SIGSTOP);
    let open = control(&daemon).connect("web/1", None).unwrap();
    let sockets = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let own = sockets.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let port = |field: &str| u16::from_str_radix(field.split_once(':')?.1, 16).ok();
        (port(fields[2])? == 3000).then(|| port(fields[1])).flatten()
    });
    let own: BTreeSet<u16> = own.collect();
    assert_eq!(own.len(), 1, "{own:?}");
    let port = *own.first().unwrap();
    let before = daemon.service();
    let to = at("127.0.0.1:3000");
    assert_eq!(ask_from_port((IpAddr::from([127, 0, 0, 1]), port).into(), to), None, "the port is taken");
    for turn in 0..50u16 {
        // From the same port of another address, and from the same address with a port of the same low bits.
        let beside = SocketAddr::from(([127, 0, 0, 2], port));
        let alike = SocketAddr::from(([127, 0, 0, 1], 1024 + port % 64 + 64 * (turn + 1)));
        assert!([beside, alike].iter().all(|from| ask_from_port(*from, to).is_none_or(|who| who == "web/0")));
    }
    let counters = Counters::difference(&before, &daemon.service());
    assert!(counters.get("arrival_packet") >= 50 && counters.get("owner_directed") == 0, "{counters:?}");
    signal(worker, Signal::SIGCONT);
    assert_eq!(answered(&http(open.stream, "GET", "/").unwrap().body).0, "web/1");
    daemon.stop();
}

#[test]
fn one_that_starts_is_met_and_what_cannot_be_is_said() {
    let world = World::new();
    let flags = format!("--gate {} --ready notify", world.path("gate").display());
    let config = Config::web().workers(2).set("ready", "notify").server(&world, &flags);
    config.write(&world);
    let daemon = Daemon::start_until(&world, Paths::of(&world).run(), |it| {
        it.workers.iter().all(|worker| worker.state == "starting" && !worker.sockets.is_empty())
    });
    // It waits in the queue until the worker accepts.
    let early = control(&daemon).connect("web/1", None).unwrap();
    fs::write(world.path("gate"), "").unwrap();
    assert_eq!(answered(&http(early.stream, "GET", "/").unwrap().body).0, "web/1");
    until("both workers", || daemon.service().workers.iter().all(|it| it.state == "ready").then_some(()));

    let refused = |worker: &str, listen: Option<&str>| match control(&daemon).connect(worker, listen) {
        Err(ControlError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    let unknown = refused("web/7", None);
    assert!(matches!(&unknown, Refusal::Unknown(why) if why.contains("web/0, web/1")), "{unknown:?}");
    let elsewhere = refused("web/0", Some("udp://127.0.0.1:9"));
    assert_eq!(
        elsewhere,
        Refusal::Impossible("web/0 has no socket at udp://127.0.0.1:9; it has tcp://127.0.0.1:3000".into())
    );
    assert_said(&daemon.paths().output(&["connect", "web"]), 2, &["not a worker", "web/2"]);
    // A plain request, which wants no other protocol.
    let mut stream = std::os::unix::net::UnixStream::connect(daemon.paths().control()).unwrap();
    stream
        .write_all(b"POST /v1/workers/web/0/connect HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 400") && said.contains("`upgrade: tcp`"), "{said}");
    daemon.stop();
}

#[test]
fn a_command_joins_a_worker_and_a_daemon_that_dies_leaves_nothing_marked() {
    let world = World::new();
    let config = Config::web().workers(2).listen("udp://127.0.0.1:3000");
    let daemon = Daemon::with(&world, &config);
    let connect = |input: &str, options: &[&str]| {
        let mut command = daemon.paths().command(&[&["connect", "web/1"], options].concat());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let said = child.wait_with_output().unwrap();
        assert!(said.status.success(), "{said:?}");
        String::from_utf8(said.stdout).unwrap()
    };
    let request = "GET / HTTP/1.0\r\n\r\n";
    for options in [&[][..], &["--shutdown"], &["--listen", "tcp://127.0.0.1:3000"]] {
        let said = connect(request, options);
        assert!(said.starts_with("HTTP/1.0 200 ") && answered(&said).0 == "web/1", "{said}");
    }
    assert_eq!(answered(&connect("?", &["--listen", "udp://127.0.0.1:3000", "--wait", "200ms"])).0, "web/1");
    let worker = daemon.workers()[1];
    signal(worker, Signal::SIGSTOP);
    let silent = daemon.paths().output(&["connect", "web/1", "--wait", "100ms"]);
    assert_said(&silent, 1, &["web/1 has said nothing within 100ms"]);

    let mut command = daemon.paths().command(&["connect", "web/1"]);
    let mut open = Killed(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let directed = |daemon: &Daemon| Counters::of(&daemon.service()).get("owner_directed");
    until("the connection", || (directed(&daemon) == 6).then_some(()));
    daemon.kill();
    signal(worker, Signal::SIGCONT);
    assert!(open.0.wait().unwrap().code().is_some(), "it ends with the daemon");
    let daemon = Daemon::with(&world, &config);
    let before = daemon.service();
    (0..50).for_each(|_| drop(ask(at("127.0.0.1:3000")).unwrap()));
    assert_eq!(Counters::difference(&before, &daemon.service()), Counters::all_taken(50));
    assert_eq!(meet_all(&daemon, "tcp://127.0.0.1:3000"), 2 * TIMES);
    daemon.stop();
}
