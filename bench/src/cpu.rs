//! A worker for each core, which stays there, and clients that stay on theirs: is it worth it that the worker of the core
//! that receives gets the connection?

use std::net::SocketAddr;

use anyhow::{Result, bail, ensure};
use testkit::config::Config;
use testkit::cpus::cpus_of;
use testkit::daemon::{Daemon, until};
use testkit::world::World;

use crate::client::{Load, Outcome, Pace, run_on};
use crate::process::{self, Process};
use crate::record::{OURS, Record};

const SECTION: &str = "cpu";

/// Requests at once, over all cores.
const CLIENTS: usize = 64;

/// Who gives connections to the workers.
#[derive(Clone, Copy, PartialEq)]
enum By {
    Cpu,
    Flow,
    Plain,
    Incoming,
}

const ALL: [By; 4] = [By::Cpu, By::Flow, By::Plain, By::Incoming];

impl By {
    fn name(self) -> String {
        match self {
            Self::Cpu => format!("{OURS}, affinity cpu"),
            Self::Flow => format!("{OURS}, affinity flow"),
            Self::Plain => "plain SO_REUSEPORT".into(),
            Self::Incoming => "plain, SO_INCOMING_CPU".into(),
        }
    }

    fn to(self) -> SocketAddr {
        ([127, 0, 0, 1], 6000 + self as u16).into()
    }
}

/// What serves: a daemon, or processes.
enum Pinned {
    Ours(Daemon),
    Plain(Vec<Process>),
}

impl Pinned {
    fn start(by: By, cpus: &[usize], world: &World) -> Result<Self> {
        let to = by.to();
        let started = match by {
            By::Cpu | By::Flow => {
                let config = Config::service("web").listen(&format!("tcp://{to}")).workers(cpus.len());
                let config = config.set("affinity", if by == By::Cpu { "cpu" } else { "flow" });
                let program = std::env::current_exe()?.display().to_string();
                let config = config.set("cpus", "each").command(&[&*program, "worker", "fd"]);
                Self::Ours(Daemon::with(world, &config))
            }
            By::Plain | By::Incoming => {
                let how = if by == By::Incoming { "/incoming" } else { "" };
                let start = |cpu: &usize| Process::worker(&format!("{to}/{cpu}{how}"), None);
                Self::Plain(cpus.iter().map(start).collect::<Result<_>>()?)
            }
        };
        until("a server to answer", || std::net::TcpStream::connect(to).ok());
        Ok(started)
    }

    fn pids(&self) -> Vec<i32> {
        match self {
            Self::Ours(daemon) => [vec![daemon.pid()], daemon.workers()].concat(),
            Self::Plain(processes) => processes.iter().map(Process::pid).collect(),
        }
    }
}

/// All requests of one run.
fn load(by: By, cpus: &[usize], requests: usize, keep: bool) -> Result<Outcome> {
    let load = Load { to: by.to(), requests, pace: Pace::Closed(CLIENTS), keep, burn: None };
    // Its threads stay where they are put.
    let outcome = std::thread::scope(|scope| scope.spawn(|| run_on(load, cpus, || false)).join());
    outcome.unwrap_or_else(|_| bail!("the load panicked"))?.whole(requests)
}

pub(crate) fn run(record: &mut Record, world: &World) -> Result<()> {
    let cpus = cpus_of(0);
    ensure!(cpus.len() > 1, "one core alone has nothing to choose");
    for (keep, what) in [(false, "new"), (true, "kept")] {
        let requests = if keep { record.either(40_000, 200_000) } else { record.either(10_000, 40_000) };
        for nth in 0..runs(record.quick) {
            for turn in 0..ALL.len() {
                let by = ALL[(nth + turn) % ALL.len()];
                record.step(
                    &format!("{what} connections, run {}: {}", nth + 1, by.name()),
                    each(record.quick),
                )?;
                let server = Pinned::start(by, &cpus, world)?;
                load(by, &cpus, 1000, keep)?;
                let pids = server.pids();
                let before: f64 = process::cpu(&pids).iter().sum();
                // Which worker has how many of the kept connections may be luck.
                let rounds = if keep { 5 } else { 1 };
                let mut outcome = Outcome::default();
                for _ in 0..rounds {
                    outcome = outcome.and(load(by, &cpus, requests / rounds, keep)?);
                }
                let spent = process::cpu(&pids).iter().sum::<f64>() - before;
                let values = [
                    ("requests/s", outcome.rate()),
                    ("p50 ms", outcome.quantile(0.5)),
                    ("p99 ms", outcome.quantile(0.99)),
                    ("server CPU µs/request", spent * 1e6 / requests as f64),
                ];
                record.add(SECTION, &format!("{}; {what}", by.name()), nth, &values);
            }
        }
        let variant = |by: By| format!("{}; {what}", by.name());
        let others = [By::Flow, By::Plain, By::Incoming].map(|by| (by.name(), variant(by)));
        let about = format!("{what} connections, `affinity = \"cpu\"`");
        record.compare(SECTION, &about, &variant(By::Cpu), &others)?;
    }
    Ok(())
}

fn runs(quick: bool) -> usize {
    if quick { 3 } else { 9 }
}

fn each(quick: bool) -> f64 {
    if quick { 1.3 } else { 3.0 }
}

/// What it takes, by experience.
pub(crate) fn seconds(quick: bool) -> f64 {
    (2 * ALL.len() * runs(quick)) as f64 * each(quick)
}
