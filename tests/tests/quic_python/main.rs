//! `quic` with a server and clients of QUIC that are not in Rust: aioquic.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, settled, until};
use testkit::patience::{at_most, fewer};
use testkit::quic::Identity;
use testkit::world::World;

/// Python with what `cargo xtask test` fetches for it.
const PYTHON: &str = "python3-with-wheels";

const PORT: u16 = 4433;

fn service(world: &World) -> Config {
    let server = world.file("server.py", include_str!("server.py"));
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    Identity::new(world).echo(to, &[PYTHON, &server.to_string_lossy()]).workers(3)
}

fn start_clients(world: &World, clients: usize, messages: usize, patience: Duration) -> Child {
    let script = world.file("client.py", include_str!("client.py"));
    let patience = at_most(patience).as_secs();
    let numbers = [PORT.to_string(), clients.to_string(), messages.to_string(), patience.to_string()];
    let mut command = Command::new(PYTHON);
    command.arg(script).args(numbers).stdout(Stdio::piped());
    command.spawn().unwrap_or_else(|error| panic!("{PYTHON}: {error}; `cargo xtask test` makes it"))
}

/// Whose answers each client had, and what broke.
fn ended(clients: Child) -> (BTreeMap<u32, BTreeMap<String, usize>>, Vec<String>) {
    let output = clients.wait_with_output().unwrap();
    assert!(output.status.success());
    let (mut answers, mut broken) = (BTreeMap::<u32, BTreeMap<String, usize>>::new(), Vec::new());
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let (number, what) = line.split_once(' ').unwrap();
        if what.starts_with("broken") {
            broken.push(line.to_owned());
        } else {
            *answers.entry(number.parse().unwrap()).or_default().entry(what.to_owned()).or_default() += 1;
        }
    }
    (answers, broken)
}

#[test]
fn connections_live_on_from_port_to_port_while_workers_join_and_the_daemon_dies() {
    let world = World::new();
    let config = service(&world).toml("quic", "{ env = \"AWS_LBC_QUIC_SERVER_ID\" }".into());
    let daemon = Daemon::with(&world, &config);
    let (count, messages) = (fewer(40), 40);
    let clients = start_clients(&world, count, messages, Duration::from_secs(10));
    until("half of the way", || {
        let routed = Counters::of(&daemon.service()).get("quic_routed");
        (routed > (count * messages / 2) as i64).then_some(())
    });
    daemon.run(&["scale", "echo", "5"]);
    daemon.kill();
    let daemon = Daemon::with(&world, &config);
    until("the workers", || settled(&daemon.service()).then_some(()));
    let (answers, broken) = ended(clients);
    println!("{:?}", Counters::of(&daemon.service()));
    assert_eq!((answers.len(), broken.len()), (count, 0), "{broken:?}");
    assert!(answers.values().all(|by| by.values().eq([&messages])), "one process each: {answers:?}");
    let servers: BTreeSet<&String> = answers.values().flat_map(BTreeMap::keys).collect();
    assert!(servers.len() >= 3, "{servers:?}");
    daemon.stop();
}

/// Without `quic`, a change of the port leads to another worker, which does not know the connection.
#[test]
fn without_it_connections_break() {
    let world = World::new();
    let daemon = Daemon::with(&world, &service(&world));
    let (_, broken) = ended(start_clients(&world, 20, 2, Duration::from_secs(2)));
    println!("{} of 20: {broken:?}", broken.len());
    assert!(broken.len() > 5, "{broken:?}");
    daemon.stop();
}
