//! Requests: new connections, kept ones, a stopped worker, unequal work, restarts under load.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use testkit::daemon::{counter, signal};
use testkit::fault::freeze;
use testkit::world::World;

use crate::client::{Load, Outcome, Pace, run};
use crate::peers::{Peer, Server, WORKERS};
use crate::process;
use crate::record::Record;

/// A request of a closed loop each.
const CLIENTS: usize = 64;

/// New connections each second while a worker is stopped: few enough for the slowest variant.
const STALL_RATE: u32 = 1_000;

/// How long a worker is stopped.
const STOP: Duration = Duration::from_secs(3);

/// Requests each second of which one in a hundred costs 50 ms: 0.6 of two cores.
const UNEQUAL_RATE: u32 = 1_200;

/// New connections each second during restarts, and how often something changes, unless that takes
/// longer.
const RESTART_RATE: u32 = 2_000;
const RESTART_EVERY: Duration = Duration::from_millis(600);

/// Who answers in sections `connections` and `kept`.
const THROUGHPUT: [Peer; 7] =
    [Peer::Ours, Peer::Least, Peer::Next, Peer::Plain, Peer::Shared, Peer::Haproxy, Peer::NginxStream];

/// Runs `measure` for each of `peers` by turns, so often. One that is void is done once more.
pub(crate) fn by_turns(
    record: &mut Record,
    world: &World,
    (section, what): (&'static str, &str),
    (runs, seconds): (usize, f64),
    peers: &[Peer],
    mut measure: impl FnMut(&mut Record, usize, &mut Server) -> Result<()>,
) -> Result<()> {
    for nth in 0..runs {
        for turn in 0..peers.len() {
            let peer = peers[(nth + turn) % peers.len()];
            record.step(&format!("{what}, run {} of {runs}: {}", nth + 1, peer.name()), seconds)?;
            let mut attempt = |record: &mut Record| {
                let mut server = Server::start(peer, WORKERS, world)?;
                let warm = Load {
                    to: server.to,
                    requests: 500,
                    pace: Pace::Closed(CLIENTS),
                    keep: false,
                    burn: None,
                };
                run(warm, || false)?.whole(500)?;
                measure(record, nth, &mut server)
            };
            if let Err(error) = attempt(record) {
                let run = nth + 1;
                record.remarks.push((section, format!("{}, run {run} was repeated: {error:#}", peer.name())));
                attempt(record).with_context(|| format!("{}, run {run}", peer.name()))?;
            }
        }
    }
    Ok(())
}

/// Sections `connections` and `kept`: as many requests as the variant can answer.
pub(crate) fn throughput(
    record: &mut Record,
    world: &World,
    section: &'static str,
    keep: bool,
) -> Result<()> {
    let requests = if keep { record.either(40_000, 200_000) } else { record.either(10_000, 40_000) };
    let runs = throughput_runs(record.quick);
    let what = if keep { "requests on kept connections" } else { "new connections" };
    let times = (runs, throughput_seconds(record.quick));
    by_turns(record, world, (section, what), times, &THROUGHPUT, |record, nth, server| {
        let pids = server.pids();
        let (before, slept) = (process::cpu(&pids), process::sleeps(&pids));
        // Which worker has how many of the kept connections is luck, so they are made anew a few times.
        let rounds = if keep { 5 } else { 1 };
        let load = Load {
            to: server.to,
            requests: requests / rounds,
            pace: Pace::Closed(CLIENTS),
            keep,
            burn: None,
        };
        let mut outcome = Outcome::default();
        for _ in 0..rounds {
            outcome = outcome.and(run(load, || false)?.whole(load.requests)?);
        }
        let slept = process::sleeps(&pids) - slept;
        let spent: Vec<f64> =
            process::cpu(&pids).iter().zip(before).map(|(now, before)| now - before).collect();
        let (all, busiest) = (spent.iter().sum::<f64>(), spent.iter().copied().fold(0.0, f64::max));
        let each = requests as f64;
        ensure!(server.pids() == pids, "void: other processes than at the start");
        let values = [
            ("requests/s", outcome.rate()),
            ("p50 ms", outcome.quantile(0.5)),
            ("p99 ms", outcome.quantile(0.99)),
            ("server CPU µs/request", all * 1e6 / each),
            ("busiest process, % of that", 100.0 * busiest / all),
            ("sleeps/request", slept / each),
        ];
        record.add(section, server.peer.name(), nth, &values);
        Ok(())
    })
}

fn throughput_seconds(quick: bool) -> f64 {
    if quick { 1.3 } else { 3.0 }
}

/// More than elsewhere: the ratios of single runs differ by more than the goals leave room for.
fn throughput_runs(quick: bool) -> usize {
    if quick { 3 } else { 15 }
}

/// What [`throughput`] takes, by experience.
pub(crate) fn throughput_in_all(quick: bool) -> f64 {
    (THROUGHPUT.len() * throughput_runs(quick)) as f64 * throughput_seconds(quick)
}

/// Section `stall`: one of four workers is stopped for three seconds.
pub(crate) fn stall(record: &mut Record, world: &World) -> Result<()> {
    let runs = record.either(1, 5);
    let peers = [Peer::Ours, Peer::Prompt, Peer::Next, Peer::Plain, Peer::Shared, Peer::Nginx, Peer::Haproxy];
    by_turns(record, world, ("stall", "a stopped worker"), (runs, 6.0), &peers, |record, nth, server| {
        let victim = server.a_worker()?;
        let load = Load {
            to: server.to,
            requests: STALL_RATE as usize * 4,
            pace: Pace::Open(STALL_RATE),
            keep: false,
            burn: None,
        };
        let begun = Instant::now();
        // What the worker had accepted when it was stopped nobody else can answer.
        let mut accepted = None::<BTreeSet<SocketAddr>>;
        let mut goes_on = false;
        let outcome = run(load, || {
            if accepted.is_none() && begun.elapsed() > Duration::from_millis(300) {
                accepted = Some(freeze(victim));
            }
            if !goes_on && begun.elapsed() > Duration::from_millis(300) + STOP {
                signal(victim, Signal::SIGCONT);
                goes_on = true;
            }
            false
        });
        signal(victim, Signal::SIGCONT);
        let outcome = outcome?;
        let accepted = accepted.unwrap_or_default();
        let mut others = Outcome { answered: outcome.answered, ..Outcome::default() };
        others.times.extend(outcome.times.iter().filter(|(_, local)| !accepted.contains(local)));
        let late = others.times.iter().filter(|(time, _)| *time > Duration::from_millis(100)).count();
        let values = [
            ("p99 ms", others.quantile(0.99)),
            ("maximum ms", others.quantile(1.0)),
            ("over 100 ms %", 100.0 * late as f64 / load.requests as f64),
            ("failed", outcome.failures() as f64),
            ("accepted by the stopped worker", (outcome.times.len() - others.times.len()) as f64),
        ];
        record.add("stall", server.peer.name(), nth, &values);
        Ok(())
    })
}

/// Section `unequal`: one request in a hundred costs 50 ms of CPU; the times are those of the others.
pub(crate) fn unequal(record: &mut Record, world: &World) -> Result<()> {
    let seconds = record.either(2, 6);
    let requests = UNEQUAL_RATE as usize * seconds;
    let peers = [Peer::Ours, Peer::Next, Peer::Plain, Peer::Shared];
    let runs = record.either(2, 5);
    by_turns(
        record,
        world,
        ("unequal", "unequal work"),
        (runs, seconds as f64 + 0.8),
        &peers,
        |record, nth, server| {
            let load = Load {
                to: server.to,
                requests,
                pace: Pace::Open(UNEQUAL_RATE),
                keep: false,
                burn: Some((100, 50_000)),
            };
            let outcome = run(load, || false)?.whole(requests)?;
            let mut values = vec![
                ("p50 ms", outcome.quantile(0.5)),
                ("p95 ms", outcome.quantile(0.95)),
                ("p99 ms", outcome.quantile(0.99)),
                ("maximum ms", outcome.quantile(1.0)),
            ];
            if let Some(daemon) = &server.daemon {
                let service = daemon.service();
                let elsewhere = counter(&service, "owner_overloaded") + counter(&service, "owner_busy");
                let elsewhere = elsewhere as f64;
                values.push(("sent elsewhere %", 100.0 * elsewhere / requests as f64));
            }
            record.add("unequal", server.peer.name(), nth, &values);
            Ok(())
        },
    )
}

/// Section `restarts`: everything is replaced, or the number of workers changes, under load.
pub(crate) fn restarts(record: &mut Record, world: &World) -> Result<()> {
    let changes = record.either(3, 25);
    for peer in [Peer::Ours, Peer::Nginx, Peer::Haproxy, Peer::Plain] {
        for scaled in [false, true] {
            // HAProxy has threads, whose number is not what changes.
            if scaled && peer == Peer::Haproxy {
                continue;
            }
            let kind = if scaled { "count changes" } else { "restarts" };
            record.step(
                &format!("{changes} {kind} under load: {}", peer.name()),
                restart_seconds(record.quick),
            )?;
            let mut server = Server::start(peer, WORKERS, world)?;
            let stop = AtomicBool::new(false);
            let load = Load {
                to: server.to,
                requests: 120 * RESTART_RATE as usize,
                pace: Pace::Open(RESTART_RATE),
                keep: false,
                burn: None,
            };
            let begun = Instant::now();
            let outcome = std::thread::scope(|scope| -> Result<Outcome> {
                let running = scope.spawn(|| run(load, || stop.load(Ordering::Relaxed)));
                std::thread::sleep(Duration::from_millis(100));
                let changed: Result<()> = (0..changes).try_for_each(|nth| {
                    let begun = Instant::now();
                    match scaled {
                        false => server.restart()?,
                        true => server.scale(if nth % 2 == 0 { WORKERS + 2 } else { WORKERS })?,
                    }
                    std::thread::sleep(RESTART_EVERY.saturating_sub(begun.elapsed()));
                    Ok(())
                });
                stop.store(true, Ordering::Relaxed);
                let outcome = running.join();
                changed?;
                outcome.unwrap_or_else(|_| anyhow::bail!("the load panicked"))
            })?;
            let values = [
                ("failed requests", outcome.failures() as f64),
                ("answered requests", outcome.answered as f64),
                ("changes", changes as f64),
                ("seconds", begun.elapsed().as_secs_f64()),
                ("maximum ms", outcome.quantile(1.0)),
                ("old processes over 2 s", server.lingered as f64),
            ];
            record.add("restarts", &format!("{}, {kind}", peer.name()), 0, &values);
            if !outcome.failed.is_empty() {
                record.remarks.push(("restarts", format!("{}, {kind}: {:?}", peer.name(), outcome.failed)));
            }
        }
    }
    Ok(())
}

pub(crate) fn restart_seconds(quick: bool) -> f64 {
    if quick { 2.5 } else { 16.0 }
}
