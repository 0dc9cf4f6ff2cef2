//! Moving buckets: one listener at a time, since each takes milliseconds. The service takes no input meanwhile.

use std::collections::BTreeMap;
use std::time::Instant;

use reuseport_lb_common::slots::MAX_SLOTS;
use tracing::info;

use super::super::apart::Apart;
use super::super::bucket_move::Constraint;
use super::super::flows::Due;
use super::super::incident::{Cause, IncidentKind};
use super::super::listeners::ListenerState;
use super::super::pool::Worker;
use super::super::ports::{Dataplane, ListenerId, Processes};
use super::super::slots::SlotSet;
use super::super::table::Plan;
use super::super::worker::State;
use super::Engine;
use super::agenda::{Constraints, Pass, PassStage, Publishing};

impl<D: Dataplane, P: Processes> Engine<D, P> {
    /// Does one part of making and writing the table that is wanted; false if none is.
    pub(super) fn go_on_placing(&mut self, now: Instant) -> bool {
        let mut pass = match self.agenda.pass.take() {
            Some(pass) => pass,
            None if self.placement.is_wanted() => self.begin_placing(),
            None => return false,
        };
        loop {
            if let Some(listener) = pass.left.pop() {
                self.place_at(listener, &mut pass.stage);
                self.agenda.pass = Some(pass);
                return true;
            }
            match self.next_stage(pass.stage, now) {
                Some(next) => pass = next,
                None => break,
            }
        }
        if !self.placement.is_wanted() {
            self.agenda.placed.drain(..).for_each(|reply| reply.send(()));
        }
        true
    }

    fn pass(&self, stage: PassStage) -> Pass {
        let mut left: Vec<ListenerId> = match &stage {
            PassStage::Publish(it) => {
                let meant =
                    |listener: &&ListenerState| !it.plan.changes.is_empty() || listener.apart.is_some();
                self.listeners.iter().filter(meant).map(|it| it.id).collect()
            }
            _ => self.tracking().collect(),
        };
        left.reverse();
        Pass { stage, left }
    }

    fn begin_placing(&mut self) -> Pass {
        // When all workers leave, flows end with them, and are not reported.
        if !self.stopping && self.pool.iter().any(is_counted) {
            self.pass(PassStage::CountFlows(vec![0; MAX_SLOTS]))
        } else {
            self.begin_cut()
        }
    }

    fn begin_cut(&mut self) -> Pass {
        self.flows.pin(self.pool.pinned());
        self.pass(PassStage::Cut(BTreeMap::new()))
    }

    fn place_at(&mut self, listener: ListenerId, stage: &mut PassStage) {
        let (dataplane, pinned) = (&mut self.dataplane, self.flows.pinned());
        match stage {
            PassStage::CountFlows(flows) => dataplane.add_flows(listener, flows),
            PassStage::Cut(cut) => {
                for (slot, flows) in dataplane.cut(listener, pinned) {
                    *cut.entry(slot).or_default() += flows;
                }
            }
            PassStage::Constrain(constraints) => {
                let is_apart = self.listeners.near(0, listener).is_some_and(|it| it.apart.is_some());
                let constraints = match is_apart {
                    true => constraints.own.entry(listener).or_default(),
                    false => &mut constraints.common,
                };
                for (bucket, constraint) in dataplane.constraints(listener, pinned) {
                    let at = usize::from(bucket);
                    if constraints.len() <= at {
                        constraints.resize(at + 1, Constraint::Free);
                    }
                    constraints[at] = constraints[at].and(constraint);
                }
            }
            PassStage::Publish(all) => {
                let own = all.constraints.own.remove(&listener).unwrap_or_default();
                let mut known = self.listeners.iter_mut();
                let Some(apart) = known.find(|it| it.id == listener).map(|it| &mut it.apart) else { return };
                let Some(it) = apart else { return dataplane.publish(listener, &all.plan.changes, pinned) };
                let Plan { changes, waiting } =
                    it.plan(self.placement.table(), self.placement.members(), |bucket| at(&own, bucket));
                dataplane.publish(listener, &changes, pinned);
                self.placement.moved_apart(changes.len());
                all.moved += changes.len();
                all.waiting += waiting;
                apart.take_if(|it| it.is_over(self.placement.table()));
            }
            PassStage::CountStaying(flows) => dataplane.add_staying(listener, flows),
            PassStage::Sweep(ended) => *ended += dataplane.sweep(listener),
        }
    }

    fn next_stage(&mut self, stage: PassStage, now: Instant) -> Option<Pass> {
        match stage {
            PassStage::CountFlows(flows) => {
                for worker in self.pool.iter_mut().filter(|worker| is_counted(worker)) {
                    worker.drain.flows = Some(flows[usize::from(worker.slot)]);
                }
                Some(self.begin_cut())
            }
            PassStage::Cut(cut) => {
                self.note_cut(cut);
                Some(self.pass(PassStage::Constrain(Constraints::default())))
            }
            PassStage::Constrain(constraints) => {
                let plan = self.placement.plan(|bucket| at(&constraints.common, bucket));
                let (moved, waiting) = (plan.changes.len(), plan.waiting);
                // As buckets, CPUs are taken from who leaves before it is told to.
                self.publish_rosters(None);
                Some(self.pass(PassStage::Publish(Publishing { plan, constraints, moved, waiting })))
            }
            PassStage::Publish(published) => {
                self.note_published(&published, now);
                self.tracks_flows().then(|| self.pass(PassStage::CountStaying(vec![0; MAX_SLOTS])))
            }
            PassStage::CountStaying(staying) => {
                self.flows.counted(staying);
                None
            }
            PassStage::Sweep(ended) if self.flows.swept(ended) => {
                // Waiting buckets may be able to move now.
                self.placement.again();
                None
            }
            PassStage::Sweep(_) => Some(self.pass(PassStage::CountStaying(vec![0; MAX_SLOTS]))),
        }
    }

    fn note_cut(&mut self, mut cut: BTreeMap<u16, u64>) {
        // Flows of a worker whose process has ended are not counted as cut.
        let is_cut = |worker: &&mut Worker| {
            worker.life.state() == State::Draining && worker.process.is_some() && worker.holds_slot()
        };
        for worker in self.pool.iter_mut().filter(is_cut) {
            if let Some(flows) = cut.remove(&worker.slot) {
                worker.drain.flows_cut += flows;
                self.flows.add_cut(flows);
            }
        }
    }

    fn note_published(&mut self, published: &Publishing, now: Instant) {
        let service = &self.settings.config.name;
        let Publishing { plan, moved, waiting, .. } = published;
        if self.tracks_flows() && self.flows.placed(*moved, *waiting, now) {
            info!(service, buckets = waiting, "wait for live flows before they move");
        }
        if !plan.changes.is_empty() {
            let (buckets, members) = (plan.changes.len(), self.placement.members().len());
            self.tell(IncidentKind::Moved { buckets, members }, Cause::default());
            self.warn_of_left_out();
        }
    }

    /// Asks for a table of the workers that may own buckets now, if these have changed, or those that keep their flows.
    pub(super) fn rebalance(&mut self) {
        self.placement.joined();
        let members = self.pool.admitted();
        let same = members == self.placement.members() && self.pool.pinned() == *self.flows.pinned();
        if self.placement.is_wanted() || !same {
            self.placement.want(members);
        }
    }

    /// Begins an epoch or a sweep that is due; false if none is.
    pub(super) fn begin_sweep(&mut self, now: Instant) -> bool {
        match self.flows.due(self.settings.config.idle_timeout, now) {
            Some(Due::Rotation) => self.flows.rotate(self.tracking().collect()),
            Some(Due::Sweep) => self.agenda.pass = Some(self.pass(PassStage::Sweep(0))),
            None => return false,
        }
        true
    }

    /// Takes flows from workers that do not keep them any more, whatever the reason.
    pub(super) fn follow_pinned(&mut self, now: Instant) {
        if !self.tracks_flows() {
            return;
        }
        let pinned = self.pool.pinned();
        let lost = self.flows.pinned().without(&pinned);
        if !lost.is_empty() {
            if self.have_flows(&lost) {
                self.placement.again();
            } else {
                self.flows.pin(pinned);
            }
        } else if pinned != *self.flows.pinned() {
            // New workers have no flows yet, and get buckets soon.
            self.placement.join_soon(now);
        }
    }

    /// Gives listeners buckets of their own while workers do not read there, and those of the service again afterwards.
    pub(super) fn follow_stalls(&mut self) {
        let mut changed = false;
        for listener in self.listeners.iter_mut().filter(|it| !it.is_tcp()) {
            let member = |id| self.pool.get(id).filter(|worker| worker.is_member());
            let stalled: Vec<u16> = listener.health.stalled().filter_map(member).map(|it| it.slot).collect();
            match &mut listener.apart {
                None if stalled.is_empty() => continue,
                None => listener.apart = Some(Apart::of(self.placement.table().clone(), stalled)),
                Some(apart) if apart.avoided() == stalled => continue,
                Some(apart) => apart.avoid(stalled),
            }
            changed = true;
        }
        if changed {
            self.placement.again();
        }
    }

    /// The listeners whose flows are tracked.
    fn tracking(&self) -> impl Iterator<Item = ListenerId> {
        let tracks = |listener: &&ListenerState| self.settings.config.tracks(&listener.asked);
        self.listeners.iter().filter(tracks).map(|listener| listener.id)
    }

    /// Whether flows of any listener are tracked.
    fn tracks_flows(&self) -> bool {
        self.tracking().next().is_some()
    }

    /// Plans the next epoch of flows, if any are tracked; else buckets that waited for flows move now.
    pub(super) fn plan_flows(&mut self, now: Instant) {
        let tracked = self.tracks_flows();
        if !tracked && self.flows.waiting() > 0 {
            self.placement.again();
        }
        self.flows.plan(tracked, self.settings.config.idle_timeout, now);
    }

    /// Whether a bucket has, or may have, flows of these slots.
    pub(super) fn have_flows(&self, slots: &SlotSet) -> bool {
        self.tracking().any(|listener| self.dataplane.points_to(listener, slots))
    }

    /// Number of live flows that a leaving worker waits for.
    pub(super) fn staying_with(&self, worker: &Worker) -> u64 {
        // When all workers leave, flows end with them.
        if worker.holds_slot() && !self.stopping { self.flows.staying(worker.slot) } else { 0 }
    }
}

/// The constraint of a bucket.
fn at(constraints: &[Constraint], bucket: u16) -> Constraint {
    constraints.get(usize::from(bucket)).copied().unwrap_or_default()
}

/// Whether the flows of a worker are to be counted: it has begun to leave.
fn is_counted(worker: &Worker) -> bool {
    worker.drain.begun.is_some() && worker.drain.flows.is_none() && worker.holds_slot()
}
