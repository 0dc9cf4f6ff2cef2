//! Flows of UDP: whose flows stay, which changes wait for them, and when flows are looked at. Not:
//! what becomes of an entry (`domain/bucket_move.rs`).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use reuseport_lb_common::layout::{BUCKETS, EPOCHS, MAX_SLOTS};
use tracing::info;

use super::Service;
use super::door::Door;
use super::membership::JOIN_TOGETHER;
use super::workers::Worker;
use crate::domain::bucket_move::Freedom;
use crate::domain::listener::Protocol;
use crate::domain::worker::State;
use crate::offload::Slices;

/// Buckets that moved are looked at after this time: those without live flows are steady again.
/// Decisions that were being made when they moved have marked their flow by then.
const SWEEP: Duration = Duration::from_millis(20);

/// What a service does while its buckets move.
pub(super) const MOVING: &str = "is moving buckets";

/// What a service knows about its flows.
#[derive(Default)]
pub(super) struct Flows {
    /// When flows that have been silent are forgotten next.
    rotate_at: Option<Instant>,
    /// Listeners whose flows are still to be aged: one after the other, since each takes milliseconds.
    rotating: Vec<String>,
    /// That is done, and has not been looked at.
    rotated: bool,
    /// When buckets are looked at that moved.
    sweep_at: Option<Instant>,
    /// Buckets that should change their worker but must not yet.
    pub(super) waiting: u32,
    /// Flows that still lived when the patience with their worker was over.
    pub(super) cut: u64,
    /// Flows that stay with a worker that does not get new ones, by slot.
    staying: Vec<u64>,
    /// Slots whose worker is there for its flows.
    pub(super) keepers: Vec<u16>,
}

impl Flows {
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.rotate_at, self.sweep_at].into_iter().flatten().min()
    }
}

impl Service {
    /// Slots whose worker is there for the flows that it has, though perhaps not for new ones.
    pub(super) fn keepers(&self) -> Vec<u16> {
        let keeps = |worker: &&Worker| worker.is_member() && worker.life.keeps_flows();
        self.workers.values().filter(keeps).map(|worker| worker.slot).collect()
    }

    fn tracked(&self) -> impl Iterator<Item = &Door> {
        self.doors.iter().filter(|door| door.group.listener().protocol == Protocol::Udp)
    }

    /// Whether it has any listener whose flows are more than one decision.
    pub(super) fn tracks_flows(&self) -> bool {
        self.tracked().next().is_some()
    }

    /// How long an epoch is: a flow that is seen at its end lives for all others.
    fn epoch(&self) -> Duration {
        self.config.idle_timeout / (EPOCHS as u32 - 1)
    }

    /// Sets when flows are forgotten, after listeners or `idle_timeout` have changed.
    pub(super) fn plan_rotation(&mut self) {
        let next = Instant::now() + self.epoch();
        self.flows.rotate_at =
            self.tracks_flows().then(|| self.flows.rotate_at.map_or(next, |at| at.min(next)));
    }

    /// Does what is due.
    pub(super) async fn look_at_flows(&mut self, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let rotate = due(self.flows.rotate_at);
        if !rotate && !due(self.flows.sweep_at) {
            return;
        }
        if rotate {
            // Never earlier, however late this one is: that would forget flows too soon.
            self.flows.rotate_at = Some(now + self.epoch());
            self.flows.rotating = self.tracked().map(|door| door.name.clone()).collect();
            return;
        }
        self.flows.sweep_at = None;
        let (mut ended, mut slices) = (0, Slices::begin());
        for door in self.tracked() {
            self.turn(&mut slices, MOVING).await;
            ended += door.group.sweep();
        }
        if self.flows.waiting > 0 && (std::mem::take(&mut self.flows.rotated) || ended > 0) {
            // What waits may have become free.
            self.spreading.get_or_insert_with(|| self.members.clone());
        } else {
            self.count_staying(&mut slices).await;
        }
    }

    /// Begins another epoch for one listener; false if that is done for all.
    pub(super) fn rotate_next(&mut self) -> bool {
        let Some(name) = self.flows.rotating.pop() else { return false };
        if let Some(door) = self.doors.iter().find(|door| door.name == name) {
            door.group.rotate();
        }
        if self.flows.rotating.is_empty() {
            (self.flows.rotated, self.flows.sweep_at) = (true, Some(Instant::now()));
        }
        true
    }

    /// Whether [`Service::rotate_next`] has anything to do.
    pub(super) fn is_rotating(&self) -> bool {
        !self.flows.rotating.is_empty()
    }

    /// Lets flows go whose worker does not keep them any more, for whatever reason.
    pub(super) fn follow_keepers(&mut self) {
        if !self.tracks_flows() {
            return;
        }
        let keepers = self.keepers();
        let lost = self.flows.keepers.iter().filter(|slot| !keepers.contains(slot));
        let lost: Vec<u16> = lost.copied().collect();
        if !lost.is_empty() {
            if self.have_flows(&lost) {
                self.spreading.get_or_insert_with(|| self.members.clone());
            } else {
                self.flows.keepers = keepers;
            }
        } else if keepers != self.flows.keepers {
            // Those that are new have no flows yet; mostly they join.
            self.join_at.get_or_insert_with(|| Instant::now() + JOIN_TOGETHER);
        }
    }

    /// Whether any bucket has flows, or may have flows, of these slots.
    pub(super) fn have_flows(&self, slots: &[u16]) -> bool {
        let these = keeps(slots);
        self.tracked().any(|door| door.group.points_to(&these))
    }

    /// Takes flows from those that keep them no longer.
    pub(super) async fn cut_flows(&mut self, slices: &mut Slices) {
        self.flows.keepers = self.keepers();
        let keeps = keeps(&self.flows.keepers);
        let mut cut: BTreeMap<u16, u64> = BTreeMap::new();
        for door in self.tracked() {
            self.turn(slices, MOVING).await;
            door.group
                .cut(&keeps)
                .into_iter()
                .for_each(|(slot, flows)| *cut.entry(slot).or_default() += flows);
        }
        for worker in self.workers.values_mut().filter(|worker| is_cut(worker)) {
            if worker.holds_slot
                && let Some(flows) = cut.remove(&worker.slot)
            {
                worker.farewell.flows_cut += flows;
                self.flows.cut += flows;
            }
        }
    }

    /// Where each bucket can move; empty if all of them can move anywhere.
    pub(super) async fn freedoms(&self, slices: &mut Slices) -> Vec<Freedom> {
        let keeps = keeps(&self.flows.keepers);
        let mut freedoms = Vec::new();
        for door in self.tracked() {
            self.turn(slices, MOVING).await;
            for (bucket, freedom) in door.group.freedoms(&keeps) {
                freedoms.resize(BUCKETS, Freedom::Free);
                let at = usize::from(bucket);
                freedoms[at] = freedoms[at].and(freedom);
            }
        }
        freedoms
    }

    /// So many buckets have `moved`, and `waiting` should have.
    pub(super) async fn flows_moved(&mut self, moved: usize, waiting: u32, slices: &mut Slices) {
        if !self.tracks_flows() {
            return;
        }
        if moved > 0 {
            self.flows.sweep_at = Some(Instant::now() + SWEEP);
        }
        if waiting != std::mem::replace(&mut self.flows.waiting, waiting) {
            info!(service = self.config.name, buckets = waiting, "wait for live flows before they move");
        }
        self.count_staying(slices).await;
    }

    async fn count_staying(&mut self, slices: &mut Slices) {
        let mut staying = vec![0; MAX_SLOTS];
        for door in self.tracked() {
            self.turn(slices, MOVING).await;
            door.group.add_staying(&mut staying);
        }
        self.flows.staying = staying;
    }

    /// Flows that a worker that leaves still has to wait for.
    pub(super) fn staying_with(&self, worker: &Worker) -> u64 {
        if !worker.holds_slot || self.stopping {
            // Where all leave, flows have nowhere to go, and end with their workers.
            return 0;
        }
        self.flows.staying.get(usize::from(worker.slot)).copied().unwrap_or_default()
    }

    /// Buckets that are moving in any group.
    pub(super) fn moving(&self) -> usize {
        let mut moving = vec![false; BUCKETS];
        self.tracked().for_each(|door| door.group.mark_moving(&mut moving));
        moving.into_iter().filter(|moving| *moving).count()
    }

    /// Counts the flows of workers that are to leave.
    pub(super) async fn count_flows_of_leavers(&mut self, slices: &mut Slices) {
        let leaves =
            |it: &Worker| it.farewell.begun.is_some() && it.farewell.flows.is_none() && it.holds_slot;
        // When all leave, flows end with their workers, and nobody asks for their number.
        if self.stopping || !self.workers.values().any(leaves) {
            return;
        }
        let mut all = vec![0; MAX_SLOTS];
        for door in self.tracked() {
            self.turn(slices, MOVING).await;
            let flows = door.group.flows();
            flows.iter().for_each(|flows| all.iter_mut().zip(&flows.by_slot).for_each(|(sum, n)| *sum += n));
        }
        for worker in self.workers.values_mut().filter(|worker| leaves(worker)) {
            worker.farewell.flows = Some(all[usize::from(worker.slot)]);
        }
    }
}

/// Whether flows that a worker loses are cut by us: those of one that ended by itself are not.
fn is_cut(worker: &Worker) -> bool {
    worker.life.state() == State::Draining && worker.process.is_some()
}

/// Whether a slot is among `keepers`.
pub(super) fn keeps(keepers: &[u16]) -> impl Fn(u16) -> bool + use<> {
    let mut keeps = vec![false; MAX_SLOTS];
    for slot in keepers {
        keeps[usize::from(*slot)] = true;
    }
    move |slot| keeps.get(usize::from(slot)).copied().unwrap_or_default()
}
