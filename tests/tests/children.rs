//! Workers that bind a socket of their own for each client on the listener's address, as DTLS, QUIC and TURN
//! servers do.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use testkit::config::Config;
use testkit::daemon::Daemon;
use testkit::world::World;

/// Workers that answer each client from a connected socket on the listener's own address; or, where that cannot be
/// had, say why from the socket that they were given.
fn daemon(world: &World, user: &str) -> Daemon {
    let config = Config::service("web").listen("udp://127.0.0.1:3000").workers(2);
    let config = config.set("idle_timeout", "200ms").set("user", user);
    Daemon::with(world, &config.server(world, "--answer children --ready notify --term abrupt"))
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
fn sockets_of_the_daemon_are_not_for_a_workers_own() {
    let world = World::new();
    let daemon = daemon(&world, "nobody");
    assert_eq!(ask(&client()), "EADDRINUSE");
    assert_eq!((strangers(&daemon), owners()), (0, vec![0]));
    daemon.stop();
}

#[test]
fn a_workers_connected_sockets_are_no_strangers() {
    let world = World::new();
    let daemon = daemon(&world, "root");
    let clients: Vec<UdpSocket> = (0..20).map(|_| client()).collect();
    for client in &clients {
        let said = ask(client);
        assert!(said.starts_with("child of web/"), "{said}");
    }
    assert_eq!(strangers(&daemon), 0);
    // One that is not connected is.
    let more = shared();
    more.bind(&"127.0.0.1:3000".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    assert_eq!(strangers(&daemon), 1);
    daemon.stop();
}

/// A socket that shares its address.
fn shared() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket
}

/// Sends all that comes for the group of `socket` to the first of it.
#[expect(unsafe_code, reason = "no library gives a group a classic program")]
fn all_to_the_first(socket: &Socket) {
    // BPF_RET: the first socket of the group.
    let program = [libc::sock_filter { code: 6, jt: 0, jf: 0, k: 0 }];
    let program = libc::sock_fprog { len: 1, filter: program.as_ptr().cast_mut() };
    let option = (&raw const program).cast();
    let size = size_of_val(&program) as libc::socklen_t;
    // SAFETY: the program and its one instruction outlive the call.
    let failed = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, option, size)
    };
    assert_eq!(failed, 0);
}

/// The kernel's doing (KERNEL.md), without the daemon: why workers with such sockets cannot be given more of ours.
#[test]
fn what_is_bound_after_a_connected_socket_is_not_in_the_first_ones_group() {
    let _world = World::new();
    for connected in [false, true] {
        let first = shared();
        first.bind(&SockAddr::from(std::net::SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
        let address = first.local_addr().unwrap();
        all_to_the_first(&first);
        let child = shared();
        if connected {
            child.bind(&address).unwrap();
            child.connect(&SockAddr::from(std::net::SocketAddr::from(([127, 0, 0, 1], 9)))).unwrap();
        }
        let later = shared();
        later.bind(&address).unwrap();
        let to = address.as_socket().unwrap();
        for _ in 0..50 {
            UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"?", to).unwrap();
        }
        let received = [first, later].map(|socket| {
            let socket = UdpSocket::from(socket);
            socket.set_nonblocking(true).unwrap();
            std::iter::from_fn(|| socket.recv(&mut [0; 8]).ok()).count()
        });
        assert_eq!(received, if connected { [0, 50] } else { [50, 0] }, "connected: {connected}");
    }
}
