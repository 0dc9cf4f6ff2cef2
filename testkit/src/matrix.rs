//! Faults under load: what clients see of each, as a row of docs/FAULTS.md.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reuseport_lb_client::api::ServiceStatus;
use serde_json::json;

use crate::client::Answer;
use crate::daemon::{Daemon, settled, signal, until};
use crate::fault::frozen;
use crate::load::{Ending, Failure, Load, Report, Stage};
use crate::patience::lasts;
use crate::server;
use crate::world::World;

/// Where the service of a scene is, over TCP and UDP.
#[must_use]
pub fn address() -> SocketAddr {
    ([127, 0, 0, 1], 3000).into()
}

/// A service of four workers under load: new connections, kept ones, and flows of datagrams.
pub struct Scene {
    /// `None` while there is none. Before its world, where its log is.
    pub daemon: Option<Daemon>,
    /// Where it is.
    pub world: World,
    load: Load,
    datagrams: Datagrams,
    struck: Instant,
    recovered: Option<Duration>,
}

/// What clients saw.
pub struct Seen {
    /// Over TCP.
    pub report: Report,
    /// Over UDP.
    pub datagrams: Tally,
    /// How long it took until all was well again.
    pub recovered: Option<Duration>,
    /// The same for a reader.
    pub summary: String,
}

/// A service on [`address`] with four workers, which have 2 s to leave unless `more` says otherwise.
#[must_use]
pub fn service(more: &str) -> String {
    let drain = if more.contains("drain_timeout") { "" } else { "drain_timeout = \"2s\"\n" };
    format!(
        "[[service]]\nname = \"web\"\nlisten = [\"tcp://{0}\", \"udp://{0}\"]\nworkers = 4\n\
         stall_timeout = \"300ms\"\n{drain}{more}",
        address()
    )
}

impl Scene {
    /// With embedded workers.
    #[must_use]
    pub fn new(more: &str) -> Self {
        let world = World::new();
        let daemon = Daemon::configured(&world, &service(more));
        Self::around(world, daemon)
    }

    /// With workers that do what is in the file that [`Scene::misbehave`] writes.
    #[must_use]
    pub fn vandals(more: &str) -> Self {
        let world = World::new();
        let deed = world.path("deed").display().to_string();
        // What it is to do from its start is in a file as well.
        let flags = format!("--wait keep --ready notify --term leave --deeds {deed} @{deed}-first");
        let command = server::command(&world, &flags);
        let daemon = Daemon::configured(&world, &service(&(command + more)));
        Self::around(world, daemon)
    }

    /// With this daemon.
    #[must_use]
    pub fn around(world: World, daemon: Daemon) -> Self {
        let load = Load::to(address()).clients(8).kept(40).pause(Duration::from_millis(1)).start();
        let datagrams = Datagrams::start(16);
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

    /// The service now.
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

    /// Now it happens.
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
        Seen { report, datagrams, recovered: self.recovered, summary }
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

/// Flows of datagrams, a question in each every 10 ms.
struct Datagrams {
    stop: Arc<AtomicBool>,
    running: JoinHandle<Tally>,
}

/// What became of datagrams.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Questions.
    pub sent: u64,
    /// Questions without an answer.
    pub lost: u64,
    /// Times that another process answered than before.
    pub moved: u64,
    /// The longest time until an answer.
    pub slowest: Duration,
}

impl Datagrams {
    fn start(flows: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let sockets: Vec<Flow> = (0..flows).map(|_| Flow::new()).collect();
        let running = std::thread::spawn(move || {
            let mut flows = sockets;
            while !stopped.load(Ordering::Relaxed) {
                flows.iter_mut().for_each(Flow::turn);
                std::thread::sleep(Duration::from_millis(10)); // sleep: the pace of the load
            }
            // What is on its way may come.
            let begun = Instant::now();
            while flows.iter().any(|flow| flow.asked.is_some()) && begun.elapsed() < Flow::PATIENCE {
                flows.iter_mut().for_each(Flow::listen);
                std::thread::sleep(Duration::from_millis(1)); // sleep: between two looks at sockets that do not block
            }
            let mut sum = Tally::default();
            for flow in flows {
                let Tally { sent, lost, moved, slowest } = flow.tally;
                sum.sent += sent;
                sum.lost += lost + u64::from(flow.asked.is_some());
                sum.moved += moved;
                sum.slowest = sum.slowest.max(slowest);
            }
            sum
        });
        Self { stop, running }
    }

    fn end(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        self.running.join().expect("the thread of the datagrams panicked")
    }
}

/// One client with one question at a time.
struct Flow {
    socket: UdpSocket,
    asked: Option<Instant>,
    pid: Option<i32>,
    tally: Tally,
}

impl Flow {
    /// A question without an answer for so long is lost.
    const PATIENCE: Duration = Duration::from_secs(1);

    fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("cannot make a socket");
        socket.connect(address()).expect("cannot connect a datagram socket");
        socket.set_nonblocking(true).expect("cannot make a socket non-blocking");
        Self { socket, asked: None, pid: None, tally: Tally::default() }
    }

    fn turn(&mut self) {
        self.listen();
        if self.asked.is_some_and(|asked| asked.elapsed() > Self::PATIENCE) {
            self.tally.lost += 1;
            self.asked = None;
        }
        if self.asked.is_none() {
            self.tally.sent += 1;
            self.asked = Some(Instant::now());
            // A refused one (ICMP) is not answered, and counts as lost then.
            let _ = self.socket.send(b"?");
        }
    }

    fn listen(&mut self) {
        let mut buffer = [0; 1024];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let Ok(answer) = Answer::parse(&String::from_utf8_lossy(&buffer[..length])) else { continue };
            if self.pid.replace(answer.pid).is_some_and(|before| before != answer.pid) {
                self.tally.moved += 1;
            }
            if let Some(asked) = self.asked.take() {
                self.tally.slowest = self.tally.slowest.max(asked.elapsed());
            }
        }
    }
}

/// A limit on a process, through a cgroup of its own; lifted on drop.
pub struct Limit {
    group: PathBuf,
    limit: &'static str,
}

impl Limit {
    /// Leaves process `pid` so many bytes of memory beyond what it has now.
    ///
    /// # Panics
    /// If there is no memory controller.
    #[must_use]
    pub fn memory(pid: i32, more: u64) -> Self {
        let (v1, v2) = (("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current"));
        Self::of(pid, "memory", v1, v2, more)
    }

    /// Leaves process `pid` so many more processes and threads.
    ///
    /// # Panics
    /// If there is no controller for them.
    #[must_use]
    pub fn processes(pid: i32, more: u64) -> Self {
        let files = ("pids.max", "pids.current");
        Self::of(pid, "pids", files, files, more)
    }

    fn of(pid: i32, controller: &str, v1: (&'static str, &str), v2: (&'static str, &str), more: u64) -> Self {
        let apart = PathBuf::from("/sys/fs/cgroup").join(controller);
        let (root, (limit, usage)) = if apart.is_dir() {
            (apart, v1)
        } else {
            let root = PathBuf::from("/sys/fs/cgroup");
            // It may be there already.
            let _ = fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"));
            (root, v2)
        };
        let group = root.join(format!("reuseport-lb-{pid}"));
        fs::create_dir(&group)
            .unwrap_or_else(|error| panic!("this test needs a cgroup: {}: {error}", group.display()));
        fs::write(group.join("cgroup.procs"), pid.to_string()).expect("cannot move a process to a cgroup");
        let used: u64 =
            fs::read_to_string(group.join(usage)).ok().and_then(|it| it.trim().parse().ok()).unwrap_or(0);
        fs::write(group.join(limit), (used + more).to_string()).unwrap_or_else(|error| {
            panic!("this test needs the {controller} controller of cgroups: {error}")
        });
        Self { group, limit }
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        let root = self.group.parent().unwrap_or(&self.group);
        let _ = fs::write(self.group.join(self.limit), "-1")
            .or_else(|_| fs::write(self.group.join(self.limit), "max"));
        // Somebody in it may start another process just now.
        for _ in 0..100 {
            for pid in fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default().lines() {
                let _ = fs::write(root.join("cgroup.procs"), pid);
            }
            if fs::remove_dir(&self.group).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5)); // sleep: `until` would panic while another panic unwinds
        }
    }
}
