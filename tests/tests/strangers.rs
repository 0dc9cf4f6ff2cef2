//! Processes that bind our port get nothing, and are counted.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};
use testkit::client::{ask, ask_udp, tally};
use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, Paths, signal, until};
use testkit::patience::fewer;
use testkit::said::assert_said;
use testkit::server::words;
use testkit::world::World;

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
    assert_eq!(Counters::of(&service), Counters::all_taken(2 * count as u64));
}

const LISTENERS: [&str; 4] = ["--listen", "tcp://127.0.0.1:3000", "--listen", "udp://127.0.0.1:3000"];

// vm: short
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

fn service(name: &str, port: u16) -> Config {
    Config::service(name).listen(&format!("tcp://127.0.0.1:{port}")).workers(1)
}

#[test]
fn a_reload_cannot_take_the_address_of_another_daemon_until_that_ends() {
    let world = World::new();
    let first = Daemon::with(&world, &service("web", 3000));
    let (file, other) = (world.path("second.toml"), world.path("second"));
    let command = |verb: &str, more: &[&str]| {
        let mut command = Paths::of(&world).command(&[verb]);
        command.arg("--runtime-dir").arg(&other).args(more);
        command
    };
    std::fs::write(&file, service("api", 3001).to_string()).unwrap();
    let mut second = command("run", &["--config", &file.to_string_lossy()]).spawn().unwrap();
    until("the second daemon", || ask("127.0.0.1:3001".parse().unwrap()).ok());
    std::fs::write(&file, service("api", 3001).and(service("www", 3000)).to_string()).unwrap();
    let said = format!("another reuseport-lb (process {}) serves tcp://127.0.0.1:3000", first.pid());
    assert_said(&command("reload", &[]).output().unwrap(), 1, &[&said, "with another runtime directory"]);
    let status = String::from_utf8(command("status", &[]).output().unwrap().stdout).unwrap();
    assert!(status.contains("api/0") && !status.contains("www/0"), "{status}");
    assert_eq!(ask("127.0.0.1:3000".parse().unwrap()).unwrap().worker, "web/0");
    assert_eq!(first.service().groups[0].strangers, Some(0));
    first.stop_beside();
    assert!(command("reload", &[]).status().unwrap().success());
    assert_eq!(ask("127.0.0.1:3000".parse().unwrap()).unwrap().worker, "www/0");
    signal(second.id().cast_signed(), Signal::SIGTERM);
    assert!(second.wait().unwrap().success());
}

#[test]
fn a_name_that_another_user_has_taken_keeps_nobody_from_an_address() {
    let world = World::new();
    let flags = "--answer never --open unix://reuseport-lb/tcp://127.0.0.1:3000 --ready pid --until-stdin";
    let words = words(&world, flags);
    let mut squatter = Command::new(&words[0]);
    squatter.args(&words[1..]).current_dir("/").uid(65534).gid(65534);
    squatter.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut squatter = squatter.spawn().unwrap();
    squatter.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    let daemon = Daemon::with(&world, &service("web", 3000));
    assert_eq!(ask("127.0.0.1:3000".parse().unwrap()).unwrap().worker, "web/0");
    drop(squatter.stdin.take());
    assert!(squatter.wait().unwrap().success());
    daemon.stop();
}
