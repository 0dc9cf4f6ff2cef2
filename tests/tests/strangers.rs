//! Processes that bind our port get nothing, and are counted.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::io::ErrorKind;
use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};
use tests::client::{ask, ask_udp, tally};
use tests::daemon::{Daemon, counter};
use tests::patience::fewer;
use tests::world::World;

fn stranger(to: SocketAddr, kind: Type) -> Socket {
    let socket = Socket::new(Domain::for_address(to), kind, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&to.into()).unwrap();
    if kind == Type::STREAM {
        socket.listen(1024).unwrap();
    }
    socket.set_nonblocking(true).unwrap();
    socket
}

fn check(daemon: &Daemon, to: SocketAddr, strangers: &[Socket; 2]) {
    let count = fewer(10_000);
    let answered: u64 = tally(count, || ask(to)).values().sum();
    assert_eq!(answered, count as u64);
    let answered: u64 = tally(count, || ask_udp(to, None)).values().sum();
    assert_eq!(answered, count as u64);
    assert_eq!(strangers[0].accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(
        strangers[1].recv(&mut [std::mem::MaybeUninit::uninit(); 8]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    let service = daemon.service();
    assert_eq!(service.groups.iter().map(|group| group.strangers).collect::<Vec<_>>(), [Some(1), Some(1)]);
    assert_eq!(counter(&service, "owner_taken"), 2 * count as u64);
}

const LISTENERS: [&str; 4] = ["--listen", "tcp://127.0.0.1:3000", "--listen", "udp://127.0.0.1:3000"];

#[test]
fn a_stranger_that_comes_later_gets_nothing() {
    let world = World::new();
    let daemon = Daemon::start(&world, &LISTENERS);
    let to: SocketAddr = "127.0.0.1:3000".parse().unwrap();
    assert!(daemon.service().groups.iter().all(|group| group.strangers == Some(0)));
    let strangers = [stranger(to, Type::STREAM), stranger(to, Type::DGRAM)];
    check(&daemon, to, &strangers);
    drop(strangers);
    assert!(daemon.service().groups.iter().all(|group| group.strangers == Some(0)));
    daemon.stop();
}

#[test]
fn a_stranger_that_was_there_first_gets_nothing_any_more() {
    let world = World::new();
    let to: SocketAddr = "127.0.0.1:3000".parse().unwrap();
    let strangers = [stranger(to, Type::STREAM), stranger(to, Type::DGRAM)];
    let daemon = Daemon::start(&world, &LISTENERS);
    check(&daemon, to, &strangers);
    daemon.stop();
}

#[test]
fn a_stranger_is_left_as_it_was_when_the_daemon_ends() {
    let world = World::new();
    let to: SocketAddr = "127.0.0.1:3000".parse().unwrap();
    let strangers = [stranger(to, Type::STREAM), stranger(to, Type::DGRAM)];
    let daemon = Daemon::start(&world, &LISTENERS);
    assert!(
        daemon.log().contains("1 other sockets are on the port of tcp://127.0.0.1:3000"),
        "{}",
        daemon.log()
    );
    daemon.stop();
    let client = std::net::TcpStream::connect(to).unwrap();
    strangers[0].accept().unwrap();
    drop(client);
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"?", to).unwrap();
    assert_eq!(strangers[1].recv(&mut [std::mem::MaybeUninit::uninit(); 8]).unwrap(), 1);
}

#[test]
fn our_own_other_listeners_are_no_strangers() {
    let world = World::new();
    let daemon =
        Daemon::start(&world, &["--listen", "tcp://0.0.0.0:3000", "--listen", "tcp://127.0.0.1:3000"]);
    assert!(daemon.service().groups.iter().all(|group| group.strangers == Some(0)));
    daemon.stop();
}
