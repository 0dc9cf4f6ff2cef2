//! Finds out which workers wait for work on their sockets. Not: what follows from that (`worker/`).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::super::listener::Listener;
use super::super::monitor::{OFTEN, RARELY};
use super::super::observed::ForeignSocket;
use super::super::pool::{Sightings, Worker, WorkerSocket};
use super::super::ports::{Dataplane, FIRST_DESCRIPTOR, ListenerId, ProcessKey, Processes, WorkerId};
use super::super::worker::{Event, State};
use super::Engine;
use crate::config::Ready;

/// Interval between looks at workers that were not seen to wait for work yet, while one is younger than [`NEW`].
const LOOK: Duration = Duration::from_millis(20);

/// Interval between looks later.
const LATER: Duration = Duration::from_millis(100);

/// Age of a process up to which looks are frequent.
const NEW: Duration = Duration::from_secs(2);

/// Age of a ready process after which it is not looked at any more: it never sleeps, or does not use its sockets.
const KNOWN_BY: Duration = Duration::from_secs(10);

/// Age after which a process counts as ready on kernels that do not show which threads wait for work.
const UNSEEN_READY: Duration = Duration::from_millis(500);

/// Age of a process after which `status` shows the listeners that it does not wait on.
const SHOWN_AFTER: Duration = Duration::from_millis(500);

/// Bounds of the pause between searches for sockets that workers have opened themselves; within them the pause is the
/// age of the youngest process.
const FOREIGN: Duration = Duration::from_secs(1);
const FOREIGN_LATER: Duration = Duration::from_secs(10);

/// Age of a process after which the listeners that it does not wait on are logged.
const SAID_AFTER: Duration = Duration::from_secs(5);

impl Sightings {
    /// Forgets what was seen of the process before, but for its last lines.
    pub(super) fn began(&mut self) {
        *self = Self { last_words: std::mem::take(&mut self.last_words), ..Self::default() };
    }
}

impl<D: Dataplane, P: Processes> Engine<D, P> {
    /// Pause until the next look at workers that were not seen to wait for work yet, and how many times as long as a
    /// look takes it is at least; `None`: no look is needed.
    pub(super) fn readiness_pause(&self, now: Instant) -> Option<(Duration, u32)> {
        let asked = self.pool.iter().filter(|it| self.is_asked(it, now));
        let is_new = |it: &Worker| it.age(now).is_some_and(|age| age < NEW);
        asked.map(|worker| if is_new(worker) { (LOOK, OFTEN) } else { (LATER, RARELY) }).min()
    }

    /// When the next search for sockets that workers have opened themselves is due.
    pub(super) fn next_foreign(&self, now: Instant) -> Option<Instant> {
        let suspect = self.pool.iter().filter(|worker| self.may_use_others(worker, now));
        suspect.filter_map(|it| it.process.map(|running| running.since + SHOWN_AFTER)).min()
    }

    /// Whether a worker's process may have opened sockets itself instead of using those that it was given.
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

    /// The sockets on which a worker does not wait for work, with their indices; with `unseen`, also those of which the
    /// kernel does not tell.
    fn unattended<'a>(
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

    /// Searches for sockets that processes have opened themselves, of workers that do not wait on one of theirs.
    pub(super) fn look_for_foreign(&mut self, now: Instant) {
        let (mut suspects, mut listeners, mut pause) = (Vec::<ProcessKey>::new(), Vec::new(), FOREIGN_LATER);
        for worker in self.pool.iter().filter(|worker| self.may_use_others(worker, now)) {
            let (Some(running), Some(age)) = (worker.process, worker.age(now)) else { continue };
            let unattended = self.addresses(self.unattended(worker, false));
            if age >= SHOWN_AFTER && !unattended.is_empty() {
                suspects.push(running.key);
            }
            listeners.extend(unattended);
            pause = pause.min(age.clamp(FOREIGN, FOREIGN_LATER));
        }
        self.monitor.foreign_after(now + pause);
        if !suspects.is_empty() {
            listeners.sort_unstable();
            listeners.dedup();
            self.processes.look_for_foreign(&suspects, &listeners);
        }
    }

    /// Notes a socket that a worker's process has opened itself.
    pub(super) fn saw_foreign(&mut self, id: WorkerId, foreign: ForeignSocket, now: Instant) {
        let Some(worker) = self.pool.get(id).filter(|_| self.dataplane.sees_waits()) else { return };
        let descriptors = self.unattended(worker, false).map(|(at, _)| (at + FIRST_DESCRIPTOR).to_string());
        let descriptors: Vec<String> = descriptors.collect();
        if descriptors.is_empty() || worker.sightings.waiting {
            return;
        }
        let mend = self.mend_of(&foreign);
        warn!(
            worker = worker.name,
            "{foreign}, and does not wait for work on its own sockets: they are its descriptors {} (LISTEN_FDS){mend}",
            descriptors.join(", ")
        );
        let instead = foreign.instead;
        let ready = worker.life.state() == State::Ready;
        if let Some(worker) = self.pool.get_mut(id) {
            worker.sightings.foreign = Some(foreign);
        }
        // Harmless if the worker was only slow to begin: it is ready again as soon as it is seen to wait.
        if instead && ready {
            self.on_event(id, Event::Unused, now);
        }
    }

    /// What to do about a socket that a process has opened itself, as the end of a sentence.
    fn mend_of(&self, foreign: &ForeignSocket) -> &'static str {
        let mends = foreign.instead && !self.opens_sockets();
        if mends { "; or set sockets = \"bind\" (run --sockets bind)" } else { "" }
    }

    /// Whether a worker is to be seen waiting for work: for its readiness; or, after `READY=1`, so that a later stall
    /// is not taken for loading.
    fn is_asked(&self, worker: &Worker, now: Instant) -> bool {
        let new = worker.age(now).is_some_and(|age| age < KNOWN_BY);
        let unknown = new && worker.life.state() == State::Ready && !worker.sightings.waiting;
        worker.life.wants_sight(&self.settings.config) || (unknown && self.dataplane.sees_waits())
    }

    /// Whether `start_timeout` is still to pass for a worker that is not ready. Of a successor the log says that it is
    /// given up then, and of a worker with sockets of its own what is wrong.
    fn may_be_overdue(worker: &Worker) -> bool {
        let Sightings { overdue, foreign, .. } = &worker.sightings;
        let unready = matches!(worker.life.state(), State::Starting | State::Loading);
        unready && !worker.is_successor() && !overdue && foreign.is_none()
    }

    /// When the next worker that is not ready exceeds `start_timeout`.
    pub(super) fn next_overdue(&self) -> Option<Instant> {
        let limit = self.settings.config.start_timeout;
        let unready = self.pool.iter().filter(|worker| Self::may_be_overdue(worker));
        unready.filter_map(|worker| worker.process.map(|running| running.since + limit)).min()
    }

    /// Logs which workers are not ready within `start_timeout`. They go on: whether they ever will be is not known.
    pub(super) fn warn_overdue(&mut self, now: Instant) {
        let limit = self.settings.config.start_timeout;
        let is_due = |it: &Worker| Self::may_be_overdue(it) && it.age(now).is_some_and(|age| age >= limit);
        for id in self.pool.ids(is_due) {
            let Some(worker) = self.pool.get(id) else { continue };
            let lacks = self
                .lacks(worker, now, self.counted(worker))
                .map_or_else(String::new, |lacks| format!(": it {lacks}"));
            warn!(
                worker = worker.name,
                "not ready within start_timeout ({limit:?}), and left to go on{lacks}"
            );
            if let Some(worker) = self.pool.get_mut(id) {
                worker.sightings.overdue = true;
            }
        }
    }

    /// Looks at workers that were not seen to wait for work yet.
    pub(super) fn check_readiness(&mut self, now: Instant) {
        for id in self.pool.ids(|worker| self.is_asked(worker, now)) {
            self.look_whether_ready(id, now);
        }
    }

    fn look_whether_ready(&mut self, id: WorkerId, now: Instant) {
        let Some(worker) = self.pool.get(id) else { return };
        let age = worker.age(now).unwrap_or_default();
        let sees = self.dataplane.sees_waits();
        if !sees && age < UNSEEN_READY {
            return;
        }
        // A socket that is closed or shut down counts as one that the worker does not wait on.
        let unattended: Vec<(usize, WorkerSocket)> =
            if sees { self.unattended(worker, true).map(|(at, it)| (at, *it)).collect() } else { Vec::new() };
        let all = unattended.is_empty();
        // While no worker is ready, this one gets connections; a process that polls without ever sleeping takes them.
        let takes = self.placement.members().is_empty() && self.has_taken(worker, self.counted(worker));
        let some = all || unattended.len() < worker.sockets.len() || takes;
        let ready = worker.life.state() == State::Ready;
        let late = !all && age >= SAID_AFTER && !(ready && self.has_taken(worker, self.counted(worker)));
        if late && !worker.sightings.said {
            let what = |(at, socket): &(usize, WorkerSocket)| {
                let listener = self.dataplane.address(socket.listener);
                format!("{listener} (descriptor {})", at + FIRST_DESCRIPTOR)
            };
            let what: Vec<String> = unattended.iter().map(what).collect();
            let what = what.join(", ");
            if ready {
                info!(worker = worker.name, "it is ready, but was not seen to wait for work yet on {what}");
            } else {
                info!(worker = worker.name, "it does not wait for work yet on {what}");
            }
        }
        if let Some(worker) = self.pool.get_mut(id) {
            worker.sightings.waiting = all || takes;
            worker.sightings.said |= late;
        }
        if some {
            let silent = |listener| unattended.iter().any(|(_, socket)| socket.listener == listener);
            let heard = self.listeners.iter_mut().filter(|it| takes || !silent(it.id));
            heard.for_each(|listener| listener.health.prove(id));
            self.on_event(id, Event::SeenWaiting { all }, now);
        }
    }

    /// Whether the process of a worker was selected for connections, and none of them waits. `counted`: see
    /// [`Engine::lacks`].
    fn has_taken(&self, worker: &Worker, counted: impl Fn(ListenerId) -> u64) -> bool {
        let before = worker.process.map(|running| running.selected);
        worker.holds_slot()
            && self.connections(worker) == 0
            && before.is_some_and(|before| self.selected_of(worker, counted) > before)
    }

    /// For how many connections a worker was selected so far, over all listeners.
    pub(super) fn selected(&self, worker: &Worker) -> u64 {
        self.selected_of(worker, self.counted(worker))
    }

    fn selected_of(&self, worker: &Worker, counted: impl Fn(ListenerId) -> u64) -> u64 {
        let sockets = self.tcp_sockets(worker);
        sockets.map(|socket| counted(socket.listener).saturating_sub(socket.selected_before)).sum()
    }

    /// Reads how often the slot of a worker was selected so far at a listener.
    pub(super) fn counted(&self, worker: &Worker) -> impl Fn(ListenerId) -> u64 {
        let slot = usize::from(worker.slot);
        move |listener| self.dataplane.selected(listener).map_or(0, |all| all[slot])
    }

    /// Warns if `ready = "accepting"` needs to know which threads wait for work, and this kernel does not show that.
    pub(super) fn warn_if_unseen(&self) {
        let config = &self.settings.config;
        if config.ready == Ready::Accepting && !config.embedded && !self.dataplane.sees_waits() {
            warn!(
                service = config.name,
                "this kernel does not show when a worker waits for work (see above): a worker counts as ready after \
                 {UNSEEN_READY:?}, or at READY=1"
            );
        }
    }

    /// What a worker lacks that is not ready, is stalled at some listeners, or was never seen to use its sockets, as
    /// the end of a sentence: worker web/0 "does not wait for work yet on …". `counted`: how often the worker's slot was
    /// selected so far at a listener; who asks about many workers has read the counters once.
    #[must_use]
    pub fn lacks(
        &self,
        worker: &Worker,
        now: Instant,
        counted: impl Fn(ListenerId) -> u64,
    ) -> Option<String> {
        let Sightings { not_started, locked, foreign, waiting, .. } = &worker.sightings;
        if let Some(why) = not_started {
            return Some(format!("is not started: {why}"));
        }
        if let Some(listener) = locked {
            return Some(format!("has locked its socket of {listener} (SO_LOCK_FILTER)"));
        }
        let state = worker.life.state();
        let standing = self.standing(worker);
        // `stalled` as its state says all if that is so everywhere; it is `loading` if it has never accepted.
        let shown = standing.is_partial() || (standing.never && !standing.stalled.is_empty());
        if state == State::Ready && shown {
            return Some(standing.where_stalled());
        }
        if worker.age(now).is_none_or(|age| age < SHOWN_AFTER) {
            return None;
        }
        let silent = |unseen| {
            let sockets = self.unattended(worker, unseen).filter(|_| self.dataplane.sees_waits());
            Some(text(&self.addresses(sockets))).filter(|silent| !silent.is_empty())
        };
        let at: BTreeSet<ListenerId> = worker.sightings.bound.iter().map(|(listener, _)| *listener).collect();
        let at: Vec<Listener> = at.into_iter().map(|listener| self.dataplane.address(listener)).collect();
        let bound = (!at.is_empty())
            .then(|| format!("does not listen on a socket that it has bound to {}", text(&at)));
        let unheard = worker.life.awaits_word(&self.settings.config);
        match state {
            State::Starting | State::Loading => {
                let instead = foreign.as_ref().map(|it| format!(": {it}{}", self.mend_of(it)));
                let instead = instead.unwrap_or_default();
                let silent = silent(true).map(|on| format!("does not wait for work yet on {on}{instead}"));
                let said = unheard.then(|| "has not said READY=1 yet".to_owned());
                joined([said, silent, bound])
            }
            State::Ready => {
                // Looked at first: most workers wait, and what each has taken may be read from the counters of all CPUs.
                let on = if *waiting { None } else { silent(false) };
                let on = on.filter(|_| !self.has_taken(worker, counted));
                joined([on.map(|on| format!("was not seen to wait for work yet on {on}")), bound, None])
            }
            _ => None,
        }
    }
}

/// What there is of these, as one end of a sentence.
fn joined(what: [Option<String>; 3]) -> Option<String> {
    let all: Vec<String> = what.into_iter().flatten().collect();
    Some(all.join(", and ")).filter(|all| !all.is_empty())
}

/// The addresses of listeners, for a sentence.
fn text(listeners: &[Listener]) -> String {
    listeners.iter().map(Listener::to_string).collect::<Vec<String>>().join(", ")
}
