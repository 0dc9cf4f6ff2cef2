//! What `top` shows of one look at the daemon, or of two, PURE: services and workers with what was new between the
//! looks. Not: how it is laid out (`columns.rs`, `view.rs`).

use std::collections::HashMap;
use std::time::Duration;

use reuseport_lb_client::api::{ServiceStatus, SocketStatus, Status, Usage, WorkerStatus};

use crate::cmd::rates::decisions;
use crate::cmd::render;
use crate::printable::inline;

/// A status, and when it was asked for.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) status: Status,
    /// By a clock that only goes forwards.
    pub(super) at: Duration,
    /// In seconds since 1970.
    pub(super) time: f64,
}

/// A service, and its workers in the daemon's order.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Section {
    pub(super) title: String,
    pub(super) service: String,
    pub(super) rows: Vec<Row>,
}

/// A worker; texts without control characters.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) id: Id,
    pub(super) state: String,
    pub(super) pid: Option<i32>,
    /// Age of the process in seconds.
    pub(super) age: Option<f64>,
    pub(super) weight: u32,
    /// Share of the buckets, from 0 to 1.
    pub(super) share: f64,
    pub(super) arrivals: Arrivals,
    /// Live connections, where they are counted.
    pub(super) connections: Option<u64>,
    pub(super) queue: Queue,
    pub(super) used: Used,
    pub(super) restarts: u32,
    pub(super) lacks: Option<String>,
}

/// Tells a worker from all others, also from the one that it is to take over from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Id {
    pub(super) name: String,
    pub(super) successor: bool,
}

/// Decisions for a worker between two looks; `None` without a look before.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Arrivals {
    pub(super) each_second: Option<f64>,
    /// Part of all decisions of the service, from 0 to 1; `None` also if there were none.
    pub(super) share: Option<f64>,
}

/// What waits in the queues of a worker's sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Queue {
    pub(super) connections: u64,
    /// Memory of datagrams.
    pub(super) bytes: u64,
    /// How full the fullest is, from 0 to 1.
    pub(super) fullest: f64,
}

/// What a worker's process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Used {
    /// CPU seconds a second between two looks.
    pub(super) cpu: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
}

impl Id {
    pub(super) fn of(worker: &WorkerStatus) -> Self {
        Self { name: inline(&worker.name).into_owned(), successor: worker.successor }
    }
}

/// All services and workers; with the look `before`, also what was new since then.
pub(super) fn sections(before: Option<&Look>, now: &Look) -> Vec<Section> {
    let earlier = |name: &str| {
        let before = before?;
        let seconds = now.at.saturating_sub(before.at).as_secs_f64();
        let service = before.status.services.iter().find(|service| service.name == name)?;
        (seconds > 0.0).then_some(Earlier { service, seconds })
    };
    let services = now.status.services.iter();
    services.map(|service| section(earlier(&service.name), service, now.time)).collect()
}

/// A service at the look before.
#[derive(Clone, Copy)]
struct Earlier<'a> {
    service: &'a ServiceStatus,
    /// How long ago that was.
    seconds: f64,
}

fn section(earlier: Option<Earlier<'_>>, service: &ServiceStatus, time: f64) -> Section {
    let new = earlier.map(|earlier| (arrivals(earlier.service, service), earlier.seconds));
    let all: u64 = new.iter().flat_map(|(new, _)| new.values()).sum();
    let used: HashMap<i32, Usage> = earlier.map(|earlier| usage(earlier.service)).unwrap_or_default();
    let row = |worker: &WorkerStatus| {
        let each = new.as_ref().map(|(new, seconds)| (new[&worker.slot], *seconds));
        let arrivals = Arrivals {
            each_second: each.map(|(new, seconds)| new as f64 / seconds),
            share: each.filter(|_| all > 0).map(|(new, _)| new as f64 / all as f64),
        };
        let used_before = worker.pid.and_then(|pid| used.get(&pid));
        let cpu = earlier.zip(worker.usage).zip(used_before).and_then(|((earlier, usage), before)| {
            let used = usage.cpu_seconds - before.cpu_seconds;
            // Another process of this id has used less.
            (used >= 0.0).then_some(used / earlier.seconds)
        });
        Row {
            id: Id::of(worker),
            state: inline(&render::state(worker)).into_owned(),
            pid: worker.pid,
            age: worker.usage.map(|usage| (time - usage.start_time).max(0.0)),
            weight: worker.weight,
            share: worker.share,
            arrivals,
            connections: worker.connections(),
            queue: queue(&worker.sockets),
            used: Used { cpu, resident_bytes: worker.usage.map(|usage| usage.resident_bytes) },
            restarts: worker.restarts,
            lacks: worker.lacks.as_deref().map(|lacks| inline(lacks).into_owned()),
        }
    };
    let rows = service.workers.iter().map(row).collect();
    let title = title(service, new.as_ref().map(|(_, seconds)| all as f64 / seconds));
    Section { title, service: inline(&service.name).into_owned(), rows }
}

fn title(service: &ServiceStatus, each_second: Option<f64>) -> String {
    let ready = service.ready();
    let mut text = format!(
        "service {}: {ready} of {} workers ready, affinity {}",
        service.name,
        service.whole_workers().count(),
        service.affinity
    );
    if let Some(each_second) = each_second {
        text += &format!(", {each_second:.0} new/s");
    }
    let refused: u64 = service.groups.iter().filter_map(|group| group.counters.get("refused")).sum();
    if refused > 0 {
        text += &format!(", {refused} refused");
    }
    if service.ending {
        text += ", it is to end";
    }
    for reason in
        [service.busy.as_ref(), service.pending.as_ref(), service.not_adopted()].into_iter().flatten()
    {
        text += &format!(", {reason}");
    }
    inline(&text).into_owned()
}

/// Decisions between two looks, by slot: a worker that gets the slot of another one counts from 0.
fn arrivals(before: &ServiceStatus, now: &ServiceStatus) -> HashMap<u16, u64> {
    decisions(before.workers.iter(), now.workers.iter(), |worker| worker.slot)
}

fn usage(service: &ServiceStatus) -> HashMap<i32, Usage> {
    service.workers.iter().filter_map(|worker| Some((worker.pid?, worker.usage?))).collect()
}

fn queue(sockets: &[SocketStatus]) -> Queue {
    let mut queue = Queue::default();
    for socket in sockets {
        let waiting = u64::from(socket.queue);
        if socket.listen.starts_with("tcp") {
            queue.connections += waiting;
        } else {
            queue.bytes += waiting;
        }
        if socket.backlog > 0 {
            queue.fullest = queue.fullest.max(f64::from(socket.queue) / f64::from(socket.backlog)).min(1.0);
        }
    }
    queue
}

#[cfg(test)]
mod tests;
