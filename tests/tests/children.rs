//! Workers that bind a socket of their own for each client on the listener's address, as DTLS, QUIC and TURN
//! servers do.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use reuseport_lb_client::api::ServiceStatus;
use rustix::process::Uid;
use rustix::thread::set_thread_res_uid;
use socket2::{Domain, SockAddr, Socket, Type};
use testkit::client::timeout;
use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, Paths, selected, settled, signal, until};
use testkit::patience::fewer;
use testkit::said::assert_said;
use testkit::world::World;

/// Workers that answer each client from a connected socket on the address that it asked; or, where that cannot be
/// had, say why from the socket that they were given.
fn config(world: &World, url: &str, user: &str) -> Config {
    let config = Config::service("web").listen(url).workers(2);
    let config = config.set("idle_timeout", "200ms").set("user", user);
    config.server(world, "--answer children --ready notify --term abrupt")
}

fn daemon(world: &World, user: &str) -> Daemon {
    Daemon::with(world, &config(world, "udp://127.0.0.1:3000", user))
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
    asking("127.0.0.1".parse().unwrap())
}

/// So many clients, each of which has sent something.
fn sent_by(count: usize) -> impl Iterator<Item = UdpSocket> {
    (0..count).map(|_| client()).inspect(|client| assert_eq!(client.send(b"?").unwrap(), 1))
}

/// A client that asks this address.
fn asking(address: IpAddr) -> UdpSocket {
    let any = if address.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let client = UdpSocket::bind(any).unwrap();
    client.connect((address, 3000)).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    client
}

fn strangers(daemon: &Daemon) -> usize {
    daemon.service().groups[0].strangers.unwrap()
}

/// Users of the sockets on the port (/proc/net/udp, or that of another protocol).
fn owners() -> Vec<u32> {
    owners_in("udp")
}

fn owners_in(table: &str) -> Vec<u32> {
    let is_tcp = table == "tcp";
    let table = std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap();
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<&str>>());
    // Of TCP the listeners: connections in their queues keep the user that those had.
    let counts = |row: &Vec<&str>| !is_tcp || row[3] == "0A";
    let on_port = rows.filter(|row| row[1].ends_with(":0BB8") && counts(row));
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

/// Asserts that whoever comes now is answered from a child, and that the program has decided about each of them and
/// about nothing else: no worker has a socket beside the group.
#[track_caller]
fn assert_all_decided(daemon: &Daemon, address: IpAddr) {
    drop(assert_decided(daemon, address, 0));
}

#[track_caller]
fn assert_decided(daemon: &Daemon, address: IpAddr, strangers: usize) -> Vec<UdpSocket> {
    let before = until("flows to be quiet", || {
        let service = daemon.service();
        let live = service.groups[0].flows.unwrap().live;
        (settled(&service) && service.moving == 0 && live == 0).then_some(service)
    });
    let count = fewer(200);
    let clients: Vec<UdpSocket> = (0..count).map(|_| asking(address)).collect();
    clients.iter().for_each(assert_from_child);
    let after = daemon.service();
    assert_eq!(Counters::difference(&before, &after), Counters::all_taken(count as u64));
    let had = |service: &ServiceStatus| service.workers.iter().map(selected).collect::<Vec<u64>>();
    assert!(
        had(&before).iter().zip(had(&after)).all(|(before, after)| *before < after),
        "each has its share"
    );
    assert_eq!(after.groups[0].strangers, Some(strangers));
    clients
}

fn assert_from_child(client: &UdpSocket) {
    let said = ask(client);
    assert!(said.starts_with("child of web/"), "{said}");
}

/// 200 clients that ask all the time, while workers are replaced and added, and the daemon dies.
fn outlast(url: &str, table: &str, addresses: &[&str]) {
    let world = World::new();
    let config = config(&world, url, "nobody").set("socket_owner", "user");
    let daemon = Daemon::with(&world, &config);
    daemon.says("its sockets belong to nobody, as whom");
    assert_eq!(daemon.service().socket_owner.as_deref(), Some("nobody"));
    let addresses: Vec<IpAddr> = addresses.iter().map(|it| it.parse().unwrap()).collect();
    let all = addresses.iter().cycle().take(fewer(200));
    let clients: Vec<UdpSocket> = all.map(|address| asking(*address)).collect();
    clients.iter().for_each(assert_from_child);
    // The newest socket on the address is a child.
    assert!(daemon.run(&["scale", "web", "3"]).contains("2 → 3 workers"));
    addresses.iter().for_each(|address| assert_all_decided(&daemon, *address));
    let (done, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    let daemon = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                clients.iter().for_each(assert_from_child);
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        let next_round = || {
            let seen = rounds.load(Ordering::Relaxed);
            until("a round", || (rounds.load(Ordering::Relaxed) > seen + 1).then_some(()));
        };
        let replaced = daemon.run(&["restart", "web", "--trial", "100ms"]);
        assert!(replaced.contains("web: 3 replaced"), "{replaced}");
        next_round();
        assert!(daemon.run(&["scale", "web", "4"]).contains("3 → 4 workers"));
        next_round();
        daemon.kill();
        next_round();
        let daemon = Daemon::with(&world, &config.clone().workers(4));
        // Until then no workers can be replaced.
        daemon.says("configured: web: not changed");
        let replaced = daemon.run(&["restart", "web", "--trial", "100ms"]);
        assert!(replaced.contains("web: 4 replaced"), "{replaced}");
        next_round();
        done.store(true, Ordering::Relaxed);
        asking.join().unwrap();
        daemon
    });
    // A worker that is killed leaves its socket and what is queued there to its successor.
    let killed = daemon.service().workers[0].pid.unwrap();
    signal(killed, Signal::SIGKILL);
    clients.iter().for_each(assert_from_child);
    daemon.settled_without(killed);
    addresses.iter().for_each(|address| assert_all_decided(&daemon, *address));
    assert_eq!(owners_in(table), [65534]);
    assert!(!daemon.log().contains("may give a new socket"), "{}", daemon.log());
    daemon.stop();
}

#[test]
fn clients_keep_their_address_while_workers_are_replaced() {
    outlast("udp://127.0.0.1:3000", "udp", &["127.0.0.1"]);
}

#[test]
fn clients_keep_their_address_over_ipv6() {
    outlast("udp://[::1]:3000", "udp6", &["::1"]);
}

#[test]
fn clients_of_a_socket_on_all_addresses_keep_the_one_that_they_asked() {
    outlast("udp://0.0.0.0:3000", "udp", &["127.0.0.1", "127.0.0.2", "127.1.2.3"]);
}

#[test]
fn what_came_while_a_worker_was_starting_is_answered_from_the_address_that_was_asked() {
    let world = World::new();
    let gate = world.path("gate");
    let flags = format!("--gate {} --answer children --ready notify --term abrupt", gate.display());
    let config = config(&world, "udp://0.0.0.0:3000", "nobody").set("socket_owner", "user");
    config.server(&world, &flags).write(&world);
    let daemon = Daemon::start_until(&world, Paths::of(&world).run(), |it| {
        it.workers.iter().filter(|worker| !worker.sockets.is_empty()).count() == 2
    });
    let clients = ["127.0.0.1", "127.0.0.2", "127.1.2.3"].map(|address| asking(address.parse().unwrap()));
    clients.iter().for_each(|client| assert_eq!(client.send(b"?").unwrap(), 1));
    let waiting = |it: &ServiceStatus| it.workers.iter().any(|worker| worker.sockets[0].queue > 0);
    until("datagrams to wait", || waiting(&daemon.service()).then_some(()));
    std::fs::write(gate, "").unwrap();
    for client in &clients {
        client.set_read_timeout(Some(timeout())).unwrap();
        let mut buffer = [0; 64];
        let length = client.recv(&mut buffer).unwrap();
        assert!(buffer[..length].starts_with(b"child of web/"));
    }
    daemon.stop();
}

/// The user may change while children live, and back: those that are there stay as they are.
#[test]
fn a_reload_gives_the_sockets_to_another_user() {
    let world = World::new();
    let with = |user: &str, owner: &str| {
        let config = config(&world, "udp://127.0.0.1:3000", user).listen("tcp://127.0.0.1:3000");
        config.set("socket_owner", owner)
    };
    let daemon = Daemon::with(&world, &with("nobody", "daemon"));
    assert_eq!(ask(&client()), "EADDRINUSE");
    let connects = || TcpStream::connect_timeout(&"127.0.0.1:3000".parse().unwrap(), timeout()).map(drop);
    let mut clients = Vec::new();
    for (user, owner, uid) in [
        ("nobody", "user", 65534),
        ("12345", "user", 12345),
        ("nobody", "user", 65534),
        ("nobody", "daemon", 0),
        ("12345", "user", 12345),
    ] {
        with(user, owner).write(&world);
        let said = daemon.run(&["reload"]);
        assert!(said.starts_with("web: "), "{said}");
        let by_user = owner == "user";
        for _ in 0..20 {
            clients.push(client());
            let said = ask(&clients[clients.len() - 1]);
            assert_eq!(said.starts_with("child of web/"), by_user, "{user} {owner}: {said}");
            assert!(by_user || said == "EADDRINUSE", "{user} {owner}: {said}");
            connects().unwrap();
        }
        assert_eq!((owners_in("tcp"), strangers(&daemon)), (vec![uid], 0), "{user} {owner}");
        assert_eq!(daemon.service().socket_owner.as_deref(), by_user.then_some(user));
        // More workers, and so more sockets, beside children of this user and of the one before.
        daemon.run(&["scale", "web", "3"]);
        if by_user {
            assert_all_decided(&daemon, "127.0.0.1".parse().unwrap());
        }
        connects().unwrap();
        daemon.run(&["scale", "web", "2"]);
    }
    assert!(!daemon.log().contains("may give a new socket"), "{}", daemon.log());

    // Not while others are in the group whose sockets stay theirs.
    for kind in [Type::DGRAM, Type::STREAM] {
        with("12345", "daemon").write(&world);
        assert!(daemon.run(&["reload"]).starts_with("web: "));
        let other = Socket::new(Domain::IPV4, kind, None).unwrap();
        other.set_reuse_port(true).unwrap();
        other.bind(&SockAddr::from(SocketAddr::from(([127, 0, 0, 1], 3000)))).unwrap();
        if kind == Type::STREAM {
            other.listen(1).unwrap();
        }
        with("12345", "user").write(&world);
        let said = daemon.paths().output(&["reload"]);
        assert_said(&said, 1, &["cannot become those of user id 12345: user id 0 has sockets there"]);
        assert_eq!((daemon.service().socket_owner, owners_in("tcp")), (None, vec![0]));
        drop(other);
        assert!(daemon.run(&["reload"]).starts_with("web: "));
        assert_eq!(owners_in("tcp"), [12345]);
    }
    daemon.stop();
}

/// A process of the user that the sockets belong to may join the group, and replace its program: for a second at
/// most.
#[test]
fn a_process_of_that_user_gets_nothing_for_long() {
    let world = World::new();
    let config = config(&world, "udp://127.0.0.1:3000", "nobody").set("socket_owner", "user");
    let daemon = Daemon::with(&world, &config);
    let to: SocketAddr = ([127, 0, 0, 1], 3000).into();
    let foreign = std::thread::spawn(move || {
        set_thread_res_uid(Uid::from_raw(65534), Uid::from_raw(65534), Uid::from_raw(65534)).unwrap();
        let foreign = shared();
        foreign.bind(&SockAddr::from(to)).unwrap();
        foreign
    });
    let foreign = UdpSocket::from(foreign.join().unwrap());
    foreign.set_nonblocking(true).unwrap();
    // They stay: the child of one that is gone would get what comes from the same port.
    let mut senders = assert_decided(&daemon, to.ip(), 1);
    until("it to get something", || {
        // Of three sockets it is the last.
        all_to(&foreign, 2);
        senders.extend(sent_by(20));
        foreign.recv(&mut [0; 8]).ok()
    });
    let counted = || daemon.service().groups[0].counters["arrival_packet"];
    until("the program to be back", || {
        let before = counted();
        senders.extend(sent_by(20));
        (counted() == before + 20).then_some(())
    });
    while foreign.recv(&mut [0; 8]).is_ok() {}
    senders.extend(assert_decided(&daemon, to.ip(), 1));
    assert_eq!(foreign.recv(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
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

/// Sends all that comes for the group of `socket` to one of it, counted from 0.
#[expect(unsafe_code, reason = "no library gives a group a classic program")]
fn all_to(socket: &impl AsRawFd, k: u32) {
    // BPF_RET: an index in the group.
    let program = [libc::sock_filter { code: 6, jt: 0, jf: 0, k }];
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
        all_to(&first, 0);
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
