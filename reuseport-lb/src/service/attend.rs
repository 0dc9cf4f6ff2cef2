//! Looking after workers: their queues, their watchdogs and what they write. Not: what a look means
//! (`domain/health`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use reuseport_lb_common::layout::Fitness;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::Service;
use super::door::door_at;
use super::rollout::Wish;
use super::workers::{Id, Worker};
use crate::domain::health::{Change, Sample, Signs, Status};
use crate::domain::listener::{Listener, Protocol};
use crate::domain::worker::{Origin, State};
use crate::kernel::process::Process;
use crate::kernel::{liveness, socket};
use crate::logging;

/// The daemon that looks later than this has stood still, and a process may have said what nobody has heard.
const LATE: Duration = Duration::from_millis(100);

/// How often what workers may do to groups and listeners is put right.
const REPAIR: Duration = Duration::from_secs(1);

/// With thousands of sockets looks take one in so many parts of the time, or of a processor: while something
/// waits, and while nothing does.
pub(super) const OFTEN: u32 = 4;
pub(super) const RARELY: u32 = 160;

/// How often the output of workers that are suspect is passed on.
const FORWARD: Duration = Duration::from_millis(500);

/// The same, while there is more.
const FORWARD_MORE: Duration = Duration::from_millis(5);

/// How often it is passed on while standard error takes no more.
const FORWARD_LATER: Duration = Duration::from_millis(50);

/// How long a process may take to be suspended; within that it is busy in the kernel.
const SUSPENDING: Duration = Duration::from_millis(3);

/// When something is looked at next, and how long it took last time.
#[derive(Default)]
struct Look {
    at: Option<Instant>,
    took: Duration,
}

impl Look {
    /// Plans the next one after a pause that is at least so many times as long as the last one took, without putting
    /// one off that is planned; `None`: there is nothing to look at.
    fn plan(&mut self, now: Instant, pause: Option<(Duration, u32)>) {
        let next = pause.map(|(pause, part)| now + pause.max(self.took * part));
        self.at = next.map(|next| self.at.map_or(next, |at| at.min(next)));
    }

    /// Whether it is due; then it is planned no more.
    fn is_due(&mut self, now: Instant) -> bool {
        self.at.take_if(|at| *at <= now).is_some()
    }
}

/// What is looked at when.
pub(super) struct Looks {
    /// The first of them.
    pub(super) next: Option<Instant>,
    /// All queues.
    queues: Look,
    /// Workers that are not seen to wait for work yet.
    readiness: Look,
    /// What those opened by themselves.
    pub(super) openers: Instant,
    /// All sockets, for what workers may have done to them.
    repair: Instant,
    pub(super) repair_took: Duration,
}

impl Looks {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            next: None,
            queues: Look::default(),
            readiness: Look::default(),
            openers: now,
            repair: now,
            repair_took: Duration::ZERO,
        }
    }
}

/// How a worker does at its TCP listeners.
pub(super) struct Standing {
    /// How many these are.
    tcp: usize,
    /// Those at which it does not accept, so that it gets nothing new there.
    pub(super) stalled: Vec<Listener>,
    /// It has never accepted at any of those.
    pub(super) never: bool,
    /// At one of them its queue is much deeper than the others'.
    pub(super) overloaded: bool,
}

impl Standing {
    /// Whether it accepts nowhere.
    pub(super) fn is_stalled(&self) -> bool {
        self.tcp > 0 && self.stalled.len() == self.tcp
    }
}

impl Service {
    /// Sets the time of the next look, without putting one off that is planned.
    pub(super) fn plan_look(&mut self) {
        let now = Instant::now();
        let queues = self.workers.values().any(|worker| judged(worker) && has_tcp(worker));
        let doors = self.doors.iter().filter(|door| queues && door.is_tcp());
        let judge = doors.clone().filter_map(|door| door.health.pause(&self.config)).min();
        let judge = judge.map(|pause| {
            let part = if doors.clone().any(|door| door.health.is_busy()) { OFTEN } else { RARELY };
            (pause, part)
        });
        let readiness = self.readiness_pause(now);
        let running = || self.workers.values().filter_map(|worker| worker.process.as_ref());
        let forward = running().any(|running| running.output.is_some()).then(|| now + FORWARD);
        let served = self.workers.values().filter(|worker| worker.life.state() != State::Draining);
        let bite = served.filter_map(|worker| worker.bite_at).min();
        let (repair, openers) = (Some(self.looks.repair), self.next_openers(now));
        let looks = &mut self.looks;
        looks.queues.plan(now, judge);
        looks.readiness.plan(now, readiness);
        let all = [looks.next, looks.queues.at, looks.readiness.at, forward, bite, repair, openers];
        looks.next = all.into_iter().flatten().min();
    }

    pub(super) fn attend(&mut self, now: Instant) {
        self.looks.next = None;
        if self.looks.readiness.is_due(now) {
            let begun = Instant::now();
            self.look_at_readiness(now);
            self.looks.readiness.took = begun.elapsed();
        }
        self.look_for_openers(now);
        if self.looks.queues.is_due(now) {
            let begun = Instant::now();
            self.judge(now);
            self.looks.queues.took = begun.elapsed();
        }
        self.bite(now);
        if self.looks.repair <= now {
            self.looks.repair = now + REPAIR.max(std::mem::take(&mut self.looks.repair_took) * RARELY);
            self.repair_what_lives();
            self.look_at_files();
            self.looks.repair_took += now.elapsed();
        }
        for worker in self.workers.values_mut() {
            if !worker.pass_on_output(false) {
                let pause = if logging::has_room(0) { FORWARD_MORE } else { FORWARD_LATER };
                self.looks.next = Some(now + pause);
            }
        }
    }

    /// It said `WATCHDOG=1`.
    pub(super) fn pinged(&mut self, id: Id) {
        self.pings.insert(id);
    }

    /// Looks at all queues, each listener for itself: a worker may accept at one and not at another.
    fn judge(&mut self, now: Instant) {
        let pings = std::mem::take(&mut self.pings);
        // Reading /proc takes longer than all else here.
        let known: RefCell<BTreeMap<Id, Option<liveness::Signs>>> = RefCell::default();
        let of_process = |worker: &Worker| {
            let process = worker.process.as_ref().map(|running| &running.process);
            *known.borrow_mut().entry(worker.id).or_insert_with(|| process.and_then(|it| signs_of(it)))
        };
        for at in 0..self.doors.len() {
            let samples = self.look_at_queues(at);
            let mut health = std::mem::take(&mut self.doors[at].health);
            let signs = |id: Id| {
                let worker = self.workers.get(&id)?;
                let seen = of_process(worker)?;
                let place = worker.place_near(at, self.doors[at].group.listener());
                let waits = place.and_then(|place| self.surroundings.waits_on(&place.socket));
                let (stopped, switches) = (seen.stopped, seen.switches);
                Some(Signs { stopped, switches, pinged: pings.contains(&id), waits })
            };
            let changes = health.look(&samples, signs, now, &self.config);
            self.doors[at].health = health;
            for change in changes {
                self.follow(at, change);
            }
        }
    }

    fn follow(&mut self, at: usize, change: Change<Id>) {
        match change {
            Change::Overloaded(id) => self.set_fitness(at, id, Fitness::Overloaded),
            Change::Fit(id) => self.set_fitness(at, id, Fitness::Fit),
            Change::Stalled(id) => {
                self.set_fitness(at, id, Fitness::Ejected);
                self.tell_rosters(None);
                self.rescue_living(at, id);
                let loading = if self.doors[at].health.is_loading(id) { " yet (it has never)" } else { "" };
                let listener = self.doors[at].group.listener();
                warn!(
                    worker = self.name_of(id.number),
                    "it does not accept on {listener}{loading}: others get what waits for it"
                );
            }
            Change::Rescue(id) => self.rescue_living(at, id),
            Change::Recovered(id) => {
                self.set_fitness(at, id, Fitness::Fit);
                self.tell_rosters(None);
                let listener = self.doors[at].group.listener();
                info!(worker = self.name_of(id.number), "it is taken back on {listener}");
            }
            Change::Replace(id) => self.replace_stuck(id),
        }
    }

    pub(super) fn standing(&self, worker: &Worker) -> Standing {
        let mut standing = Standing { tcp: 0, stalled: Vec::new(), never: true, overloaded: false };
        for (at, place) in worker.places.iter().enumerate() {
            let Some(door) = door_at(&self.doors, at, &place.listener).filter(|it| it.is_tcp()) else {
                continue;
            };
            standing.tcp += 1;
            match door.health.status(worker.id) {
                Status::Fit => {}
                Status::Overloaded => standing.overloaded = true,
                Status::Stalled => {
                    standing.stalled.push(place.listener);
                    standing.never &= door.health.is_loading(worker.id);
                }
            }
        }
        standing
    }

    fn look_at_queues(&mut self, at: usize) -> Vec<Sample<Id>> {
        let door = &mut self.doors[at];
        if !door.is_tcp() {
            return Vec::new();
        }
        let mut looks = Vec::new();
        for worker in self.workers.values().filter(|worker| judged(worker)) {
            let Some(place) = worker.place_near(at, door.group.listener()) else { continue };
            // One that was closed or shut down has nothing waiting.
            looks.push((worker, socket::queue(&place.socket, Protocol::Tcp).unwrap_or_default()));
        }
        // Reading the counters of all CPUs costs more than all else here.
        if looks.iter().any(|(_, seen)| seen.queue > 0)
            && let Ok(totals) = door.group.totals()
        {
            door.selected = totals.selected;
        }
        let sample = |(worker, seen): (&Worker, socket::Queue)| Sample {
            worker: worker.id,
            queue: seen.queue,
            full: seen.queue > 0 && seen.queue >= seen.backlog,
            selected: door.selected.get(usize::from(worker.slot)).copied().unwrap_or_default(),
        };
        looks.into_iter().map(sample).collect()
    }

    /// Says to the program of a listener whether new connections shall avoid a worker.
    fn set_fitness(&mut self, at: usize, id: Id, fitness: Fitness) {
        let Some(worker) = self.workers.get(&id).filter(|worker| worker.holds_slot) else { return };
        self.doors[at].group.set_fitness(worker.slot, fitness);
    }

    /// Hands over what waits for a worker whose process is there. It must not run while its listener
    /// is shut down: what then sees a hang-up may never accept again (HAProxy), or do nothing else any
    /// more (tokio, whose `accept` does not come back).
    fn rescue_living(&mut self, at: usize, id: Id) {
        let Some(worker) = self.workers.get(&id) else { return };
        let process = worker.process.as_ref().map(|running| running.process.clone());
        let ours = process.filter(|process| process.is_leader());
        // One that is stopped already is somebody else's to resume; so is a guest.
        let runs = ours.filter(|process| signs_of(process).is_some_and(|signs| !signs.stopped));
        if let Some(process) = &runs {
            process.suspend();
            let begun = Instant::now();
            while begun.elapsed() < SUSPENDING && signs_of(process).is_some_and(|signs| !signs.stopped) {}
        }
        // It may just have come back.
        let listener = *self.doors[at].group.listener();
        let place = worker.place_near(at, &listener);
        if place.is_some_and(|place| place.queue() > 0) {
            self.rescue(id, Some(listener));
        }
        if let Some(process) = runs {
            process.resume();
        }
    }

    /// Hands over what waits for a worker that loads, at listeners that it does not wait on: where it does, or where
    /// that cannot be seen, it would take a hang-up for the end of its listener.
    pub(super) fn hand_on(&mut self, id: Id) {
        for at in 0..self.doors.len() {
            let listener = *self.doors[at].group.listener();
            let place = self.workers.get(&id).and_then(|worker| worker.place_near(at, &listener));
            let waits = place.and_then(|place| self.surroundings.waits_on(&place.socket));
            if self.doors[at].is_tcp() && waits == Some(false) {
                self.rescue_living(at, id);
            }
        }
    }

    /// It has another process, or none.
    pub(super) fn forget_health(&mut self, id: Id) {
        for at in 0..self.doors.len() {
            if self.doors[at].health.forget(id) != Status::Fit {
                self.set_fitness(at, id, Fitness::Fit);
            }
        }
    }

    fn replace_stuck(&mut self, id: Id) {
        let outcome =
            if self.replace_alone(id) { ": it gets a new process" } else { "; a new process may help" };
        warn!(worker = self.name_of(id.number), "it stalls again and again{outcome}");
    }

    /// Gives a worker another process, as `restart` does; false if that cannot be now, or it came by itself.
    pub(super) fn replace_alone(&mut self, id: Id) -> bool {
        let ours = self.workers.get(&id).is_some_and(|worker| worker.life.origin() == Origin::Started);
        let busy = self.rollout.is_some() || self.prepared.is_some() || self.stopping;
        if ours && !busy {
            let wish = Wish { only: Some(id.number), ..Wish::in_turn(Duration::ZERO) };
            self.replace(wish, [id.number].into(), None, mpsc::unbounded_channel().0);
        }
        ours && !busy
    }

    /// Ends what has not said `WATCHDOG=1` in time; it is then started again.
    fn bite(&mut self, now: Instant) {
        // One that leaves finishes what it has, and need not say that it is alive.
        let due = |worker: &&mut Worker| {
            worker.bite_at.is_some_and(|at| at <= now) && worker.life.state() != State::Draining
        };
        for worker in self.workers.values_mut().filter(due) {
            // It could not be heard.
            if worker.restore_hearing(self.config.watchdog) {
                continue;
            }
            let late = worker.bite_at.map_or(Duration::ZERO, |at| now - at);
            // What it has said may wait to be heard, if the daemon stood still (SIGSTOP, a pause of the machine).
            if late > LATE || !std::mem::replace(&mut worker.last_chance, true) {
                worker.bite_at = Some(now + LATE);
                worker.last_chance &= late <= LATE;
                continue;
            }
            worker.bite_at = None;
            worker.hung = true;
            warn!(worker = worker.name, "no WATCHDOG=1 in time: it is killed");
            if let Some(running) = &worker.process {
                Process::kill(&running.process);
            }
        }
    }
}

/// Of all that the worker is.
fn signs_of(process: &Process) -> Option<liveness::Signs> {
    liveness::of_all(process.all())
}

/// Whether its queue says anything.
pub(super) fn judged(worker: &Worker) -> bool {
    worker.is_member() && worker.life.state() == State::Ready
}

fn has_tcp(worker: &Worker) -> bool {
    worker.places.iter().any(|place| place.listener.protocol == Protocol::Tcp)
}
