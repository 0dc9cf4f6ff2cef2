//! Sections `balance`: kept connections and unequal requests, for those who choose by connections; and `counting`:
//! what it costs that the kernel counts them.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bench::run_time::{RunTime, switch_on};
use testkit::world::World;

use crate::client::{Load, Outcome, Pace, run};
use crate::http::by_turns;
use crate::peers::{Peer, Server, WORKERS};
use crate::process;
use crate::record::Record;

const PEERS: [Peer; 6] =
    [Peer::Ours, Peer::Least, Peer::Plain, Peer::Haproxy, Peer::HaproxyRandom, Peer::NginxLeast];

/// Connections that are kept.
pub(crate) const KEPT: [usize; 2] = [32, 64];

/// How uneven connections are among workers, the mean of all rounds.
pub(crate) const UNEVEN: &str = "most / mean connections";

/// Which request costs its worker how many µs.
const BURN: (usize, u32) = (200, 500);

/// The program that counts.
const COUNTS: &str = "rlb_connections";

/// How often connections are made anew: who has how many may be luck.
const ROUNDS: usize = 5;

/// When connections are counted, from the beginning of a round: all are there then.
const SETTLED: Duration = Duration::from_millis(50);

/// How often it is looked which sockets are open, and how far apart.
const LOOKS: u32 = 4;
const APART: Duration = Duration::from_millis(7);

/// What a variant of section `balance` is called.
pub(crate) fn variant(peer: &str, kept: usize) -> String {
    format!("{peer}; {kept}")
}

pub(crate) fn kept(record: &mut Record, world: &World) -> Result<()> {
    let requests = record.either(150_000, 300_000);
    for kept in KEPT {
        let what = format!("{kept} kept connections");
        let times = (runs(record.quick), each(record.quick));
        by_turns(record, world, ("balance", &what), times, &PEERS, |record, nth, server| {
            let pids = workers(server);
            let mut idle = Looks::default();
            for _ in 0..LOOKS {
                idle.look(&pids);
                std::thread::sleep(APART);
            }
            let load = Load {
                to: server.to,
                requests: requests / ROUNDS,
                pace: Pace::Closed(kept),
                keep: true,
                burn: Some(BURN),
            };
            let (mut outcome, mut uneven) = (Outcome::default(), 0.0);
            for _ in 0..ROUNDS {
                let begun = Instant::now();
                let mut open = Looks::default();
                let whole = run(load, || {
                    if open.times < LOOKS && begun.elapsed() > SETTLED + APART * open.times {
                        open.look(&pids);
                    }
                    false
                })?;
                outcome = outcome.and(whole.whole(load.requests)?);
                ensure!(open.times == LOOKS, "void: the round was too short");
                let own: Vec<usize> =
                    open.least.iter().zip(&idle.least).map(|(now, idle)| now - idle).collect();
                ensure!(own.iter().sum::<usize>() == kept, "void: {own:?} connections, not {kept} in all");
                let most = own.iter().copied().max().unwrap_or_default();
                uneven += (most * WORKERS) as f64 / kept as f64 / ROUNDS as f64;
            }
            let values = [
                ("requests/s", outcome.rate()),
                ("p50 ms", outcome.quantile(0.5)),
                ("p99 ms", outcome.quantile(0.99)),
                (UNEVEN, uneven),
            ];
            record.add("balance", &variant(server.peer.name(), kept), nth, &values);
            Ok(())
        })?;
        let others = PEERS.iter().filter(|peer| **peer != Peer::Least).map(|peer| peer.name());
        let others: Vec<(&str, String)> = others.map(|name| (name, variant(name, kept))).collect();
        let what = format!("{kept} connections, `balance = \"least\"`");
        record.compare("balance", &what, &variant(Peer::Least.name(), kept), &others)?;
    }
    Ok(())
}

/// What was the least that each process had open in a few looks: checks of a proxy come and go.
#[derive(Default)]
struct Looks {
    least: Vec<usize>,
    times: u32,
}

impl Looks {
    fn look(&mut self, pids: &[i32]) {
        let now = process::sockets(pids);
        if self.times == 0 {
            self.least.clone_from(&now);
        }
        self.least.iter_mut().zip(now).for_each(|(least, now)| *least = now.min(*least));
        self.times += 1;
    }
}

/// Those behind a proxy, too; not the daemon, nor the proxy.
fn workers(server: &Server) -> Vec<i32> {
    match &server.daemon {
        Some(daemon) => daemon.workers(),
        None => server.pids().into_iter().take(WORKERS).collect(),
    }
}

fn runs(quick: bool) -> usize {
    if quick { 3 } else { 9 }
}

fn each(quick: bool) -> f64 {
    if quick { 2.0 } else { 4.5 }
}

pub(crate) fn seconds(quick: bool) -> f64 {
    (KEPT.len() * PEERS.len() * runs(quick)) as f64 * each(quick)
}

pub(crate) fn counting(record: &mut Record, world: &World) -> Result<()> {
    let runs = record.either(3, 9);
    let requests = 10_000;
    for nth in 0..runs {
        record.step(&format!("counting connections, run {} of {runs}", nth + 1), 1.5)?;
        let server = Server::start(Peer::Counted, WORKERS, world)?;
        let load = Load { to: server.to, requests, pace: Pace::Closed(64), keep: false, burn: None };
        run(load, || false)?.whole(requests)?;
        let _stats = switch_on()?;
        let before = RunTime::named(COUNTS)?;
        run(load, || false)?.whole(requests)?;
        let ran = RunTime::named(COUNTS)?.since(before);
        let values = [
            ("ns a change of state", ran.nanos()),
            ("changes of state a connection, both ends", ran.runs as f64 / requests as f64),
        ];
        record.add("counting", server.peer.name(), nth, &values);
    }
    Ok(())
}

pub(crate) fn counting_seconds(quick: bool) -> f64 {
    1.5 * if quick { 3.0 } else { 9.0 }
}
