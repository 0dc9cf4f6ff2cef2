//! The scene of the tests with live flows: eight workers, ten thousand flows over v4 and v6; and as many on
//! plain SO_REUSEPORT.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread::JoinHandle;
use std::time::Duration;

use reuseport_lb_client::api::{ServiceStatus, WorkerStatus};

use super::{Flows, Live, Round};
use crate::client::Tally;
use crate::config::Config;
use crate::counters::Counters;
use crate::daemon::{Daemon, until};
use crate::patience::fewer;
use crate::plain::Plain;
use crate::statistics::assert_fair;
use crate::world::World;

/// How many flows are live.
#[must_use]
pub fn flows() -> usize {
    fewer(10_000)
}

/// How many workers there are to begin with.
pub const WORKERS: usize = 8;

pub const PORT: u16 = 4000;

/// The port of plain SO_REUSEPORT.
const PLAIN_PORT: u16 = 4001;

/// An `idle_timeout` that no live flow exceeds, however busy the machine.
pub const IDLE: Duration = Duration::from_secs(20);

/// One that a test can wait for.
pub const SHORT: Duration = Duration::from_secs(4);

/// One that is over at once.
const NONE: Duration = Duration::from_millis(200);

/// Time between two datagrams of a live flow, if nobody is waiting for the next one.
pub const EVERY: Duration = Duration::from_secs(1);

/// Where the service is.
#[must_use]
pub fn to() -> [SocketAddr; 2] {
    [(Ipv4Addr::LOCALHOST, PORT).into(), (Ipv6Addr::LOCALHOST, PORT).into()]
}

/// The service with its workers and this `idle_timeout`.
pub fn config(idle: Duration) -> Config {
    let [v4, v6] = to().map(|to| format!("udp://{to}"));
    let idle = format!("{}ms", idle.as_millis());
    Config::service("web").listen(&v4).listen(&v6).workers(WORKERS).set("idle_timeout", &idle)
}

/// A daemon with such a service, and live flows.
#[must_use]
pub fn scene(world: &World, config: &Config) -> (Daemon, Live) {
    let daemon = Daemon::with(world, config);
    let opened = flows();
    let flows = Flows::open(&to(), opened);
    let service = daemon.service();
    let seen: Vec<u64> = flows.tally().into_values().collect();
    assert_fair(&seen, &shares(&service));
    // Flows that share a sub-bucket count once: about 3 of 5,000 in 4,194,304.
    let live: u64 = service.workers.iter().map(|worker| worker.flows).sum();
    assert!((opened as u64 - 50..=opened as u64).contains(&live), "{live} flows are live");
    (daemon, flows.keep(EVERY))
}

/// The workers' shares, in their order.
#[must_use]
pub fn shares(service: &ServiceStatus) -> Vec<f64> {
    service.workers.iter().map(|worker| worker.share).collect()
}

/// What each of the service's workers has of a tally, in their order.
#[must_use]
pub fn by_worker(service: &ServiceStatus, tally: &Tally) -> Vec<u64> {
    service.workers.iter().map(|worker| tally.get(&worker.name).copied().unwrap_or_default()).collect()
}

/// A worker of this name.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn worker(service: &ServiceStatus, name: &str) -> WorkerStatus {
    let found = service.workers.iter().find(|worker| worker.name == name);
    found.unwrap_or_else(|| panic!("no {name} in {service:?}")).clone()
}

/// Lets flows that have ended be forgotten at once, and is [`quiet`] then.
#[must_use]
pub fn hush(world: &World, daemon: &Daemon) -> ServiceStatus {
    config(NONE).workers(daemon.service().wanted).write(world);
    daemon.run(&["reload"]);
    quiet(daemon)
}

/// Waits until no bucket is moving, which the flows must allow; asserts that nothing of transitions is
/// left and the shares are exact.
///
/// # Panics
/// If they are not.
#[must_use]
pub fn quiet(daemon: &Daemon) -> ServiceStatus {
    let service = until("all flows to be quiet", || {
        std::thread::sleep(Duration::from_millis(50)); // sleep: status of many flows takes the processor from them
        Some(daemon.service()).filter(|service| service.moving == 0 && service.waiting == 0)
    });
    assert_eq!((service.waiting, service.pending.as_deref()), (0, None), "{service:?}");
    assert!(service.groups.iter().all(|it| it.flows.as_ref().is_some_and(|it| it.kept == 0)), "{service:?}");
    let members: Vec<&WorkerStatus> = service.workers.iter().filter(|worker| worker.member).collect();
    let sum: u64 = members.iter().map(|worker| u64::from(worker.weight)).sum();
    for worker in members {
        let due = 65536 * u64::from(worker.weight) / sum;
        assert!(u64::from(worker.buckets).abs_diff(due) <= 1, "exact: {service:?}");
    }
    service
}

/// Asserts that a service that is quiet sees no flow, although it has just seen the end of them.
///
/// # Panics
/// If it sees any within a time that would do.
pub fn no_flow_is_left(daemon: &Daemon) {
    until("no flow to be live", || {
        std::thread::sleep(Duration::from_millis(50)); // sleep: status of many flows takes the processor from them
        let service = daemon.service();
        let groups = service.groups.iter().filter_map(|group| group.flows.as_ref()).map(|flows| flows.live);
        let workers = service.workers.iter().map(|worker| worker.flows);
        (groups.sum::<u64>() + workers.sum::<u64>() == 0).then_some(())
    });
}

/// Decisions by what became of the owner: taken, kept, all.
///
/// # Panics
/// If there were any others, as there are when workers crash.
#[must_use]
pub fn owners(service: &ServiceStatus) -> [u64; 3] {
    let mut counters = Counters::of(service);
    let owners = ["owner_taken", "owner_kept", "arrival_packet"].map(|name| counters.take(&[name]));
    assert_eq!(counters, Counters::default());
    owners
}

/// Starts a command whose end is not waited for now; it must succeed. Returns what it printed.
#[must_use]
pub fn begin(daemon: &Daemon, arguments: &[&str]) -> JoinHandle<String> {
    let mut command = daemon.paths().command(arguments);
    std::thread::spawn(move || {
        let output = command.output().expect("cannot run reuseport-lb");
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?} failed: {err}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    })
}

/// What a command that was begun has printed, when it has ended.
///
/// # Panics
/// If it failed, or takes too long.
#[must_use]
pub fn ended(command: JoinHandle<String>) -> String {
    until("a command to end", || command.is_finished().then_some(()));
    command.join().expect("a command failed")
}

/// What `drain` says about the flows of a worker.
#[derive(Clone, Copy, Debug)]
pub struct DrainReport {
    /// Those that lived when it began to leave.
    pub flows: u64,
    /// Those of them that lived when its time was up.
    pub cut: u64,
}

impl DrainReport {
    /// Reads it from what was printed.
    #[must_use]
    pub fn parse(said: &str) -> Option<Self> {
        let (_, rest) = said.split_once("handed over, ")?;
        let (flows, rest) = rest.split_once(" UDP flows lived, ")?;
        let (cut, _) = rest.split_once(" of those were cut")?;
        Some(Self { flows: flows.parse().ok()?, cut: cut.parse().ok()? })
    }
}

/// A change on plain SO_REUSEPORT, with as many workers and flows: how many flows moved, and
/// how many of these had to, because their worker, `gone`, is no more.
pub fn on_plain(world: &World, gone: &str, change: impl FnOnce(&mut Plain)) -> (usize, usize) {
    let mut plain = Plain::udp(world, PLAIN_PORT, WORKERS);
    let mut flows = Flows::open(&plain.addresses(), flows());
    change(&mut plain);
    let round = flows.round();
    (round.moved.len(), round.moved.iter().filter(|it| it.from.worker == gone).count())
}

/// Prints ours beside plain's: what moved although its worker is still there.
pub fn compare(what: &str, gone: &str, ours: &Round, plain: (usize, usize)) {
    let ours = ours.moved.iter().filter(|it| it.from.worker != gone).count();
    let (all, had_to) = plain;
    let plain = all - had_to;
    println!(
        "{what}: of {} live flows {ours} moved although their worker is still there; on plain \
         SO_REUSEPORT {plain}, and {had_to} that had to",
        flows()
    );
    assert!(plain > flows() / 10, "plain SO_REUSEPORT has become better");
}
