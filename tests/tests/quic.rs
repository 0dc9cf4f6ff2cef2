//! QUIC, with servers and clients of quinn: a connection breaks when one datagram of it goes to
//! another worker than those before, since that answers with a stateless reset.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::sys::signal::Signal;
use reuseport_lb_client::api::WorkerStatus;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, is_alive, signal, until};
use testkit::patience::{fewer, lasts};
use testkit::quic::{Clients, Identity, Report};
use testkit::world::World;

/// Each sends every 50 ms.
fn connections() -> usize {
    fewer(200)
}

/// These tests run one at a time: each takes all of the machine.
static TURN: Mutex<()> = Mutex::new(());

fn to() -> SocketAddr {
    "127.0.0.1:4433".parse().unwrap()
}

/// Four workers and their clients.
struct Echo {
    clients: Clients,
    daemon: Daemon,
    identity: Identity,
    _world: World,
    _turn: MutexGuard<'static, ()>,
}

impl Echo {
    fn start() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let world = World::new();
        let identity = Identity::new(&world);
        let config = identity.echo(to(), &[env!("CARGO_BIN_EXE_quic-echo")]).workers(4);
        let config = config.set("idle_timeout", "2s").set("on_crash", "migrate");
        let daemon = Daemon::with(&world, &config);
        let clients = Clients::start(to(), &identity, connections());
        let served = clients.by_server();
        println!("at the start: {served:?}");
        assert_eq!((served.len(), served.values().sum()), (4, connections()));
        Self { clients, daemon, identity, _world: world, _turn: turn }
    }

    fn worker(&self, name: &str) -> WorkerStatus {
        self.daemon.service().workers.into_iter().find(|worker| worker.name == name).unwrap()
    }

    /// Runs a command while something else is done that does not take longer.
    fn during(&self, command: &[&str], work: impl FnOnce()) -> String {
        std::thread::scope(|scope| {
            let running = scope.spawn(|| self.daemon.run(command));
            work();
            running.join().unwrap()
        })
    }

    /// Ends all. Beside what went to the owners of buckets, those of `must` have counted, and perhaps those of `may`;
    /// how many datagrams there were is chance.
    fn end(self, must: &[&str], may: &[&str]) -> Report {
        let report = self.clients.end();
        let service = self.daemon.service();
        let counters = Counters::of(&service);
        println!("{report}; {} flows cut by deadlines; {counters:?}", service.flows_cut);
        counters.assert_only(&[&["arrival_packet", "owner_taken"], must].concat(), may);
        self.daemon.stop();
        report
    }
}

#[test]
fn a_join_moves_no_connection_and_gets_its_share_of_new_ones() {
    let echo = Echo::start();
    let before = echo.clients.by_server();
    for workers in 5..=6 {
        echo.daemon.run(&["scale", "echo", &workers.to_string()]);
        let newest = echo.worker(&format!("echo/{}", workers - 1)).pid.unwrap();
        let later = Clients::start(to(), &echo.identity, 100);
        let share = later.at(newest);
        println!("{share} of 100 new connections went to the newest of {workers}");
        assert!((3..45).contains(&share));
        echo.clients.heard_again();
        assert_eq!(echo.clients.by_server(), before);
        assert_eq!(later.end().lost.len(), 0);
    }
    let service = echo.daemon.service();
    assert!(service.moving > 0, "{service:?}");
    assert_eq!(service.flows_cut, 0);
    assert_eq!(echo.end(&["owner_kept"], &[]).lost.len(), 0);
}

#[test]
fn a_worker_that_leaves_ends_when_its_connections_have_ended() {
    let echo = Echo::start();
    let leaver = echo.worker("echo/1").pid.unwrap();
    let had = echo.clients.at(leaver);
    let said = echo.during(&["drain", "echo/1"], || {
        until("it to leave", || (echo.worker("echo/1").state == "draining").then_some(()));
        let later = Clients::start(to(), &echo.identity, 50);
        assert_eq!(later.at(leaver), 0, "new connections avoid it");
        assert_eq!(later.end().lost.len(), 0);
        // Longer than idle_timeout; its connections are not idle.
        let begun = Instant::now();
        while begun.elapsed().as_secs() < 4 {
            echo.clients.heard_again();
        }
        assert_eq!((echo.clients.at(leaver), is_alive(leaver)), (had, true));
        echo.clients.avoid(leaver);
    });
    println!("{said}");
    assert!(!is_alive(leaver));
    assert_eq!(echo.daemon.service().flows_cut, 0);
    echo.clients.heard_again();
    assert_eq!(echo.end(&["owner_kept"], &[]).lost.len(), 0);
}

#[test]
fn a_deadline_cuts_the_connections_of_the_one_that_leaves_and_counts_them() {
    let echo = Echo::start();
    let leaver = echo.worker("echo/1").pid.unwrap();
    let had = echo.clients.at(leaver);
    let said = echo.daemon.run(&["drain", "echo/1", "--timeout", "1s"]);
    println!("{said}");
    assert_lost(&echo, leaver, had);
    // In 4 million sub-buckets two of its connections do not share one.
    assert_eq!(echo.daemon.service().flows_cut, had as u64);
    echo.end(&["owner_kept"], &[]);
}

#[test]
fn a_rolling_restart_waits_for_the_connections_of_the_old_workers() {
    let echo = Echo::start();
    let old = echo.daemon.workers();
    let begun = Instant::now();
    let said = std::thread::scope(|scope| {
        let restart = scope.spawn(|| echo.daemon.run(&["restart", "echo"]));
        while !restart.is_finished() {
            for worker in echo.daemon.service().workers {
                if worker.state == "draining" {
                    let pid = worker.pid.unwrap();
                    echo.clients.heard_again();
                    echo.clients.avoid(pid);
                }
            }
            lasts("the time between two looks", std::time::Duration::from_millis(20));
        }
        restart.join().unwrap()
    });
    println!("{said}all replaced after {:?}", begun.elapsed());
    assert!(said.ends_with("echo: 4 replaced\n"), "{said}");
    echo.clients.heard_again();
    let served = echo.clients.by_server();
    assert_eq!(served.len(), 4, "{served:?}");
    assert!(served.keys().all(|server| !old.contains(&server.pid)), "{old:?} → {served:?}");
    assert_eq!(echo.daemon.service().flows_cut, 0);
    assert_eq!(echo.end(&["owner_kept"], &[]).lost.len(), 0);
}

#[test]
fn a_crash_breaks_the_connections_of_the_crashed_worker_and_no_other() {
    let echo = Echo::start();
    let victim = echo.worker("echo/2").pid.unwrap();
    let had = echo.clients.at(victim);
    signal(victim, Signal::SIGKILL);
    let reasons = assert_lost(&echo, victim, had);
    // Somebody else got what they sent, and told them.
    assert!(reasons.get("reset by peer").is_some_and(|reset| reset * 2 > had), "{reasons:?}");
    echo.daemon.settled_without(victim);
    assert_lost(&echo, victim, had);
    // What comes before the buckets have moved goes to candidates; when they go back, live flows stay.
    let crash = ["owner_kept", "owner_gone", "detour_candidate", "detour_ready", "select_failed"];
    echo.end(&[], &crash);
}

/// All connections of that process were lost, no other, and each is open again, elsewhere. How many ended
/// in which way.
fn assert_lost(echo: &Echo, pid: i32, had: usize) -> BTreeMap<String, usize> {
    let lost = until("its connections to break", || {
        Some(echo.clients.so_far().lost).filter(|lost| lost.len() >= had)
    });
    echo.clients.heard_again();
    let lost_since = echo.clients.so_far().lost.len();
    let mut reasons = BTreeMap::<String, usize>::new();
    for lost in &lost {
        *reasons.entry(lost.why.clone()).or_default() += 1;
        assert!(lost.server.as_ref().is_some_and(|server| server.pid == pid), "{lost:?}");
    }
    println!("{had} connections broke: {reasons:?}");
    assert_eq!((lost.len(), lost_since), (had, had), "{:?}", echo.clients.so_far().lost);
    assert_eq!(echo.clients.by_server().values().sum::<usize>(), connections());
    reasons
}
