//! Which workers have begun to wait for work on their sockets. Not: what follows from that (`worker/`).

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::super::listener::Listener;
use super::super::monitor::{OFTEN, RARELY};
use super::super::observed::ForeignSocket;
use super::super::pool::{Sightings, Worker, WorkerSocket};
use super::super::ports::{Dataplane, FIRST_DESCRIPTOR, ProcessKey, Processes, WorkerId};
use super::super::worker::{Event, State};
use super::Engine;
use crate::config::Ready;

/// How often workers are looked at that are not seen to wait for work yet.
const LOOK: Duration = Duration::from_millis(20);

/// How often, if one takes longer than a moment.
const LATER: Duration = Duration::from_millis(100);

/// One that is ready and was not seen to wait by then either takes what comes all the time, or never.
const KNOWN_BY: Duration = Duration::from_secs(10);

/// So long is a moment.
const MOMENT: Duration = Duration::from_secs(2);

/// Where it cannot be seen who waits for work, a worker counts as ready after this time.
const BLIND: Duration = Duration::from_millis(500);

/// After this time `status` says of a worker what it does not wait for.
const SHOWN_AFTER: Duration = Duration::from_millis(500);

/// Sockets that workers opened by themselves are looked for after pauses that are as long as the youngest of them is
/// old, within these bounds.
const FOREIGN: Duration = Duration::from_secs(1);
const FOREIGN_LATER: Duration = Duration::from_secs(10);

/// After this time the log says of a worker what it does not wait for.
const SAID_AFTER: Duration = Duration::from_secs(5);

impl Sightings {
    /// Another process: nothing was seen of it yet.
    pub(super) fn began(&mut self) {
        *self = Self { last_words: std::mem::take(&mut self.last_words), ..Self::default() };
    }
}

impl<D: Dataplane, P: Processes> Engine<D, P> {
    /// How long to wait until workers are looked at again that are not seen to wait for work yet, and how many
    /// times as long as a look takes.
    pub(super) fn readiness_pause(&self, now: Instant) -> Option<(Duration, u32)> {
        let asked = self.pool.iter().filter(|it| self.is_asked(it, now));
        let is_new = |it: &Worker| it.age(now).is_some_and(|age| age < MOMENT);
        asked.map(|worker| if is_new(worker) { (LOOK, OFTEN) } else { (LATER, RARELY) }).min()
    }

    /// When sockets that workers opened by themselves are looked for next.
    pub(super) fn next_foreign(&self, now: Instant) -> Option<Instant> {
        let suspect = self.pool.iter().filter(|worker| self.may_use_others(worker, now));
        suspect.filter_map(|it| it.process.map(|running| running.since + SHOWN_AFTER)).min()
    }

    /// Whether a worker may have opened sockets by itself instead of using its own.
    fn may_use_others(&self, worker: &Worker, now: Instant) -> bool {
        let new = worker.age(now).is_some_and(|age| age < KNOWN_BY);
        let unused = match worker.life.state() {
            State::Starting | State::Loading => true,
            State::Ready => new && !worker.sightings.waiting,
            _ => false,
        };
        let running = worker.process.is_some_and(|running| self.processes.is_ours(running.key));
        unused && running && worker.sightings.foreign.is_none() && self.dataplane.sees_waits()
    }

    /// The sockets on which a worker does not wait, with their places; `unseen`: of one of which that cannot be seen.
    fn deaf<'a>(
        &'a self,
        worker: &'a Worker,
        unseen: bool,
    ) -> impl Iterator<Item = (usize, &'a WorkerSocket)> {
        let waits = move |socket: &WorkerSocket| self.dataplane.waits(socket.cookie).unwrap_or(!unseen);
        worker.sockets.iter().enumerate().filter(move |(_, socket)| !waits(socket))
    }

    fn addresses<'a>(&self, sockets: impl Iterator<Item = (usize, &'a WorkerSocket)>) -> Vec<Listener> {
        sockets.map(|(_, socket)| self.dataplane.address(socket.listener)).collect()
    }

    /// Asks what those opened by themselves that do not wait on a socket of theirs.
    pub(super) fn look_for_foreign(&mut self, now: Instant) {
        let (mut suspects, mut listeners, mut pause) = (Vec::<ProcessKey>::new(), Vec::new(), FOREIGN_LATER);
        for worker in self.pool.iter().filter(|worker| self.may_use_others(worker, now)) {
            let (Some(running), Some(age)) = (worker.process, worker.age(now)) else { continue };
            let deaf = self.addresses(self.deaf(worker, false));
            if age >= SHOWN_AFTER && !deaf.is_empty() {
                suspects.push(running.key);
            }
            listeners.extend(deaf);
            pause = pause.min(age.clamp(FOREIGN, FOREIGN_LATER));
        }
        self.monitor.foreign_after(now + pause);
        if !suspects.is_empty() {
            listeners.sort_unstable();
            listeners.dedup();
            self.processes.look_for_foreign(&suspects, &listeners);
        }
    }

    /// It was found out what a worker opened by itself.
    pub(super) fn saw_foreign(&mut self, id: WorkerId, foreign: ForeignSocket, now: Instant) {
        let Some(worker) = self.pool.get(id).filter(|_| self.dataplane.sees_waits()) else { return };
        let descriptors = self.deaf(worker, false).map(|(at, _)| (at + FIRST_DESCRIPTOR).to_string());
        let descriptors: Vec<String> = descriptors.collect();
        if descriptors.is_empty() || worker.sightings.waiting {
            return;
        }
        warn!(
            worker = worker.name,
            "{foreign}, and does not wait for work on its own sockets: they are its descriptors {} (LISTEN_FDS)",
            descriptors.join(", ")
        );
        let instead = foreign.instead;
        let ready = worker.life.state() == State::Ready;
        if let Some(worker) = self.pool.get_mut(id) {
            worker.sightings.foreign = Some(foreign);
        }
        // With one that is only slow to begin, nothing is lost: it is ready as soon as it is seen to wait.
        if instead && ready {
            self.on_event(id, Event::Unused, now);
        }
    }

    /// Whether it is to be seen that a worker waits for work: to know that it is ready; or, of one that said
    /// so, to know later that it stalls and does not load.
    fn is_asked(&self, worker: &Worker, now: Instant) -> bool {
        let new = worker.age(now).is_some_and(|age| age < KNOWN_BY);
        let unknown = new && worker.life.state() == State::Ready && !worker.sightings.waiting;
        worker.life.wants_sight(&self.settings.config) || (unknown && self.dataplane.sees_waits())
    }

    /// Looks at workers that are not seen to wait for work yet.
    pub(super) fn check_readiness(&mut self, now: Instant) {
        for id in self.pool.ids(|worker| self.is_asked(worker, now)) {
            self.look_whether_ready(id, now);
        }
    }

    fn look_whether_ready(&mut self, id: WorkerId, now: Instant) {
        let Some(worker) = self.pool.get(id) else { return };
        let age = worker.age(now).unwrap_or_default();
        let sees = self.dataplane.sees_waits();
        if !sees && age < BLIND {
            return;
        }
        // One that is closed or shut down is nobody's to wait on.
        let deaf: Vec<(usize, WorkerSocket)> =
            if sees { self.deaf(worker, true).map(|(at, it)| (at, *it)).collect() } else { Vec::new() };
        let all = deaf.is_empty();
        // Where nobody is ready it gets connections, and one that polls without ever sleeping takes them.
        let takes = self.placement.members().is_empty() && self.has_taken(worker);
        let some = all || deaf.len() < worker.sockets.len() || takes;
        let late = !all && worker.life.state() != State::Ready && age >= SAID_AFTER;
        if late && !worker.sightings.said {
            let what = |(at, socket): &(usize, WorkerSocket)| {
                let listener = self.dataplane.address(socket.listener);
                format!("{listener} (descriptor {})", at + FIRST_DESCRIPTOR)
            };
            let what: Vec<String> = deaf.iter().map(what).collect();
            info!(worker = worker.name, "it does not wait for work yet on {}", what.join(", "));
        }
        if let Some(worker) = self.pool.get_mut(id) {
            worker.sightings.waiting = all || takes;
            worker.sightings.said |= late;
        }
        if some {
            let silent = |listener| deaf.iter().any(|(_, socket)| socket.listener == listener);
            let heard = self.listeners.iter_mut().filter(|it| takes || !silent(it.id));
            heard.for_each(|listener| listener.health.prove(id));
            self.on_event(id, Event::SeenWaiting { all }, now);
        }
    }

    /// Whether connections were decided for the process of a worker and none of them waits.
    fn has_taken(&self, worker: &Worker) -> bool {
        let before = worker.process.map(|running| running.selected);
        worker.holds_slot()
            && self.connections(worker) == 0
            && before.is_some_and(|before| self.selected(worker) > before)
    }

    /// For how many connections a worker was selected, at all listeners, so far.
    pub(super) fn selected(&self, worker: &Worker) -> u64 {
        let selected = self.tcp_sockets(worker).map(|socket| {
            let all = self.dataplane.selected(socket.listener);
            let now = all.map_or(0, |all| all[usize::from(worker.slot)]);
            now.saturating_sub(socket.selected_before)
        });
        selected.sum()
    }

    /// Says once, where it cannot be seen who waits for work, what is done instead.
    pub(super) fn say_if_blind(&self) {
        let config = &self.settings.config;
        if config.ready == Ready::Accepting && !config.embedded && !self.dataplane.sees_waits() {
            warn!(
                service = config.name,
                "it cannot be seen here when a worker waits for work (see above): it counts as ready after {BLIND:?}, \
                 or at READY=1"
            );
        }
    }

    /// What a worker that is not ready does not do yet, as far as that can be seen.
    #[must_use]
    pub fn lacks(&self, worker: &Worker, now: Instant) -> Option<String> {
        let Sightings { not_started, locked, foreign, .. } = &worker.sightings;
        if let Some(why) = not_started {
            return Some(format!("is not started: {why}"));
        }
        if let Some(listener) = locked {
            return Some(format!("has locked its socket of {listener} (SO_LOCK_FILTER)"));
        }
        let standing = self.standing(worker);
        let text = |listeners: &[Listener]| {
            listeners.iter().map(Listener::to_string).collect::<Vec<String>>().join(", ")
        };
        if worker.life.state() == State::Ready && !standing.stalled.is_empty() && !standing.is_stalled() {
            return Some(format!("does not accept on {}", text(&standing.stalled)));
        }
        let late = worker.age(now).is_some_and(|age| age >= SHOWN_AFTER);
        let waits = matches!(worker.life.state(), State::Starting | State::Loading);
        if !self.dataplane.sees_waits() || !late || !waits {
            return None;
        }
        let silent = self.addresses(self.deaf(worker, true));
        let instead = foreign.as_ref().map(|foreign| format!(": {foreign}")).unwrap_or_default();
        (!silent.is_empty()).then(|| format!("does not wait for work yet on {}{instead}", text(&silent)))
    }
}
