//! Faults under load: what clients see of each, as a row of docs/FAULTS.md.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reuseport_lb_client::api::ServiceStatus;
use serde_json::json;

use crate::config::Config;
use crate::counters::Counters;
use crate::daemon::{Daemon, settled, signal, until};
use crate::datagrams::{Datagrams, Tally};
use crate::fault::frozen;
use crate::load::{Ending, Failure, Load, Report, Stage};
use crate::patience::lasts;
use crate::world::World;

/// Where the service of a scene is, over TCP and UDP.
#[must_use]
pub fn address() -> SocketAddr {
    ([127, 0, 0, 1], 3000).into()
}

/// A service of four workers under load: new connections, kept ones, and flows of datagrams.
pub struct Scene {
    /// Dropped before its world, where its log is.
    pub daemon: Option<Daemon>,
    pub world: World,
    load: Load,
    datagrams: Datagrams,
    struck: Instant,
    recovered: Option<Duration>,
}

/// What clients saw.
pub struct Seen {
    pub report: Report,
    pub datagrams: Tally,
    /// What the counters of the service have counted.
    pub counters: Counters,
    /// How long it took until all was well again.
    pub recovered: Option<Duration>,
    /// Numbers and times of the load, for a reader.
    pub summary: String,
}

/// A service on [`address`] with four workers, which have 2 s to leave.
pub fn service() -> Config {
    let [tcp, udp] = ["tcp", "udp"].map(|protocol| format!("{protocol}://{}", address()));
    let config = Config::service("web").listen(&tcp).listen(&udp).workers(4);
    config.set("stall_timeout", "300ms").set("drain_timeout", "2s")
}

impl Scene {
    /// With embedded workers.
    #[must_use]
    pub fn new(service: &Config) -> Self {
        let world = World::new();
        let daemon = Daemon::with(&world, service);
        Self::around(world, daemon)
    }

    /// With workers that do what is in the file that [`Scene::misbehave`] writes.
    #[must_use]
    pub fn vandals(service: Config) -> Self {
        let world = World::new();
        let deed = world.path("deed").display().to_string();
        // What it is to do from its start is in a file as well.
        let flags = format!("--wait keep --ready notify --term leave --deeds {deed} @{deed}-first");
        let daemon = Daemon::with(&world, &service.server(&world, &flags));
        Self::around(world, daemon)
    }

    /// With this daemon.
    #[must_use]
    pub fn around(world: World, daemon: Daemon) -> Self {
        let load = Load::to(address()).clients(8).kept(40).pause(Duration::from_millis(1)).start();
        let datagrams = Datagrams::start(address(), 16);
        load.until_answered(500);
        Self { world, daemon: Some(daemon), load, datagrams, struck: Instant::now(), recovered: None }
    }

    /// The daemon.
    ///
    /// # Panics
    /// While there is none.
    #[must_use]
    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("there is a daemon")
    }

    #[must_use]
    pub fn service(&self) -> ServiceStatus {
        self.daemon().service()
    }

    /// Process of worker `nth`.
    ///
    /// # Panics
    /// If it has none.
    #[must_use]
    pub fn pid(&self, nth: usize) -> i32 {
        self.service().workers[nth].pid.expect("a worker that runs")
    }

    /// The fault begins now.
    pub fn strike(&mut self) {
        self.struck = Instant::now();
    }

    /// Has worker `nth` of [`Scene::vandals`] do something; whom it had accepted before.
    ///
    /// # Panics
    /// If that cannot be said to it.
    pub fn misbehave(&mut self, nth: usize, deed: &str) -> BTreeSet<SocketAddr> {
        let pid = self.pid(nth);
        fs::write(self.world.path("deed"), deed).expect("cannot write a file");
        signal(pid, Signal::SIGUSR1);
        // It stops itself first.
        let accepted = frozen(pid);
        self.strike();
        signal(pid, Signal::SIGCONT);
        accepted
    }

    /// Waits until all is well again, and notes how long that took.
    pub fn recovers(&mut self, well: impl Fn(&ServiceStatus) -> bool) -> ServiceStatus {
        let daemon = self.daemon();
        let service = until("all to be well again", || Some(daemon.service()).filter(&well));
        self.recovered = Some(self.struck.elapsed());
        service
    }

    /// Waits until all workers are ready, `restarts` of them anew.
    pub fn is_back(&mut self, restarts: u32) -> ServiceStatus {
        self.recovers(|it| {
            settled(it) && it.workers.iter().map(|worker| worker.restarts).sum::<u32>() == restarts
        })
    }

    /// Goes on for a moment, ends the load, then the daemon.
    ///
    /// # Panics
    /// If a request failed whose client is not in `accepted`: those had a connection that the worker
    /// had accepted.
    #[must_use]
    pub fn end(self, accepted: &BTreeSet<SocketAddr>) -> Seen {
        self.end_but(|failure| failure.local.is_some_and(|it| accepted.contains(&it)))
    }

    /// Goes on for a moment, ends the load, then the daemon.
    ///
    /// # Panics
    /// If a request failed that is not `expected` to.
    #[must_use]
    pub fn end_but(self, expected: impl Fn(&Failure) -> bool) -> Seen {
        lasts("the load, once all is well again", Duration::from_millis(500));
        let report = self.load.end();
        let datagrams = self.datagrams.end();
        let failed = report.failed_except(expected);
        assert!(failed.is_empty(), "{} of {} requests: {failed:?}", failed.len(), report.requests);
        let slowest = [report.slowest(), datagrams.slowest].into_iter().max().unwrap_or_default();
        let counters = self.daemon.as_ref().map(|it| Counters::of(&it.service())).unwrap_or_default();
        counters.assert_sums();
        let summary = format!(
            "{} new connections, {} requests on kept ones, {} datagrams; longest {}",
            report.requests,
            report.kept_messages,
            datagrams.sent,
            time(slowest)
        );
        if let Some(daemon) = self.daemon {
            daemon.stop();
        }
        drop(self.world);
        Seen { report, datagrams, counters, recovered: self.recovered, summary }
    }
}

impl Seen {
    /// What was lost, for a reader.
    #[must_use]
    pub fn lost(&self) -> String {
        let cut =
            self.report.ended.iter().filter(|it| matches!(it.how, Ending::Reset | Ending::Raced)).count();
        let refused = self.report.failed.iter().filter(|it| it.stage == Stage::Connect).count();
        let lost = [
            (cut, "kept connections that it had accepted"),
            (self.report.failed.len() - refused, "requests that it had accepted"),
            (refused, "new connections that were refused"),
            (self.datagrams.lost as usize, "datagrams"),
        ];
        let lost: Vec<String> = lost
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        if lost.is_empty() { "nothing".into() } else { lost.join(", ") }
    }

    /// That no connection was broken: those that ended did so in order.
    ///
    /// # Panics
    /// If one was.
    pub fn assert_nothing_broke(&self) {
        assert!(self.report.ended.iter().all(|it| it.how != Ending::Reset), "{:?}", self.report.ended);
    }

    /// That no connection ended, and each flow of datagrams was answered, always by the same worker.
    ///
    /// # Panics
    /// If not.
    pub fn assert_unnoticed(&self) {
        assert_eq!((self.datagrams.lost, self.datagrams.moved), (0, 0));
        assert!(self.report.ended.is_empty(), "{:?}", self.report.ended);
    }

    /// Says what there is to say in the table.
    pub fn row(&self, fault: &str, status: &str) {
        row(fault, &self.summary, &self.lost(), status, self.recovered);
    }
}

/// Prints a row of docs/FAULTS.md, for `cargo xtask faults`.
pub fn row(fault: &str, sees: &str, lost: &str, status: &str, recovered: Option<Duration>) {
    let recovered = recovered.map_or_else(|| "nothing to recover from".into(), time);
    let row = json!({ "fault": fault, "kernel": kernel(), "sees": sees, "lost": lost, "status": status, "recovered": recovered });
    println!("\n@row {row}");
}

/// The kernel's version, also where its release is a name for several, as in Debian.
fn kernel() -> String {
    let release = reuseport_lb::kernel::host::release();
    let version = fs::read_to_string("/proc/version").unwrap_or_default();
    let exact = version.split_once(" Debian ").map_or(&*release, |(_, debian)| debian);
    let end = exact.find(|it: char| !it.is_ascii_digit() && it != '.').unwrap_or(exact.len());
    exact[..end].into()
}

/// For a reader: what is shown does not pretend to be exact.
#[must_use]
pub fn time(time: Duration) -> String {
    match time.as_millis() {
        0 => "less than 1 ms".into(),
        short @ 1..1000 => format!("{short} ms"),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}
