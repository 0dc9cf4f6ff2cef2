//! Reports of a service's state: made quickly, and completed in a thread. Not: how one is made (`status.rs`).

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Result;
use reuseport_lb_client::api::{
    Adopts, FlowCounts, GroupStatus, ServiceStatus, ServiceTotals, SocketStatus, Usage, WorkerStatus,
};
use reuseport_lb_common::counters::Counter;
use reuseport_lb_common::table::BUCKETS;
use socket2::Socket;
use tracing::warn;

use super::state_file;
use crate::config;
use crate::domain::buckets::{FlowCounter, LiveFlows};
use crate::domain::listener::{Listener, Protocol};
use crate::domain::number::Number;
use crate::domain::observed::{LiveConnections, Queue};
use crate::domain::ports::WorkerId;
use crate::domain::tally::{DRAIN_BOUNDS, Tally};
use crate::domain::worker::{Origin, State};
use crate::kernel::adopt::SocketLocation;
use crate::kernel::group::GroupMemory;
use crate::kernel::strangers::Census;
use crate::kernel::{liveness, socket};
use crate::offload::in_thread_or_here;

/// The report that status requests get while a service is busy with something that takes its time.
pub type Shown = Rc<RefCell<Option<ServiceReport>>>;

/// What has happened to a service, as a status has it.
pub(super) fn in_numbers(tally: &Tally) -> ServiceTotals {
    let bounds = DRAIN_BOUNDS.into_iter().map(Some).chain([None]);
    ServiceTotals {
        handed_over: tally.handed_over,
        rollouts_done: tally.rollouts_done,
        rollouts_failed: tally.rollouts_failed,
        drains: bounds.zip(tally.drains).collect(),
        drain_seconds: tally.drain_seconds,
    }
}

/// What a service adopts, if it does; `lacks`: why not all is.
pub(super) fn adopts(config: &config::ServiceConfig, lacks: Option<&str>) -> Option<Adopts> {
    let adopt = config.adopt.as_ref()?;
    let lacks = lacks.map(str::to_owned);
    Some(Adopts { whose: adopt.whose.to_string(), by_command: adopt.by_command, lacks })
}

/// The status of a service of which only the settings are known yet; `is` says what it is busy with.
#[must_use]
pub fn coming(config: &config::ServiceConfig, is: &str) -> ServiceStatus {
    let group = |it: &config::ListenerConfig| shown_group(&it.listener, it.name.as_deref(), 0);
    let worker = |number: usize| shown_worker(&config.name, number.into(), State::Starting);
    ServiceStatus {
        name: config.name.clone(),
        affinity: config.affinity.to_string(),
        moved: 0,
        moving: 0,
        waiting: 0,
        pending: None,
        flows_cut: 0,
        totals: ServiceTotals::default(),
        settings: config::settings::without_secrets(config),
        start_timeout_ms: config.start_timeout.as_millis() as u64,
        socket_owner: config.user.clone().filter(|_| config.socket_owner == config::SocketOwner::User),
        may_join: config.join.clone().unwrap_or_else(|| config.user.iter().cloned().collect()),
        wanted: config.workers,
        adopts: adopts(config, None),
        unsaved: None,
        busy: Some(is.to_owned()),
        ending: false,
        groups: config.listen.iter().map(group).collect(),
        workers: (0..config.workers).map(worker).collect(),
    }
}

/// The status of a service that an earlier daemon left, while this daemon takes it over.
#[must_use]
pub fn left(state: &state_file::SavedService) -> ServiceStatus {
    let name = &state.config.name;
    let members = || state.workers.iter().filter(|written| is_member(written));
    let sum: u64 = members().map(|written| u64::from(written.weight)).sum();
    let worker = |written: &state_file::SavedWorker| {
        // The table gives the few buckets that are left over to some of them.
        let member = is_member(written);
        let buckets = if member { BUCKETS as u64 * u64::from(written.weight) / sum } else { 0 };
        WorkerStatus {
            slot: written.slot,
            pid: written.process.identity.map(|process| process.pid),
            weight: written.weight,
            member,
            share: buckets as f64 / BUCKETS as f64,
            buckets: buckets as u32,
            restarts: written.life.restarts,
            kills: written.life.kills,
            joined: written.life.origin == Origin::Joined,
            successor: written.trial,
            ..shown_worker(name, WorkerId::from(written.id).into(), written.life.state)
        }
    };
    ServiceStatus {
        moved: state.moved,
        flows_cut: state.flows_cut,
        totals: in_numbers(&state.tally),
        groups: state
            .listeners
            .iter()
            .map(|saved| {
                let configured = state.config.listen.iter().find(|it| it.listener == saved.asked);
                let name = configured.and_then(|it| it.name.as_deref());
                shown_group(&saved.bound, name, saved.program.unwrap_or_default())
            })
            .collect(),
        workers: state.workers.iter().map(worker).collect(),
        ..coming(&state.config, "is being taken over from the daemon before")
    }
}

/// Whether new flows went to a worker when this was written.
fn is_member(written: &state_file::SavedWorker) -> bool {
    written.life.state == State::Ready && written.holds_slot && !written.trial && written.weight > 0
}

/// A service's state, without the parts that take milliseconds to find out.
#[derive(Clone)]
pub struct ServiceReport {
    /// Flows, strangers and sockets are missing.
    pub service: ServiceStatus,
    /// Listeners and flow counters of the service's groups, in the order of `service.groups`.
    pub(super) groups: Vec<(Listener, Option<FlowCounter<GroupMemory>>)>,
    /// What is still to be found out of the workers, in the order of `service.workers`.
    pub(super) workers: Vec<Rest>,
    /// Cookies of all sockets of this daemon; other sockets on its ports are strangers.
    pub(super) ours: HashSet<u64>,
}

/// What is still to be found out of one worker.
#[derive(Clone)]
pub(super) struct Rest {
    pub(super) slot: Option<usize>,
    pub(super) sockets: Vec<Seen>,
}

/// One socket of a worker, whose queue is still to be read.
#[derive(Clone)]
pub(super) struct Seen {
    pub(super) listener: Listener,
    pub(super) reach: Reach,
    pub(super) cookie: u64,
    pub(super) selected: u64,
    pub(super) live: Option<LiveConnections>,
}

/// How a socket is reached.
#[derive(Clone)]
pub(super) enum Reach {
    /// By the daemon's duplicate.
    Own(Arc<Socket>),
    /// By a duplicate for a moment: the socket is that of a server that others have started.
    Adopted(SocketLocation),
}

impl From<ServiceStatus> for ServiceReport {
    /// A report of a service that has no groups and sockets yet.
    fn from(service: ServiceStatus) -> Self {
        Self { service, groups: Vec::new(), workers: Vec::new(), ours: HashSet::new() }
    }
}

impl ServiceReport {
    fn complete(self, census: Option<&Census>) -> ServiceStatus {
        let Self { mut service, groups, workers, ours } = self;
        let mut flows: Vec<LiveFlows> = Vec::new();
        let mut addresses = HashMap::new();
        for (group, (listener, counter)) in service.groups.iter_mut().zip(groups) {
            addresses.insert(listener, listener.to_string());
            group.strangers = census.map(|census| census.count(&listener, &ours));
            let counted = counter.and_then(|counter| counter.count());
            group.flows = counted.as_ref().map(|it| FlowCounts { live: it.live, kept: it.kept });
            flows.extend(counted);
        }
        for (worker, Rest { slot, sockets }) in service.workers.iter_mut().zip(workers) {
            worker.flows = slot.map_or(0, |slot| flows.iter().map(|it| it.by_slot[slot]).sum());
            worker.usage = worker.pid.and_then(liveness::usage).map(|used| Usage {
                start_time: used.start_time,
                cpu_seconds: used.cpu_seconds,
                resident_bytes: used.resident_bytes,
            });
            worker.sockets = sockets.into_iter().map(|seen| seen.complete(census, &addresses)).collect();
        }
        service
    }
}

impl Seen {
    /// `addresses`: those of listeners as text, which takes long to make for each socket.
    fn complete(self, census: Option<&Census>, addresses: &HashMap<Listener, String>) -> SocketStatus {
        let listen = addresses.get(&self.listener).cloned();
        let listed = census.and_then(|census| census.queue(self.cookie));
        let (queue, drops) = listed.unwrap_or_else(|| self.reach.ask(self.listener.protocol));
        SocketStatus {
            listen: listen.unwrap_or_else(|| self.listener.to_string()),
            cookie: self.cookie,
            selected: self.selected,
            queue: queue.queue,
            backlog: queue.backlog,
            connections: self.live.map(|live| live.count),
            connections_since: self.live.and_then(|live| live.since),
            drops,
        }
    }
}

impl Reach {
    /// The queue of the socket, and how much was dropped because it was full; zeros if it is gone.
    fn ask(self, protocol: Protocol) -> (Queue, u32) {
        let reached = match self {
            Self::Own(socket) => Some(socket),
            Self::Adopted(place) => place.duplicate().map(Arc::new),
        };
        let Some(socket) = reached else { return Default::default() };
        let queue = socket::queue(&socket, protocol).unwrap_or_default();
        (queue, socket::drops(&socket).unwrap_or_default())
    }
}

/// Completes reports and passes them to `then`, both in a thread: with thousands of sockets that takes many
/// milliseconds.
pub async fn complete<T: Send + 'static>(
    reports: Vec<ServiceReport>,
    then: impl FnOnce(Vec<ServiceStatus>) -> T + Send + 'static,
) -> Result<T> {
    let look = move || {
        let groups = reports.iter().flat_map(|report| &report.groups);
        let census = Census::take(&groups.map(|(listener, _)| *listener).collect::<Vec<Listener>>());
        let census = census.inspect_err(|error| warn!("cannot look for strangers: {error:#}")).ok();
        then(reports.into_iter().map(|report| report.complete(census.as_ref())).collect())
    };
    in_thread_or_here("looking", look).await
}

fn shown_group(listener: &Listener, name: Option<&str>, program_id: u32) -> GroupStatus {
    GroupStatus {
        listen: listener.to_string(),
        name: name.map_or_else(|| listener.plain_name(), str::to_owned),
        protocol: listener.protocol.to_string(),
        program_id,
        counters: Counter::ALL.iter().map(|counter| (counter.name().to_owned(), 0)).collect(),
        flows: None,
        decided_by: None,
        strangers: None,
    }
}

fn shown_worker(service: &str, number: Number, state: State) -> WorkerStatus {
    WorkerStatus {
        name: format!("{service}/{number}"),
        slot: 0,
        state: state.to_string(),
        pid: None,
        usage: None,
        weight: 1,
        member: false,
        share: 0.0,
        buckets: 0,
        flows: 0,
        restarts: 0,
        kills: 0,
        joined: false,
        successor: false,
        overloaded: false,
        lacks: None,
        log: None,
        dropped_lines: 0,
        dropped_bytes: 0,
        last_words: Vec::new(),
        sockets: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_daemon_left_gets_new_flows_as_before() {
        let state = |(weight, of, holds_slot, trial): (u32, State, bool, bool)| {
            let mut written = state_file::tests::state().workers.remove(0);
            (written.weight, written.holds_slot, written.trial) = (weight, holds_slot, trial);
            written.life.state = of;
            written
        };
        let workers = [
            (1, State::Ready, true, false),
            (3, State::Ready, true, false),
            (0, State::Ready, true, false),
            (2, State::Ready, true, true),
            (2, State::Ready, false, false),
            (2, State::Held, true, false),
            (2, State::Draining, true, false),
        ];
        let saved = state_file::SavedService {
            workers: workers.into_iter().map(state).collect(),
            ..state_file::tests::state()
        };
        let shown = left(&saved).workers;
        let of = |worker: &WorkerStatus| (worker.member, worker.buckets, worker.share);
        let none = (false, 0, 0.0);
        let wanted = [(true, 16_384, 0.25), (true, 49_152, 0.75), none, none, none, none, none];
        assert_eq!(shown.iter().map(of).collect::<Vec<_>>(), wanted);
    }
}
