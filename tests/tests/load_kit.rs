//! The load generator, tried on plain SO_REUSEPORT.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::client::{self, ask};
use testkit::daemon::{signal, until};
use testkit::load::{Ending, Failure, Load, Stage};
use testkit::patience::{at_most, fewer, lasts};
use testkit::plain::Plain;
use testkit::world::World;

const NONE: Vec<&Failure> = Vec::new();

#[test]
fn requests_are_counted_and_kept_connections_stay() {
    let world = World::new();
    let plain = Plain::start(&world, 3000, 4);
    let first = ask(plain.address()).unwrap();
    assert_eq!(
        plain.pids().iter().position(|pid| *pid == first.pid).map(|n| format!("plain/{n}")),
        Some(first.worker)
    );
    let load = Load::to(plain.address()).start();
    lasts("the load", Duration::from_secs(4));
    let so_far = load.report_so_far();
    let report = load.end();
    println!("{}", report.summary());
    assert_eq!(report.failed_except(|_| false), NONE);
    assert_eq!(report.ended, []);
    assert_eq!(report.requests, report.answered.values().sum::<u64>());
    assert!(
        report.requests > so_far.requests && so_far.requests > fewer(1_000) as u64,
        "{}",
        so_far.summary()
    );
    assert!(report.kept_messages > fewer(fewer(10_000)) as u64, "{}", report.kept_messages);
    assert_eq!(report.answered.keys().collect::<Vec<_>>(), ["plain/0", "plain/1", "plain/2", "plain/3"]);
    assert_eq!(
        (report.latencies.count(), report.kept_latencies.count()),
        (report.requests, report.kept_messages)
    );
    assert!(
        (at_most(Duration::from_millis(49))..at_most(Duration::from_millis(150))).contains(&report.pace())
    );
    assert!(report.quantile(0.5) <= report.quantile(0.99) && report.quantile(0.99) <= report.slowest());
}

#[test]
fn a_pause_and_a_pace_are_kept() {
    let world = World::new();
    let plain = Plain::start(&world, 3000, 1);
    let load = Load::to(plain.address())
        .clients(2)
        .kept(5)
        .every(Duration::from_millis(100))
        .pause(Duration::from_millis(50))
        .start();
    lasts("the load", Duration::from_secs(2));
    let report = load.end();
    println!("{}", report.summary());
    assert!((40..=90).contains(&report.requests), "{}", report.requests);
    assert!((60..=110).contains(&report.kept_messages), "{}", report.kept_messages);
}

#[test]
fn a_worker_that_is_killed_is_seen() {
    let world = World::new();
    let plain = Plain::start(&world, 3000, 4);
    let load = Load::to(plain.address()).kept(100).start();
    let victim = plain.pids()[1];
    let killed = Instant::now();
    signal(victim, Signal::SIGKILL);
    lasts("the load", Duration::from_secs(1));
    let report = load.end();
    println!("{}", report.summary());
    let ended = report.ended.iter().filter(|ended| ended.pid == victim).count();
    let failed = report.failed.iter().filter(|failure| failure.kept == Some(("plain/1".into(), victim)));
    assert!((5..60).contains(&(ended + failed.count())), "about 25 of 100 were kept there");
    assert_eq!(report.ended.len(), ended, "nobody else's ended");
    assert!(report.ended.iter().all(|ended| ended.at > killed && ended.worker == "plain/1"));
    // What it had accepted or queued is broken then, and nothing else and never later.
    let at_the_kill = |failure: &Failure| {
        failure.kind == ErrorKind::ConnectionReset || failure.kind == ErrorKind::UnexpectedEof
    };
    assert_eq!(report.failed_except(at_the_kill), NONE);
    let late = |failure: &Failure| failure.started < killed + Duration::from_millis(200);
    assert_eq!(report.failed_except(late), NONE);
}

#[test]
fn a_worker_that_is_stopped_is_slow() {
    let world = World::new();
    let plain = Plain::start(&world, 3000, 4);
    let load = Load::to(plain.address()).kept(100).start();
    let stopped = plain.pids()[2];
    signal(stopped, Signal::SIGSTOP);
    lasts("the stop", Duration::from_secs(2));
    signal(stopped, Signal::SIGCONT);
    lasts("the load", Duration::from_millis(300));
    let report = load.end();
    println!("{}", report.summary());
    assert_eq!(report.failed_except(|_| false), NONE);
    assert!(report.latencies.slowest() > Duration::from_secs(1));
    assert!(report.kept_latencies.slowest() > Duration::from_secs(1));
    assert!(report.quantile(0.5) < Duration::from_secs(1));
}

#[test]
fn a_worker_that_never_answers_fails_requests_and_does_not_delay_the_end() {
    let _world = World::new();
    // Its queue takes connections; nobody accepts them.
    let listener = TcpListener::bind("127.0.0.1:3000").unwrap();
    let load = Load::to(listener.local_addr().unwrap()).clients(3).kept(0).start();
    lasts("the load, which connects meanwhile", Duration::from_millis(200));
    let begun = Instant::now();
    let report = load.end();
    assert!(begun.elapsed() < at_most(Duration::from_secs(6)), "{:?}", begun.elapsed());
    assert_eq!((report.requests, report.failed.len()), (3, 3));
    for failure in &report.failed {
        println!("{failure}");
        assert_eq!((failure.stage, failure.kind), (Stage::Answer, ErrorKind::TimedOut));
        assert!(failure.at - failure.started >= client::timeout() && failure.local.is_some());
    }
}

#[test]
fn where_nobody_listens_the_load_does_not_run_wild_and_drop_ends_it() {
    let _world = World::new();
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let load = Load::to("127.0.0.1:3000".parse().unwrap()).clients(2).kept(2).start();
    until("a failure", || load.report_so_far().failed.first().cloned());
    lasts("the load", Duration::from_millis(500));
    let report = load.report_so_far();
    assert!(report.failed.len() < 250, "{}", report.failed.len());
    let refused = |failure: &Failure| {
        (failure.stage, failure.kind) == (Stage::Connect, ErrorKind::ConnectionRefused)
            && failure.local.is_some()
    };
    assert_eq!(report.failed_except(refused), NONE);
    let before = threads();
    drop(load);
    // Who joined it may be told a moment before it leaves the list.
    until("its thread to be gone", || (threads() < before).then_some(()));
}

#[test]
fn the_ways_in_which_connections_end_are_told_apart() {
    // For each: what the server does once it has read so many requests, and what the load says.
    let close: fn(std::net::TcpStream) = drop;
    let reset: fn(std::net::TcpStream) =
        |stream| socket2::Socket::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
    let cases = [
        (1, "", close, Some(Ending::Idle)),
        (1, "", reset, Some(Ending::Reset)),
        (1, "Connection: close\r\n", close, Some(Ending::Said)),
        (2, "", close, Some(Ending::Raced)),
        (2, "", reset, Some(Ending::Raced)),
        (0, "", close, None),
    ];
    let _world = World::new();
    for (requests, header, end, expected) in cases {
        let (to, server) = server(requests, header, end);
        let load = Load::to(to).clients(0).kept(1).every(Duration::from_millis(20)).start();
        let report = until("an end", || {
            Some(load.report_so_far()).filter(|report| !report.ended.is_empty() || !report.failed.is_empty())
        });
        drop(load);
        server.join().unwrap();
        println!("{expected:?}: {:?} {:?}", report.ended.first(), report.failed.first());
        match expected {
            Some(how) => assert_eq!((report.ended[0].how, report.ended[0].pid), (how, 0)),
            None => {
                assert_eq!((report.failed[0].stage, report.failed[0].kept.clone()), (Stage::Answer, None))
            }
        }
    }
}

#[test]
fn an_answer_of_another_process_is_wrong() {
    let _world = World::new();
    let (to, server) = server(9, "", drop);
    let load = Load::to(to).clients(0).kept(1).every(Duration::from_millis(20)).start();
    let failure = until("a failure", || load.report_so_far().failed.first().cloned());
    drop(load);
    server.join().unwrap();
    assert_eq!((failure.stage, failure.kept.clone()), (Stage::Wrong, Some(("odd/0".into(), 0))));
    assert!(failure.text.contains("another one answered: odd/0 with pid 1"), "{failure}");
}

/// Accepts one connection, reads so many requests and ends it after the last; the others have been
/// answered, from the second on with another process id. The first is answered in any case.
fn server(
    requests: usize,
    header: &'static str,
    end: fn(std::net::TcpStream),
) -> (SocketAddr, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        for request in 0..requests {
            if stream.read(&mut [0; 1024]).unwrap_or(0) == 0 {
                return;
            }
            if request == 0 || request + 1 < requests {
                let body = format!("worker=odd/0\npid={request}\npeer={peer}\n");
                let length = body.len();
                let answer = format!("HTTP/1.1 200 OK\r\n{header}Content-Length: {length}\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).unwrap();
            }
        }
        end(stream);
    });
    (to, serving)
}
