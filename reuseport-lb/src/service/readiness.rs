//! Which workers have begun to wait for work on their sockets. Not: what follows from that (`domain/worker`).

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::attend::{OFTEN, RARELY, Standing};
use super::door::Door;
use super::workers::{Id, Place, Worker};
use super::{Happening, Service, Whom};
use crate::config::Ready;
use crate::domain::listener::{Listener, Protocol};
use crate::domain::worker::{Event, State};
use crate::kernel::launch::FIRST_FD;
use crate::kernel::opened::{self, Opened};
use crate::offload::in_thread;

/// How often workers are looked at that are not seen to wait for work yet.
const LOOK: Duration = Duration::from_millis(20);

/// The same for one that takes longer than a moment.
const LATER: Duration = Duration::from_millis(100);

/// One that is ready and was not seen to wait by then either takes what comes all the time, or never.
const KNOWN_BY: Duration = Duration::from_secs(10);

/// So long is a moment.
const MOMENT: Duration = Duration::from_secs(2);

/// Where it cannot be seen who waits for work, a worker counts as ready after this time.
const BLIND: Duration = Duration::from_millis(500);

/// After this time `status` says of a worker what it does not wait for.
const SHOWN_AFTER: Duration = Duration::from_millis(500);

/// It is asked what workers opened by themselves after pauses that are as long as the youngest of them is old, within
/// these bounds.
const OPENERS: Duration = Duration::from_secs(1);
const OPENERS_LATER: Duration = Duration::from_secs(10);

/// After this time the log says of a worker what it does not wait for.
const SAID_AFTER: Duration = Duration::from_secs(5);

impl Service {
    /// How long to wait until workers are looked at again that are not seen to wait for work yet, and how many
    /// times as long as a look takes.
    pub(super) fn readiness_pause(&self, now: Instant) -> Option<(Duration, u32)> {
        let asked = self.workers.values().filter(|it| self.is_asked(it, now));
        let is_new = |it: &Worker| it.started.is_some_and(|at| now - at < MOMENT);
        asked.map(|worker| if is_new(worker) { (LOOK, OFTEN) } else { (LATER, RARELY) }).min()
    }

    /// When it is asked next what workers opened by themselves.
    pub(super) fn next_openers(&self, now: Instant) -> Option<Instant> {
        let suspect = self.workers.values().filter(|worker| self.may_use_others(worker, now));
        let since = |it: &Worker| it.started.map(|at| self.looks.openers.max(at + SHOWN_AFTER));
        suspect.filter_map(since).min()
    }

    /// Whether it may have opened sockets by itself instead of using its own.
    fn may_use_others(&self, worker: &Worker, now: Instant) -> bool {
        let new = worker.started.is_some_and(|at| now - at < KNOWN_BY);
        let unused = match worker.life.state() {
            State::Starting | State::Loading => true,
            State::Ready => new && !worker.seen_waiting,
            _ => false,
        };
        let running = worker.process.as_ref().is_some_and(|it| it.process.is_leader());
        unused && running && worker.opened.is_none() && self.surroundings.waits.is_some()
    }

    /// Asks, in a thread, what those opened by themselves that do not wait on a socket of theirs.
    pub(super) fn look_for_openers(&mut self, now: Instant) {
        let Some(waits) = self.surroundings.waits.as_ref().filter(|_| self.looks.openers <= now) else {
            return;
        };
        let mut suspects = HashMap::new();
        let (mut listeners, mut pause) = (HashSet::new(), None);
        for worker in self.workers.values().filter(|worker| self.may_use_others(worker, now)) {
            let (Some(running), Some(started)) = (&worker.process, worker.started) else { continue };
            let deaf = worker.places.iter().filter(|place| !waits.on(&place.socket).unwrap_or(true));
            let deaf: Vec<Listener> = deaf.map(|place| place.listener).collect();
            if now - started >= SHOWN_AFTER && !deaf.is_empty() {
                let whom = Whom { id: worker.id, incarnation: running.incarnation };
                suspects.insert(running.process.pid(), whom);
            }
            listeners.extend(deaf);
            let own = (now - started).clamp(OPENERS, OPENERS_LATER);
            pause = Some(pause.map_or(own, |pause: Duration| pause.min(own)));
        }
        self.looks.openers = now + pause.unwrap_or_default();
        if suspects.is_empty() {
            return;
        }
        let (ours, sender) = (self.surroundings.ours.borrow().clone(), self.sender.clone());
        tokio::task::spawn_local(async move {
            let groups: Vec<i32> = suspects.keys().copied().collect();
            let listeners: Vec<Listener> = listeners.into_iter().collect();
            let look = move || opened::by_groups(&groups, &listeners, &ours);
            let found = in_thread("looking", look).await.and_then(|found| found);
            match found {
                Ok(found) => {
                    let whom = |(group, it)| suspects.get(&group).map(|whom| (*whom, Happening::Opened(it)));
                    // The service may have ended.
                    found.into_iter().filter_map(whom).for_each(|it| drop(sender.send(it)));
                }
                Err(error) => warn!("cannot look for sockets that workers opened by themselves: {error:#}"),
            }
        });
    }

    /// It was found out what a worker opened by itself.
    pub(super) fn opened(&mut self, id: Id, opened: Opened) {
        let Some(waits) = self.surroundings.waits.as_ref() else { return };
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let descriptors = worker.places.iter().enumerate();
        let unused: Vec<String> = descriptors
            .filter(|(_, place)| !waits.on(&place.socket).unwrap_or(true))
            .map(|(at, _)| (at + FIRST_FD as usize).to_string())
            .collect();
        if unused.is_empty() || worker.seen_waiting {
            return;
        }
        let what = opened.to_string();
        let descriptors = unused.join(", ");
        warn!(
            worker = worker.name,
            "{what}, and does not wait for work on its own sockets: they are its descriptors {descriptors} \
             (LISTEN_FDS)"
        );
        let instead = opened.instead;
        worker.opened = Some(opened);
        // With one that is only slow to begin, nothing is lost: it is ready as soon as it is seen to wait.
        if instead && worker.life.state() == State::Ready {
            self.happen(id, Event::Unused);
        }
    }

    /// Whether it is to be seen that a worker waits for work: to know that it is ready; or, of one that said
    /// so, to know later that it stalls and does not load.
    fn is_asked(&self, worker: &Worker, now: Instant) -> bool {
        let new = worker.started.is_some_and(|at| now - at < KNOWN_BY);
        let unknown = new && worker.life.state() == State::Ready && !worker.seen_waiting;
        worker.life.wants_sight(&self.config) || (unknown && self.surroundings.waits.is_some())
    }

    /// Looks at workers that are not seen to wait for work yet.
    pub(super) fn look_at_readiness(&mut self, now: Instant) {
        let asked = self.workers.values().filter(|it| self.is_asked(it, now));
        for id in asked.map(|worker| worker.id).collect::<Vec<Id>>() {
            self.look_whether_ready(id, now);
        }
    }

    fn look_whether_ready(&mut self, id: Id, now: Instant) {
        let Some(worker) = self.workers.get(&id) else { return };
        let for_long = worker.started.map_or(Duration::ZERO, |at| now - at);
        let deaf: Vec<(usize, &Place)> = match &self.surroundings.waits {
            Some(waits) => {
                // One that is closed or shut down is nobody's to wait on.
                let silent = |(_, place): &(usize, &Place)| !waits.on(&place.socket).unwrap_or(false);
                worker.places.iter().enumerate().filter(silent).collect()
            }
            None if for_long < BLIND => return,
            None => Vec::new(),
        };
        let all = deaf.is_empty();
        // Where nobody is ready it gets connections, and one that polls without ever sleeping takes them.
        let takes = self.members.is_empty() && self.has_taken(worker);
        let some = all || deaf.len() < worker.places.len() || takes;
        let says =
            !all && worker.life.state() != State::Ready && for_long >= SAID_AFTER && !worker.unready_said;
        let silent: Vec<(usize, Listener)> =
            deaf.into_iter().map(|(at, place)| (at, place.listener)).collect();
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.seen_waiting = all || takes;
        if says {
            worker.unready_said = true;
            let descriptor = |at: &usize| at + FIRST_FD as usize;
            let what =
                |(at, listener): &(usize, Listener)| format!("{listener} (descriptor {})", descriptor(at));
            let what: Vec<String> = silent.iter().map(what).collect();
            info!(worker = worker.name, "it does not wait for work yet on {}", what.join(", "));
        }
        if some {
            let heard = |door: &&mut Door| !silent.iter().any(|(_, it)| it == door.group.listener());
            self.doors.iter_mut().filter(|door| takes || heard(door)).for_each(|door| door.health.prove(id));
            self.happen(id, Event::SeenWaiting { all });
        }
    }

    /// Whether connections were decided for a worker and none of them waits.
    fn has_taken(&self, worker: &Worker) -> bool {
        worker.holds_slot
            && worker.connections() == 0
            && worker.places.iter().filter(|place| place.listener.protocol == Protocol::Tcp).any(|place| {
                let door = self.doors.iter().find(|door| *door.group.listener() == place.listener);
                let total = door.and_then(|door| door.group.totals().ok());
                let slot = usize::from(worker.slot);
                total.is_some_and(|total| total.selected[slot] > place.selected_before)
            })
    }

    /// Says once, where it cannot be seen who waits for work, what is done instead.
    pub(super) fn say_if_blind(&self) {
        let asked = matches!(self.config.ready, Ready::Accepting);
        if asked && !self.config.embedded && self.surroundings.waits.is_none() {
            warn!(
                service = self.config.name,
                "it cannot be seen here when a worker waits for work (see above): it counts as ready after {BLIND:?}, \
                 or at READY=1"
            );
        }
    }

    /// What a worker that is not ready does not do yet, as far as that can be seen.
    pub(super) fn lacks(&self, worker: &Worker, standing: &Standing) -> Option<String> {
        if let Some(why) = &worker.not_started {
            return Some(format!("is not started: {why}"));
        }
        if let Some(listener) = &worker.locked {
            return Some(format!("has locked its socket of {listener} (SO_LOCK_FILTER)"));
        }
        if worker.life.state() == State::Ready && !standing.stalled.is_empty() && !standing.is_stalled() {
            let stalled: Vec<String> = standing.stalled.iter().map(Listener::to_string).collect();
            return Some(format!("does not accept on {}", stalled.join(", ")));
        }
        let waits = self.surroundings.waits.as_ref()?;
        let for_long = worker.started.is_some_and(|at| at.elapsed() >= SHOWN_AFTER);
        if !for_long || !matches!(worker.life.state(), State::Starting | State::Loading) {
            return None;
        }
        let silent = worker.places.iter().filter(|place| !waits.on(&place.socket).unwrap_or(false));
        let silent: Vec<String> = silent.map(|place| place.listener.to_string()).collect();
        let instead = worker.opened.as_ref().map(|opened| format!(": {opened}")).unwrap_or_default();
        (!silent.is_empty()).then(|| format!("does not wait for work yet on {}{instead}", silent.join(", ")))
    }
}
