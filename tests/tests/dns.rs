//! Debian's unbound, a DNS server, unmodified, as a worker.
//!
//! Of Debian's servers unbound takes a UDP socket by systemd's protocol (`use-systemd: yes`). It asks
//! sd_booted(3) first, and when that says no, or nothing that was handed over has its address, it binds
//! a socket of its own with SO_REUSEPORT and goes on: `strangers` shows that. knotd 3.2 and nsd 4.6
//! know systemd for notification only and open sockets themselves; kresd 5.6 takes them by number (`--fd`), which
//! would do as well, and needs 15 packages.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use testkit::background::beside;
use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, selected, settled, until};
use testkit::dns::{answer, query, resolved};
use testkit::fault::times;
use testkit::patience::{at_most, fewer, lasts};
use testkit::requests::steadily;
use testkit::world::{World, program};

const PORT: &str = "5300";

/// Queries of one run of dnsperf; each run has new sockets.
fn batch() -> usize {
    fewer(20_000)
}

/// A service of unbound that answers every name below `test.`
fn unbound(world: &World) -> Config {
    let file = world.file(
        "unbound.conf",
        &format!(
            "server:\n  use-systemd: yes\n  interface: 127.0.0.1@{PORT}\n  do-tcp: no\n  num-threads: 1\n  \
             username: \"\"\n  chroot: \"\"\n  directory: \"/\"\n  pidfile: \"\"\n  use-syslog: no\n  \
             module-config: \"iterator\"\n  local-zone: \"test.\" redirect\n  \
             local-data: \"test. 60 A 192.0.2.1\"\n  do-not-query-localhost: no\n  \
             unknown-server-time-limit: 60000\n  discard-timeout: 0\nremote-control:\n  control-enable: no\n\
             forward-zone:\n  name: \"slow.\"\n  forward-addr: {}\n",
            upstream()
        ),
    );
    let unbound = program("unbound").display().to_string();
    let config = Config::service("dns").listen(&format!("udp://127.0.0.1:{PORT}")).workers(4);
    config.set("idle_timeout", "1s").set("drain_timeout", "300ms").command(&[
        &*unbound,
        "-dp",
        "-c",
        &*file.to_string_lossy(),
    ])
}

/// A server that unbound asks for names below `slow.` Its answer is passed on however late it is (`discard-timeout`).
fn upstream() -> String {
    "127.0.0.1@5353".into()
}

/// Answers all that [`upstream`] is asked after this time, or a third of it less, in turn: of a server that always
/// takes as long, unbound expects just that, and asks it again if an answer is a bit later.
fn answer_after(time: Duration, socket: &UdpSocket, over: &AtomicBool) {
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    std::thread::scope(|scope| {
        let (mut query, mut turn) = ([0; 512], 0);
        while !over.load(Ordering::Relaxed) {
            let Ok((length, from)) = socket.recv_from(&mut query) else { continue };
            let answer = answer(&query[..length]);
            turn += 1;
            scope.spawn(move || {
                lasts("what it takes to answer", time - time / 3 * (turn % 2));
                socket.send_to(&answer, from).unwrap();
            });
        }
    });
}

/// Asks for a name of its own below `slow.`; whether that was answered.
fn ask_slowly(number: usize) -> bool {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(format!("127.0.0.1:{PORT}")).unwrap();
    client.set_read_timeout(Some(at_most(Duration::from_secs(20)))).unwrap();
    let query = query(1, &format!("n{number}.slow"));
    client.send(&query).unwrap();
    let mut answer = [0; 512];
    client.recv(&mut answer).is_ok_and(|length| resolved(&query, &answer[..length]).is_ok())
}

/// Makes sd_booted(3) say yes in this world, and nowhere else.
fn boot_systemd() {
    let nothing: Option<&str> = None;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), nothing).unwrap();
    std::fs::create_dir_all("/run/systemd/system").unwrap();
}

/// What dnsperf says of a batch of queries.
#[derive(Clone, Debug, Default)]
struct Answers {
    sent: u64,
    answered: u64,
    /// In seconds.
    slowest: f64,
}

/// 40 clients, at most 100 queries on their way, which no socket's buffer is too small for.
fn ask(names: &Path) -> Answers {
    let mut dnsperf = Command::new(program("dnsperf"));
    let rate = fewer(8_000).to_string();
    dnsperf.args(["-s", "127.0.0.1", "-p", PORT, "-c", "40", "-q", "100", "-Q", &rate, "-n", "20", "-d"]);
    let output = dnsperf.arg(names).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let number = |what: &str| -> Option<u64> {
        let (_, rest) = said.split_once(what)?;
        rest.split_whitespace().next()?.parse().ok()
    };
    let slowest =
        || said.split_once("Average Latency")?.1.split_once("max ")?.1.split_once(')')?.0.parse().ok();
    let answers = || {
        Some(Answers {
            sent: number("Queries sent:")?,
            answered: number("Response codes:       NOERROR")?,
            slowest: slowest()?,
        })
    };
    answers().unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)))
}

/// Resolvers take a new port for each query: nothing is gained by waiting for such flows, and a restart would wait
/// `idle_timeout` for each worker.
#[test]
fn unbound_without_flows_is_restarted_at_once_and_answers_every_query() {
    let world = World::new();
    boot_systemd();
    let long = unbound(&world).set("idle_timeout", "10m").set("drain_timeout", "10m").set("flows", "none");
    let daemon = Daemon::with(&world, &long);
    let names: String = (0..batch() / 20).map(|name| format!("{name}.test A\n")).collect();
    let names = world.file("names", &names);
    let before = daemon.service();
    let (answers, took) = std::thread::scope(|scope| {
        let restarting = scope.spawn(|| {
            let begun = Instant::now();
            daemon.run(&["restart", "dns"]);
            begun.elapsed()
        });
        let mut all = ask(&names);
        while !restarting.is_finished() {
            let batch = ask(&names);
            all.sent += batch.sent;
            all.answered += batch.answered;
        }
        (all, restarting.join().unwrap())
    });
    println!(
        "{} queries, {} lost, restart of 4 workers in {took:?}",
        answers.sent,
        answers.sent - answers.answered
    );
    assert_eq!(answers.answered, answers.sent, "a query was lost");
    let after = daemon.service();
    assert!(after.workers.iter().zip(&before.workers).all(|(new, old)| new.pid != old.pid), "{after:?}");
    assert_eq!((after.flows_cut, after.moving), (0, 0));
    assert_eq!(Counters::of(&after), Counters::all_taken(answers.sent));
    assert_eq!(after.groups[0].strangers, Some(0));
    daemon.stop();
}

/// Restarts all workers while queries of 3 s are in flight; how many were asked, and not answered.
fn restart_in_flight(flows: &str) -> (usize, usize) {
    let world = World::new();
    boot_systemd();
    let config = unbound(&world).workers(2).set("idle_timeout", "5s").set("drain_timeout", "30s");
    let daemon = Daemon::with(&world, &config.set("flows", flows).set("ready", "notify"));
    let before = daemon.workers();
    let asking = |over: &AtomicBool| steadily(over, Duration::from_millis(100), ask_slowly);
    let restart = || {
        until("queries to be in flight", || {
            daemon.service().workers.iter().all(|worker| selected(worker) > 5).then_some(())
        });
        daemon.run(&["restart", "dns", "--trial", "100ms"]);
    };
    let slow = Duration::from_secs(3);
    // Before the first query: one that is refused is given up.
    let upstream = UdpSocket::bind(upstream().replace('@', ":")).unwrap();
    let (((), answered), ()) = beside(|over| answer_after(slow, &upstream, over), || beside(asking, restart));
    let lost = answered.iter().filter(|answered| !**answered).count();
    println!("flows {flows}: {lost} of {} queries of up to {slow:?} lost", answered.len());
    assert!(daemon.workers().iter().all(|pid| !before.contains(pid)));
    daemon.stop();
    (answered.len(), lost)
}

#[test]
fn a_restart_of_unbound_finishes_queries_in_flight_if_flows_are_tracked() {
    let (asked, lost) = restart_in_flight("track");
    assert!(asked > 20 && lost == 0, "{lost} of {asked} queries were lost");
    assert!(restart_in_flight("none").1 > 0, "nothing was in flight");
}

#[test]
fn unbound_answers_every_query_while_ten_workers_join_and_ten_leave() {
    let world = World::new();
    boot_systemd();
    let daemon = Daemon::with(&world, &unbound(&world));
    let names: String = (0..batch() / 20).map(|name| format!("{name}.test A\n")).collect();
    let names = world.file("names", &names);
    let least = (batch() * times(5)) as u64;
    let change = || {
        for _ in 0..10 {
            daemon.run(&["scale", "dns", "5"]);
            // The leaver is the one that most of the clients would miss.
            let busiest = until("flows", || {
                let workers = daemon.service().workers;
                workers.into_iter().max_by_key(|worker| worker.flows).filter(|worker| worker.flows > 0)
            });
            print!("{}", daemon.run(&["drain", &busiest.name]));
        }
    };
    let answers = std::thread::scope(|scope| {
        let changing = scope.spawn(change);
        let mut all = Answers::default();
        while !changing.is_finished() || all.sent < least {
            let batch = ask(&names);
            all.sent += batch.sent;
            all.answered += batch.answered;
            all.slowest = all.slowest.max(batch.slowest);
        }
        changing.join().unwrap();
        all
    });
    let service = daemon.service();
    println!(
        "{} queries, {} lost, slowest answer {} s; {} flows cut by deadlines; {:?}",
        answers.sent,
        answers.sent - answers.answered,
        answers.slowest,
        service.flows_cut,
        Counters::of(&service)
    );
    assert!(answers.sent >= least);
    assert_eq!(answers.answered, answers.sent, "a query was lost");
    assert!(settled(&service) && service.workers.len() == 4);
    // All went to sockets that the daemon had made. How many of them a table or an earlier flow decided is chance.
    let mut counters = Counters::of(&service);
    let kept = counters.take(&["owner_kept"]);
    assert!(kept > 0 && service.flows_cut > 0);
    let rest = [("arrival_packet", answers.sent), ("owner_taken", answers.sent - kept)];
    assert_eq!(counters, Counters::expected(&rest));
    assert_eq!(service.groups[0].strangers, Some(0));
    daemon.stop();
}
