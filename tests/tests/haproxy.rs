//! HAProxy, unmodified, as a worker.

use std::net::SocketAddr;

use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, selected};
use testkit::patience::fewer;
use testkit::server::haproxy;
use testkit::world::{World, program, run};

#[test]
fn haproxy_serves_from_its_socket_with_four_workers() {
    let world = World::new();
    // A worker that a busy machine lets wait has 16 in its queue at times, which is an overload.
    let config = Config::web().workers(4).set("ready", "500ms").set("overload", "off");
    let daemon = Daemon::with(&world, &config.command(&haproxy(&world)));
    let to: SocketAddr = "127.0.0.1:3000".parse().unwrap();
    assert!(testkit::client::ask(to).unwrap().worker.starts_with("web/"));

    let requests = fewer(20_000) as u64;
    let ab = program("ab").to_string_lossy().into_owned();
    let said =
        run(&ab, &["-l", "-n", &requests.to_string(), "-c", "32", "-s", "5", "http://127.0.0.1:3000/"]);
    println!("{said}");
    let number = |what: &str| -> u64 {
        let value = said.lines().find_map(|line| line.strip_prefix(what)).expect("a line of ab");
        value.trim().parse().expect("a number")
    };
    assert_eq!((number("Complete requests:"), number("Failed requests:")), (requests, 0), "{said}");
    assert!(!said.contains("Non-2xx"), "{said}");

    let service = daemon.service();
    let taken = service.workers.iter().map(selected).sum();
    // Ours, ab's, and at most one a client that ab opens and does not use any more.
    assert!((requests + 1..=requests + 33).contains(&taken), "{taken} decisions for {requests} answers");
    assert_eq!(Counters::of(&service), Counters::all_taken(taken));
    for worker in &service.workers {
        let share = selected(worker) as f64 / taken as f64;
        assert!((0.2..0.3).contains(&share), "{} got {share}", worker.name);
    }
    daemon.stop();
}
