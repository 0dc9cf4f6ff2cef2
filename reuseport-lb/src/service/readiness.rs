//! Which workers have begun to wait for work on their sockets. Not: what follows from that (`worker.rs`).

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::Service;
use super::door::Door;
use super::workers::{Id, Place, Worker};
use crate::config::Ready;
use crate::kernel::launch::FIRST_FD;
use crate::listener::{Listener, Protocol};
use crate::worker::{Event, State};

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

/// After this time the log says of a worker what it does not wait for.
const SAID_AFTER: Duration = Duration::from_secs(5);

impl Service {
    /// When workers are to be looked at that are not seen to wait for work yet.
    pub(super) fn next_readiness(&self, now: Instant) -> Option<Instant> {
        let asked = self.workers.values().filter(|it| self.is_asked(it, now));
        let pause = |it: &Worker| if it.started.is_some_and(|at| now - at < MOMENT) { LOOK } else { LATER };
        asked.map(|worker| now + pause(worker)).min()
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
    pub(super) fn lacks(&self, worker: &Worker) -> Option<String> {
        let (stalled, all, _) = self.stalled_on(worker);
        if worker.life.state() == State::Ready && !stalled.is_empty() && stalled.len() < all {
            let stalled: Vec<String> = stalled.iter().map(Listener::to_string).collect();
            return Some(format!("does not accept on {}", stalled.join(", ")));
        }
        let waits = self.surroundings.waits.as_ref()?;
        let for_long = worker.started.is_some_and(|at| at.elapsed() >= SHOWN_AFTER);
        if !for_long || !matches!(worker.life.state(), State::Starting | State::Loading) {
            return None;
        }
        let silent = worker.places.iter().filter(|place| !waits.on(&place.socket).unwrap_or(false));
        let silent: Vec<String> = silent.map(|place| place.listener.to_string()).collect();
        (!silent.is_empty()).then(|| format!("does not wait for work yet on {}", silent.join(", ")))
    }
}
