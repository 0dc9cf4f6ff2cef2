//! Which binds are those of a listener: its address, and wildcards that cover it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use reuseport_lb_client::api::ServiceStatus;
use testkit::client::timeout;
use testkit::config::Config;
use testkit::daemon::{Daemon, counter, selected, settled, until};
use testkit::world::World;

use crate::family::Alone;
use crate::programs::{file_server, tries};
use crate::protocol::Protocol::Http;
use crate::row::names;

/// Whether a server of files answers at this address.
pub(crate) fn answers(at: &str) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(at.parse::<SocketAddr>().unwrap())?;
        stream.set_read_timeout(Some(timeout()))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    };
    ask().is_ok_and(|answer| answer.contains(" 200 "))
}

/// Two workers that bind like `arguments` serve a listener at all these addresses.
fn serves(listen: &str, arguments: &[&str], user: &str, at: &[&str]) {
    let world = World::new();
    let config = Config::service("web").listen(listen).workers(2).set("sockets", "bind").set("user", user);
    let daemon = Daemon::with(&world, &config.command(&file_server(&world, arguments)));
    for address in at {
        for _ in 0..20 {
            assert!(answers(address), "{listen}, {arguments:?}: {address}\n{}", daemon.log());
        }
    }
    let service = daemon.service();
    println!("{listen}, {arguments:?}: {:?}", service.workers.iter().map(selected).collect::<Vec<_>>());
    assert_eq!(names(&service), ["web/0", "web/1"]);
    assert_eq!(counter(&service, "arrival_packet"), 20 * at.len() as u64);
    assert!(service.workers.iter().all(|worker| selected(worker) > 0), "{service:?}");
    assert_eq!(service.groups[0].strangers, Some(0));
    daemon.stop();
}

#[test]
fn a_wildcard_serves_the_address_that_it_covers() {
    serves("tcp://127.0.0.1:3000", &["3000", "--bind", "0.0.0.0"], "root", &["127.0.0.1:3000"]);
}

#[test]
fn a_wildcard_of_both_families_serves_both() {
    serves("tcp://*:3000", &["3000", "--bind", "::"], "root", &["127.0.0.1:3000", "[::1]:3000"]);
}

/// A socket for both families also covers an address of one; the group has that one only.
#[test]
fn a_wildcard_of_both_families_serves_one_of_them() {
    serves("tcp://0.0.0.0:3000", &["3000", "--bind", "::"], "root", &["127.0.0.1:3000"]);
    serves("tcp://127.0.0.1:3000", &["3000", "--bind", "::"], "root", &["127.0.0.1:3000"]);
    serves("tcp://[::1]:3000", &["3000", "--bind", "::"], "root", &["[::1]:3000"]);
}

#[test]
fn a_low_port_needs_no_right() {
    serves("tcp://127.0.0.1:80", &["80", "--bind", "127.0.0.1"], "nobody", &["127.0.0.1:80"]);
}

/// A socket that is bound and closed again is no member, and does not keep the next one from being the first.
#[test]
fn a_server_that_tries_its_address_first_alone() {
    let world = World::new();
    let _alone = Alone::start(&tries(&world));
    until("it to serve", || Http.ask().ok());
}

#[test]
fn a_server_that_tries_its_address_first_is_one_member() {
    let world = World::new();
    let config = Config::web().workers(2).set("sockets", "bind");
    let daemon = Daemon::with(&world, &config.command(&tries(&world)));
    let two = |service: &ServiceStatus| service.workers.len() == 2 && settled(service);
    let service = until("two members", || Some(daemon.service()).filter(two));
    assert_eq!(names(&service), ["web/0", "web/1"]);
    for _ in 0..40 {
        Http.ask().unwrap();
    }
    assert_eq!(daemon.service().workers.iter().map(selected).sum::<u64>(), 40);
    daemon.stop();
}
