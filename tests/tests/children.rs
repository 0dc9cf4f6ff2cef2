//! Workers that bind a socket of their own for each client on the listener's address, as DTLS, QUIC and TURN
//! servers do (`socket_owner`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::net::UdpSocket;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tests::daemon::{Daemon, until};
use tests::world::World;

/// Answers each client from a connected socket on the listener's own address; or, where that cannot be
/// had, says why from the socket that it was given.
const SERVER: &str = r#"
import errno, os, select, signal, socket
name = os.environ["REUSEPORT_LB_WORKER"].encode()
own = socket.socket(fileno=3)
address = own.getsockname()
poll = select.epoll()
poll.register(own, select.EPOLLIN)
children = {}
ending = []
signal.signal(signal.SIGTERM, lambda *_: ending.append(1))
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
while not ending:
    for fd, _ in poll.poll(0.05):
        if fd in children:
            try:
                children[fd].recv(64)
                children[fd].send(b"child of " + name)
            except OSError:
                pass
            continue
        _, peer = own.recvfrom(64)
        child = socket.socket(own.family, socket.SOCK_DGRAM)
        child.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        child.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            child.bind(address)
            child.connect(peer)
        except OSError as error:
            own.sendto(errno.errorcode[error.errno].encode(), peer)
            continue
        children[child.fileno()] = child
        poll.register(child, select.EPOLLIN)
        child.send(b"child of " + name)
"#;

fn config(server: &Path, more: &str) -> String {
    format!(
        "[[service]]\nname = \"web\"\nlisten = [\"udp://127.0.0.1:3000\"]\ncommand = [\"python3\", \"{}\"]\nworkers = 2\n\
         idle_timeout = \"200ms\"\n{more}",
        server.display()
    )
}

/// What a client is told, from the address that it asked: its socket takes nothing from any other. Lost
/// is what a worker had not read when it ended; then it asks again.
fn ask(client: &UdpSocket) -> String {
    let mut buffer = [0; 64];
    for _ in 0..20 {
        // Refused: nobody is there for a moment.
        let _ = client.send(b"?");
        if let Ok(length) = client.recv(&mut buffer) {
            return String::from_utf8_lossy(&buffer[..length]).into_owned();
        }
    }
    panic!("no answer");
}

fn client() -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect("127.0.0.1:3000").unwrap();
    client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    client
}

fn strangers(daemon: &Daemon) -> usize {
    daemon.service().groups[0].strangers.unwrap()
}

/// Users of the sockets on the port (/proc/net/udp).
fn owners() -> Vec<u32> {
    let table = std::fs::read_to_string("/proc/thread-self/net/udp").unwrap();
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<&str>>());
    let on_port = rows.filter(|row| row[1].ends_with(":0BB8"));
    let mut owners: Vec<u32> = on_port.map(|row| row[7].parse().unwrap()).collect();
    owners.sort_unstable();
    owners.dedup();
    owners
}

#[test]
fn clients_keep_their_sockets_while_workers_are_replaced() {
    let world = World::new();
    let server = world.file("server.py", SERVER);
    let daemon = Daemon::configured(&world, &config(&server, "user = \"nobody\"\nsocket_owner = \"user\"\n"));
    assert!(daemon.log().contains("set a `user` of its own"), "{}", daemon.log());
    let clients: Vec<UdpSocket> = (0..200).map(|_| client()).collect();
    let from_child = |client: &UdpSocket| {
        let said = ask(client);
        assert!(said.starts_with("child of web/"), "{said}");
    };
    clients.iter().for_each(from_child);
    assert_eq!(strangers(&daemon), 0);
    assert_eq!(owners(), [65534]);
    let (done, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                clients.iter().for_each(from_child);
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        let replaced = daemon.run(&["restart", "web", "--trial", "100ms"]);
        assert!(replaced.contains("web: 2 replaced"), "{replaced}");
        let seen = rounds.load(Ordering::Relaxed);
        until("a round after it", || (rounds.load(Ordering::Relaxed) > seen + 1).then_some(()));
        done.store(true, Ordering::Relaxed);
        asking.join().unwrap();
    });
    assert_eq!(strangers(&daemon), 0);

    // Sockets that are made later belong to that user as well: the kernel takes no others.
    assert!(daemon.run(&["scale", "web", "+1"]).contains("2 → 3 workers"));
    daemon.kill();
    let daemon = Daemon::configured(&world, &config(&server, "user = \"nobody\"\nsocket_owner = \"user\"\n"));
    assert!(daemon.run(&["scale", "web", "4"]).contains("→ 4 workers"));
    clients.iter().for_each(from_child);
    assert_eq!((strangers(&daemon), owners()), (0, vec![65534]));
    daemon.stop();
}

#[test]
fn sockets_of_the_daemon_are_not_for_a_workers_own() {
    let world = World::new();
    let server = world.file("server.py", SERVER);
    let daemon = Daemon::configured(&world, &config(&server, "user = \"nobody\"\n"));
    assert_eq!(ask(&client()), "EADDRINUSE");
    assert_eq!((strangers(&daemon), owners()), (0, vec![0]));
    // A group has sockets of one user.
    let _ = world.file("config.toml", &config(&server, "user = \"nobody\"\nsocket_owner = \"user\"\n"));
    let output = daemon.paths().output(&["reload"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("udp://127.0.0.1:3000 has sockets of another user") && said.contains("put it back"),
        "{said}"
    );
    assert_eq!(ask(&client()), "EADDRINUSE");
    daemon.stop();
}

#[test]
fn a_workers_connected_sockets_are_no_strangers() {
    let world = World::new();
    let server = world.file("server.py", SERVER);
    let daemon = Daemon::configured(&world, &config(&server, "user = \"root\"\n"));
    let clients: Vec<UdpSocket> = (0..20).map(|_| client()).collect();
    for client in &clients {
        let said = ask(client);
        assert!(said.starts_with("child of web/"), "{said}");
    }
    assert_eq!(strangers(&daemon), 0);
    // One that is not connected is.
    let more = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    more.set_reuse_port(true).unwrap();
    more.bind(&"127.0.0.1:3000".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    assert_eq!(strangers(&daemon), 1);
    daemon.stop();
}
