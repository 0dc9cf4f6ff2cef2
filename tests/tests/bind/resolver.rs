//! A resolver opens a socket for each question that it asks itself: such binds go on, whatever becomes of the daemon.

use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use testkit::background::beside;
use testkit::config::Config;
use testkit::daemon::{Daemon, settled, until};
use testkit::dns::answer;
use testkit::patience::{fewer, lasts};
use testkit::world::{World, program};

use crate::family::Alone;
use crate::programs::unbound;

const UPSTREAM: &str = "127.0.0.1:5353";

/// How long the daemon is dead.
const DEAD: Duration = Duration::from_secs(10);

/// Queries a second; REUSEPORT_LB_QUERIES says how many. Two cores that do other things as well answer 5,000 not at all
/// times, with a daemon or without.
fn rate() -> usize {
    let asked = std::env::var("REUSEPORT_LB_QUERIES").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or_else(|| fewer(2_000))
}

/// Answers all names at once.
fn answer_all(over: &AtomicBool) {
    let socket = UdpSocket::bind(UPSTREAM).unwrap();
    socket2::SockRef::from(&socket).set_recv_buffer_size(8 << 20).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut query = [0; 512];
    while !over.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut query) else { continue };
        // unbound may have given up on it.
        let _ = socket.send_to(&answer(&query[..length]), from);
    }
}

/// Asks for names that nobody knows yet, at [`rate`]; how many were asked, and how many answered.
fn ask(names: &Path) -> (u64, u64) {
    let mut dnsperf = Command::new(program("dnsperf"));
    dnsperf.args(["-s", "127.0.0.1", "-p", "3000", "-c", "40", "-q", "400", "-t", "10", "-n", "1"]);
    dnsperf.args(["-Q", &rate().to_string(), "-d"]);
    let output = dnsperf.arg(names).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    let number = |what: &str| -> u64 {
        let rest = said.split_once(what).unwrap_or_else(|| panic!("no {what:?}: {said}")).1;
        rest.split_whitespace().next().unwrap().parse().unwrap()
    };
    (number("Queries sent:"), number("Response codes:       NOERROR"))
}

fn names(world: &World, seconds: usize) -> std::path::PathBuf {
    let names: String = (0..rate() * seconds).map(|name| format!("n{name}.test A\n")).collect();
    world.file("names", &names)
}

#[test]
fn unbound_alone() {
    let world = World::new();
    let names = names(&world, 4);
    let (answers, ()) = beside(answer_all, || {
        let _alone = Alone::start(&unbound(&world, &UPSTREAM.replace(':', "@")));
        until("it to serve", || crate::protocol::Protocol::Dns.ask().ok());
        ask(&names)
    });
    assert_eq!(answers.0, answers.1, "a query was lost");
}

#[test]
fn a_resolver_answers_all_queries_while_its_daemon_is_dead() {
    let world = World::new();
    let config = Config::service("web").listen("udp://127.0.0.1:3000").workers(3).set("sockets", "bind");
    let config = config.set("flows", "none").command(&unbound(&world, &UPSTREAM.replace(':', "@")));
    let names = names(&world, 5 + DEAD.as_secs() as usize + 5);
    let ((daemon, answers), ()) = beside(answer_all, || {
        let daemon = Daemon::with(&world, &config);
        let dies = || {
            lasts("queries beside the daemon", Duration::from_secs(5));
            daemon.kill();
            lasts("queries without a daemon", DEAD);
            Daemon::with(&world, &config)
        };
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| ask(&names));
            let next = dies();
            (next, asked.join().unwrap())
        })
    });
    println!("{} queries, {} lost", answers.0, answers.0 - answers.1);
    assert_eq!(answers.0, answers.1, "a query was lost");
    let service = daemon.service();
    assert!(settled(&service) && service.workers.iter().all(|worker| worker.restarts == 0), "{service:?}");
    daemon.stop();
}
