//! The servers, one row each.

use reuseport_lb_client::api::WorkerStatus;
use testkit::config::Config;
use testkit::daemon::{Daemon, selected, settled, until};
use testkit::world::World;

use crate::family::{Alone, kill};
use crate::programs::{
    asyncio, dnsdist, epoll_first, erlang, file_server, go, granian, knot, nginx, node, options, redis,
};
use crate::protocol::Asked;
use crate::protocol::Protocol::{Dns, DnsOverTcp, Http, Redis};
use crate::row::Row;

#[test]
fn nginx_with_two_processes_behind_one_socket() {
    Row { signal: "QUIT", ..Row::new(|world| nginx(world, "", 2), &[Http]) }.proves();
}

#[test]
fn nginx_with_a_socket_for_each_of_two_processes() {
    let row = Row::new(|world| nginx(world, " reuseport", 2), &[Http]);
    Row { signal: "QUIT", sockets: &[2], ..row }.proves();
}

#[test]
fn node_alone() {
    Row::new(|world| node(world, "single"), &[Http]).proves();
}

#[test]
fn node_with_a_cluster() {
    Row { mode: "main", ..Row::new(|world| node(world, "cluster"), &[Http]) }.proves();
}

#[test]
fn pythons_server_of_files() {
    Row { orderly: false, ..Row::new(|world| file_server(world, &["3000", "--bind", "127.0.0.1"]), &[Http]) }
        .proves();
}

#[test]
fn pythons_asyncio() {
    Row::new(asyncio, &[Http]).proves();
}

/// Its main process binds its address, keeps that socket, and leaves listening to its processes, each with one of its own.
#[test]
fn granian_with_three_processes() {
    let row = Row::new(|world| granian(world, "asgi", 3), &[Http]);
    Row { workers: 1, sockets: &[3], ..row }.proves();
}

#[test]
fn granian_with_one_process_in_each_of_three_workers() {
    Row::new(|world| granian(world, "wsgi", 1), &[Http]).proves();
}

#[test]
fn granian_finishes_what_is_in_flight_when_it_is_replaced() {
    let world = World::new();
    let config = Config::web().workers(2).set("sockets", "bind").set("drain_timeout", "10s");
    let daemon = Daemon::with(&world, &config.command(&granian(&world, "slow", 1)));
    let asked: Vec<Asked> = (0..20).map(|_| Http.send().unwrap()).collect();
    until("all to be accepted", || {
        let service = daemon.service();
        let accepted = |worker: &WorkerStatus| selected(worker) > 0 && worker.queue() == 0;
        service.workers.iter().all(accepted).then_some(())
    });
    daemon.run(&["restart", "web", "--trial", "100ms"]);
    let failed: Vec<String> = asked.into_iter().filter_map(|asked| asked.answer().err()).collect();
    assert!(failed.is_empty(), "{failed:?}\n{}", daemon.log());
    daemon.stop();
}

#[test]
fn a_static_program_in_go() {
    Row::new(go, &[Http]).proves();
}

#[test]
fn redis_as_it_is() {
    Row::new(redis, &[Redis]).proves();
}

#[test]
fn two_listeners_in_erlang() {
    Row { sockets: &[2], ..Row::new(erlang, &[Http]) }.proves();
}

#[test]
fn knot_over_both_protocols() {
    Row::new(|world| knot(world, 1), &[Dns, DnsOverTcp]).proves();
}

#[test]
fn knot_with_two_threads_for_datagrams() {
    Row { sockets: &[2, 1], ..Row::new(|world| knot(world, 2), &[Dns, DnsOverTcp]) }.proves();
}

#[test]
fn dnsdist_over_both_protocols() {
    Row::new(dnsdist, &[Dns, DnsOverTcp]).proves();
}

/// Event loops register a socket when they make it, as that of Boost.Asio and of Netty.
#[test]
fn a_socket_that_is_in_epoll_before_it_is_bound() {
    Row { orderly: false, ..Row::new(epoll_first, &[Http]) }.proves();
}

/// What a server says of its options, of all that it said.
fn said(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| Some(line[line.find("options: ")?..].to_owned())).collect()
}

/// Options stay as the server has set them, also for the one that comes after a crash.
#[test]
fn options_stay_as_a_server_has_set_them() {
    let world = World::new();
    let output = world.path("alone");
    let command = options(&world);
    let script = format!("exec {} > {}", command[0], output.display());
    let alone = Alone::start(&["/bin/sh".into(), "-c".into(), script]);
    let plain = until("what it says", || said(&std::fs::read_to_string(&output).ok()?).pop());
    drop(alone);
    assert!(plain.contains("SO_KEEPALIVE=1") && plain.contains("IP_PKTINFO=1"), "{plain}");

    let world = World::new();
    let config = Config::web().listen("udp://127.0.0.1:3000").workers(1).set("sockets", "bind");
    let daemon = Daemon::with(&world, &config.command(&options(&world)));
    let addressed = || {
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(testkit::client::timeout())).unwrap();
        client.send_to(b"?", "127.0.0.1:3000").unwrap();
        let mut answer = [0; 64];
        let length = client.recv(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    };
    assert_eq!((addressed().as_str(), Http.ask().is_ok()), ("to=127.0.0.1", true));
    let pid = daemon.service().workers[0].pid.unwrap();
    kill(&[pid]);
    daemon.settled_without(pid);
    assert_eq!((addressed().as_str(), Http.ask().is_ok()), ("to=127.0.0.1", true));
    until("both to have said it", || {
        let lines = said(&daemon.log());
        (lines.len() >= 2).then_some(()).filter(|()| settled(&daemon.service()))
    });
    assert_eq!(said(&daemon.log()), [plain.clone(), plain]);
    daemon.stop();
}
