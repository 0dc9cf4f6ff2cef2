//! The decision: from a key to a slot. The only place where one is made; pure but for
//! [`Group::select`], which the kernel program implements with `bpf_sk_select_reuseport` and tests
//! with a list.

use crate::counters::Counter;
use crate::key;
use crate::layout::{Activity, Entry, Fitness, Load, NO_SLOT, Table, attention};

/// How many other buckets of the same key are tried when the owner cannot be taken.
pub const CANDIDATES: u32 = 4;

/// How many ready workers are asked after them whether they wait for work, where that matters.
pub const READY_TRIES: u32 = 4;

/// How many slots of a roster are tried; each can fail only while its socket has just gone.
pub const ROSTER_TRIES: u32 = 8;

/// What a decision needs of its group.
pub trait Group {
    /// Buckets, and what to be careful about.
    fn table(&self) -> &Table;
    /// Fitness and rosters; asked for off the fast path only.
    fn load(&self) -> Option<&Load>;
    /// Which flows live; `None` where every decision begins a flow (TCP).
    fn activity(&self) -> Option<&Activity>;
    /// Tries to select the socket in `slot`; false if there is none.
    fn select(&mut self, slot: u16) -> bool;
    /// Whether new flows avoid workers that are busy (`when_busy = "next"`).
    fn avoids_busy(&self) -> bool;
    /// Asked where those are avoided, of the slot that was just selected: `None` if its worker waits for
    /// work, else the length of its queue.
    fn busy(&self) -> Option<u32>;
}

/// What was decided, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Decision {
    /// What became of the bucket's own worker (a counter of stage `Owner`).
    pub owner: Counter,
    /// Who was asked instead (a counter of stage `Detour`), unless the owner was taken.
    pub detour: Option<Counter>,
    /// The selected slot; `None` refuses the connection or datagram.
    pub slot: Option<u16>,
    /// Attempts at sockets that were gone.
    pub failed: u32,
}

/// Decides for `key`.
///
/// Order: in a moving bucket, the previous worker, for flows that were there before; the bucket's
/// worker; if it is gone, overloaded or ejected, the next candidates of the
/// same key that are fit; an owner that is merely overloaded; any ready worker; a
/// starting one; else nobody. Where busy workers are avoided, each of them must wait for work as well;
/// if none does, the one is taken, of those that were asked, that has the shortest queue and was seen to
/// wait not long ago, the owner first. It is never left to the kernel's own choice, which knows nothing of
/// readiness and includes sockets of strangers.
pub fn decide(key: u32, group: &mut impl Group) -> Decision {
    let taken = |slot, owner| Decision { owner, detour: None, slot: Some(slot), failed: 0 };
    if group.avoids_busy() {
        return detour(key, group.table().entry(key).with_care(true), group);
    }
    let entry = match owner(key, group) {
        Ok(slot) => return taken(slot, Counter::OwnerTaken),
        Err(entry) => entry,
    };
    if entry.is_moving()
        && let Some((slot, owner)) = moving(key, entry, group)
    {
        return taken(slot, owner);
    }
    detour(key, entry, group)
}

/// The fast path, which nearly every decision takes: the bucket's own worker; or else the bucket's
/// entry. Apart from [`moving`] and [`detour`], so that the kernel program can keep it short.
#[inline(always)]
pub fn owner(key: u32, group: &mut impl Group) -> Result<u16, Entry> {
    if let Some(activity) = group.activity() {
        activity.expect(key, group.table().entry(0));
    }
    let entry = group.table().entry(key);
    if !entry.is_plain() {
        return Err(entry);
    }
    if let Some(activity) = group.activity() {
        activity.mark(key, entry);
    }
    let slot = entry.plain_slot();
    if group.select(slot) { Ok(slot) } else { Err(entry) }
}

/// The worker of a flow in a bucket that is moving: the previous one for flows that were there before,
/// else the new one; and which of them it is (a counter of stage `Owner`). `None` if there is more to
/// look at, or if that one is gone.
#[inline(always)]
pub fn moving(key: u32, entry: Entry, group: &mut impl Group) -> Option<(u16, Counter)> {
    if entry.is_careful() {
        return None;
    }
    let stays = group.activity().is_some_and(|activity| activity.stays(key, entry));
    let (slot, owner) = if stays {
        (entry.plain_previous(), Counter::OwnerKept)
    } else {
        (entry.plain_slot(), Counter::OwnerTaken)
    };
    group.select(slot).then_some((slot, owner))
}

/// Everything after [`owner`] and [`moving`], which found `entry` in the bucket.
#[inline(always)]
pub fn detour(key: u32, entry: Entry, group: &mut impl Group) -> Decision {
    let mut failed = 0;
    if group.avoids_busy()
        && let Some(decision) = next(key, entry, group, &mut failed)
    {
        return decision;
    }
    let mut tried = !entry.is_careful();
    if let Some(activity) = group.activity() {
        if !entry.is_moving() {
            activity.mark(key, entry);
        } else if activity.stays(key, entry) {
            let previous = entry.plain_previous();
            // If not with care, this one was tried already, and the other was not.
            if entry.is_careful() && group.select(previous) {
                return Decision { owner: Counter::OwnerKept, detour: None, slot: Some(previous), failed };
            }
            tried = false;
            failed += 1;
        }
    }
    let avoid = group.table().attention.get() & attention::AVOID != 0;
    let owner = entry.slot();
    let why = if owner == NO_SLOT {
        Counter::OwnerNone
    } else if tried {
        failed += 1;
        Counter::OwnerGone
    } else {
        match fitness(group, avoid, owner) {
            Fitness::Overloaded => Counter::OwnerOverloaded,
            Fitness::Ejected => Counter::OwnerEjected,
            Fitness::Fit => {
                if group.select(owner) {
                    return Decision { owner: Counter::OwnerTaken, detour: None, slot: Some(owner), failed };
                }
                failed += 1;
                Counter::OwnerGone
            }
        }
    };
    let decided =
        |detour, slot, failed| Decision { owner: why, detour: Some(detour), slot: Some(slot), failed };

    for nth in 1..=CANDIDATES {
        let slot = group.table().entry(key::candidate(key, nth)).slot();
        if slot == NO_SLOT || slot == owner || fitness(group, avoid, slot) != Fitness::Fit {
            continue;
        }
        if group.select(slot) {
            return decided(Counter::DetourCandidate, slot, failed);
        }
        failed += 1;
    }
    if why == Counter::OwnerOverloaded {
        if group.select(owner) {
            return decided(Counter::DetourOwner, owner, failed);
        }
        failed += 1;
    }
    let pick = key::candidate(key, 0);
    for nth in 0..ROSTER_TRIES {
        let Some(slot) = group.load().and_then(|load| load.ready.pick(pick, nth)) else { break };
        if group.select(slot) {
            return decided(Counter::DetourReady, slot, failed);
        }
        failed += 1;
    }
    for nth in 0..ROSTER_TRIES {
        let Some(slot) = group.load().and_then(|load| load.waiting.pick(pick, nth)) else { break };
        if group.select(slot) {
            return decided(Counter::DetourHold, slot, failed);
        }
        failed += 1;
    }
    Decision { owner: why, detour: Some(Counter::DetourNone), slot: None, failed }
}

/// Where busy workers are avoided: the owner, a candidate or a ready worker that waits for work; if none
/// of those does, the least busy of them. `None` if there is nobody at all to choose from.
///
/// Written so that the verifier, which follows each way through it, has few to follow: what it has seen
/// so far is one number.
#[inline(always)]
fn next(key: u32, entry: Entry, group: &mut impl Group, failed: &mut u32) -> Option<Decision> {
    let avoid = group.table().attention.get() & attention::AVOID != 0;
    let owner = entry.slot();
    if owner == NO_SLOT {
        return None;
    }
    let mut best = NOBODY;
    let why = match fitness(group, avoid, owner) {
        Fitness::Overloaded => Counter::OwnerOverloaded,
        Fitness::Ejected => Counter::OwnerEjected,
        Fitness::Fit => {
            if group.select(owner) {
                let Some(queue) = group.busy() else {
                    found_waiting(group, owner);
                    return Some(Decision {
                        owner: Counter::OwnerTaken,
                        detour: None,
                        slot: Some(owner),
                        failed: *failed,
                    });
                };
                // Once a decision, whoever else is asked how often.
                let before = group.load().map_or(0, |load| load.line(owner).found_busy());
                best = badness(queue, before, 0, owner);
                Counter::OwnerBusy
            } else {
                *failed += 1;
                Counter::OwnerGone
            }
        }
    };
    let pick = key::candidate(key, 0);
    for nth in 1..=CANDIDATES + READY_TRIES {
        let slot = if nth <= CANDIDATES {
            group.table().entry(key::candidate(key, nth)).slot()
        } else {
            let ready = group.load().and_then(|load| load.ready.pick(pick, nth - CANDIDATES - 1));
            ready.unwrap_or(NO_SLOT)
        };
        if slot == NO_SLOT || slot == owner || fitness(group, avoid, slot) != Fitness::Fit {
            continue;
        }
        if !group.select(slot) {
            *failed += 1;
            continue;
        }
        let Some(queue) = group.busy() else {
            found_waiting(group, slot);
            let detour = Some(asked_as(nth));
            return Some(Decision { owner: why, detour, slot: Some(slot), failed: *failed });
        };
        let before = group.load().map_or(0, |load| load.line(slot).busy());
        best = best.min(badness(queue, before, nth, slot));
    }
    if best == NOBODY {
        return None;
    }
    let (slot, nth) = (best as u16, (best >> 16) as u16);
    if !group.select(slot) {
        *failed += 1;
        return None;
    }
    Some(Decision { owner: why, detour: Some(asked_as(nth.into())), slot: Some(slot), failed: *failed })
}

/// Worse than everybody; see [`badness`].
const NOBODY: u64 = u64::MAX;

/// How bad a choice a busy worker is; then in which turn it was asked, and its slot. Its queue counts, and
/// how often in a row it has been found busy: one that was seen to wait just now will do so again soon,
/// and one that is stuck is not better for its empty queue.
#[inline(always)]
fn badness(queue: u32, before: u32, nth: u32, slot: u16) -> u64 {
    (u64::from(queue) + u64::from(before)) << 32 | u64::from(nth) << 16 | u64::from(slot)
}

#[inline(always)]
fn asked_as(nth: u32) -> Counter {
    match nth {
        0 => Counter::DetourOwner,
        1..=CANDIDATES => Counter::DetourCandidate,
        _ => Counter::DetourReady,
    }
}

#[inline(always)]
fn found_waiting(group: &impl Group, slot: u16) {
    if let Some(load) = group.load() {
        load.line(slot).found_waiting();
    }
}

#[inline(always)]
fn fitness(group: &impl Group, avoid: bool, slot: u16) -> Fitness {
    if !avoid {
        return Fitness::Fit;
    }
    group.load().map_or(Fitness::Fit, |load| load.line(slot).fitness())
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::boxed::Box;
    use std::collections::{BTreeMap, BTreeSet};
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::layout::BUCKETS;

    /// A group in memory: which sockets are there, and which were tried.
    struct Model {
        table: Box<Table>,
        load: Box<Load>,
        activity: Option<Box<Activity>>,
        sockets: BTreeSet<u16>,
        tried: Vec<u16>,
        /// Queues of workers that are busy, where those are avoided.
        busy: Option<BTreeMap<u16, u32>>,
    }

    impl Model {
        /// Every bucket belongs to one of `slots` in turn, all of which have sockets and are ready.
        fn new(slots: &[u16]) -> Self {
            let model = Self {
                table: Table::boxed(),
                load: Load::boxed(),
                activity: None,
                sockets: slots.iter().copied().collect(),
                tried: Vec::new(),
                busy: None,
            };
            for bucket in 0..BUCKETS {
                let slot = slots.get(bucket % slots.len().max(1)).copied().unwrap_or(NO_SLOT);
                model.table.set_entry(bucket as u16, Entry::steady(slot));
            }
            model.load.ready.set(slots);
            model
        }

        fn unfit(&self, slot: u16, fitness: Fitness) {
            self.load.lines[usize::from(slot)].set_fitness(fitness);
            self.table.attention.set(attention::AVOID);
            for bucket in 0..=u16::MAX {
                if self.table.entry(bucket.into()).slot() == slot {
                    self.table.set_entry(bucket, Entry::steady(slot).with_care(true));
                }
            }
        }

        fn decide(&mut self, key: u32) -> Decision {
            self.tried.clear();
            decide(key, self)
        }
    }

    impl Group for Model {
        fn table(&self) -> &Table {
            &self.table
        }

        fn load(&self) -> Option<&Load> {
            Some(&self.load)
        }

        fn activity(&self) -> Option<&Activity> {
            self.activity.as_deref()
        }

        fn select(&mut self, slot: u16) -> bool {
            self.tried.push(slot);
            self.sockets.contains(&slot)
        }

        fn avoids_busy(&self) -> bool {
            self.busy.is_some()
        }

        fn busy(&self) -> Option<u32> {
            self.busy.as_ref()?.get(self.tried.last()?).copied()
        }
    }

    #[test]
    fn the_owner_is_taken_with_one_attempt() {
        let mut model = Model::new(&[3, 5]);
        let decision = model.decide(0x7777_0001);
        assert_eq!((decision.slot, decision.owner, decision.detour), (Some(5), Counter::OwnerTaken, None));
        assert_eq!(model.tried, [5]);
    }

    #[test]
    fn care_alone_changes_nothing() {
        let mut model = Model::new(&[3, 5]);
        model.table.attention.set(attention::TRACE);
        model.table.set_entry(1, Entry::steady(5).with_care(true));
        let decision = model.decide(1);
        assert_eq!((decision.slot, decision.owner, decision.detour), (Some(5), Counter::OwnerTaken, None));
        assert_eq!(model.tried, [5]);
    }

    #[test]
    fn a_flow_that_was_there_before_stays_and_others_go_to_the_new_one() {
        let mut model = Model::new(&[3, 5]);
        model.activity = Some(Activity::boxed());
        let [before, begun, shares] = [0x0001_0001, 0x0002_0001, 0xff01_0001];
        assert_eq!(model.decide(before).slot, Some(5));
        let moving = Entry::steady(3).turned().with_previous(5);
        for careful in [false, true, false] {
            model.table.set_entry(1, moving.with_care(careful));
            let kept = model.decide(before);
            assert_eq!((kept.slot, kept.owner, kept.detour), (Some(5), Counter::OwnerKept, None));
            let new = model.decide(begun);
            assert_eq!((new.slot, new.owner, new.detour), (Some(3), Counter::OwnerTaken, None));
            assert_eq!(model.decide(shares).slot, Some(5), "it is in the sub-bucket of a flow that stays");
        }
        // And the other way round: back, while a flow that began meanwhile stays.
        model.table.set_entry(1, Entry::steady(5).with_previous(3));
        assert_eq!(model.decide(before).slot, Some(5));
        let kept = model.decide(begun);
        assert_eq!((kept.slot, kept.owner), (Some(3), Counter::OwnerKept));
    }

    #[test]
    fn a_flow_whose_worker_is_gone_goes_to_the_new_one() {
        for careful in [false, true] {
            let mut model = Model::new(&[3, 5]);
            model.activity = Some(Activity::boxed());
            assert_eq!(model.decide(1).slot, Some(5));
            let moving = Entry::steady(3).turned().with_previous(5);
            model.table.set_entry(1, moving.with_care(careful));
            model.sockets.remove(&5);
            let decision = model.decide(1);
            assert_eq!((decision.slot, decision.owner), (Some(3), Counter::OwnerTaken));
            assert_eq!((decision.failed, &model.tried[..]), (1, &[5, 3][..]));
        }
    }

    #[test]
    fn a_gone_owner_is_replaced_by_a_candidate_of_the_key() {
        let mut model = Model::new(&[0, 1, 2, 3, 4, 5, 6, 7]);
        model.sockets.remove(&2);
        let mut heirs = BTreeSet::new();
        for key in (2..80_000).step_by(8) {
            let decision = model.decide(key);
            assert_eq!(decision.owner, Counter::OwnerGone);
            assert_eq!(decision.failed as usize, model.tried.len() - 1);
            assert_eq!(decision, model.decide(key), "the same key has the same heir");
            heirs.extend(decision.slot);
        }
        assert_eq!(heirs.len(), 7, "they spread over all others");
    }

    #[test]
    fn an_overloaded_owner_is_passed_over_unless_nobody_is_better() {
        let mut model = Model::new(&[0, 1]);
        model.unfit(0, Fitness::Overloaded);
        let decisions: Vec<Decision> = (0..2000).step_by(2).map(|key| model.decide(key)).collect();
        assert!(decisions.iter().all(|decision| decision.owner == Counter::OwnerOverloaded));
        let to = |slot, detour| {
            decisions.iter().filter(|d| d.slot == Some(slot) && d.detour == Some(detour)).count()
        };
        let (other, back) = (to(1, Counter::DetourCandidate), to(0, Counter::DetourOwner));
        // Four candidates all of slot 0: one key in sixteen.
        assert_eq!(other + back, 1000);
        assert!((30..100).contains(&back), "{back}");
    }

    #[test]
    fn an_ejected_owner_gets_nothing_while_anybody_is_ready() {
        let mut model = Model::new(&[0, 1]);
        model.unfit(0, Fitness::Ejected);
        model.load.ready.set(&[1]);
        for key in (0..2000).step_by(2) {
            let decision = model.decide(key);
            assert_eq!((decision.slot, decision.owner), (Some(1), Counter::OwnerEjected));
        }
    }

    #[test]
    fn with_nobody_ready_it_waits_or_is_refused() {
        let mut model = Model::new(&[]);
        model.load.waiting.set(&[9]);
        model.sockets.insert(9);
        let decision = model.decide(7);
        assert_eq!((decision.slot, decision.detour), (Some(9), Some(Counter::DetourHold)));
        model.load.waiting.set(&[]);
        let decision = decide(7, &mut model);
        assert_eq!((decision.slot, decision.detour), (None, Some(Counter::DetourNone)));
        assert_eq!(decision.owner, Counter::OwnerNone);
    }

    #[test]
    fn a_busy_owner_is_passed_over_for_one_that_waits() {
        let mut model = Model::new(&[0, 1, 2, 3]);
        model.busy = Some(BTreeMap::new());
        for key in 0..400 {
            let decision = model.decide(key);
            assert_eq!((decision.slot, decision.owner), (Some(key as u16 % 4), Counter::OwnerTaken));
        }
        model.busy = Some(BTreeMap::from([(1, 0), (2, 5), (3, 1)]));
        let detours: BTreeSet<_> = (0..400)
            .filter(|key| key % 4 != 0)
            .map(|key| {
                let decision = model.decide(key);
                assert_eq!(
                    (decision.slot, decision.owner, decision.failed),
                    (Some(0), Counter::OwnerBusy, 0)
                );
                decision.detour.unwrap().name()
            })
            .collect();
        // One in three keys has no candidate that waits, and is found one among the ready workers.
        assert_eq!(detours, BTreeSet::from(["detour_candidate", "detour_ready"]));
    }

    #[test]
    fn if_all_are_busy_the_shortest_queue_is_taken_and_the_owner_first() {
        let busy = |queues: [u32; 4]| {
            let mut model = Model::new(&[0, 1, 2, 3]);
            model.busy = Some((0..).zip(queues).collect());
            model
        };
        for key in 0..400 {
            let decision = busy([3, 3, 3, 3]).decide(key);
            assert_eq!((decision.slot, decision.owner), (Some(key as u16 % 4), Counter::OwnerBusy));
            assert_eq!(decision.detour, Some(Counter::DetourOwner));
            let decision = busy([3, 3, 3, 2]).decide(key);
            assert_eq!((decision.slot, decision.owner), (Some(3), Counter::OwnerBusy));
        }
        // Unless that is not fit.
        let mut model = busy([3, 3, 3, 2]);
        model.unfit(3, Fitness::Overloaded);
        for key in (0..400).filter(|key| key % 4 != 3) {
            assert!(model.decide(key).slot.is_some_and(|slot| slot < 3));
        }
    }

    #[test]
    fn one_that_is_always_busy_is_worse_than_one_that_waits_now_and_then() {
        let mut model = Model::new(&[0, 1]);
        for key in 0..200 {
            // The owner of even keys is stuck, with an empty queue; the other one is woken up now and then.
            let queue = BTreeMap::from([(0, 0), (1, 0)]);
            model.busy = Some(if key % 10 == 9 { BTreeMap::from([(0, 0)]) } else { queue });
            let decision = model.decide(key);
            assert!(key < 20 || decision.slot == Some(1), "{key}: {decision:?}");
        }
    }

    proptest! {
        /// Whatever is gone or unfit: what is selected exists, and nobody is refused while a ready
        /// worker has a socket.
        #[test]
        fn somebody_is_selected_whenever_that_is_possible(
            slots in prop::collection::btree_set(0..64u16, 1..8),
            gone in prop::collection::btree_set(0..64u16, 0..8),
            ejected in prop::option::of(0..64u16),
            busy in prop::option::of(prop::collection::btree_map(0..64u16, 0..9u32, 0..64)),
            key in any::<u32>(),
        ) {
            let slots: Vec<u16> = slots.into_iter().collect();
            let mut model = Model::new(&slots);
            if let Some(slot) = ejected {
                model.unfit(slot, Fitness::Ejected);
            }
            model.sockets.retain(|slot| !gone.contains(slot));
            let waits = |slot| busy.as_ref().is_none_or(|busy| !busy.contains_key(&slot));
            let somebody_waits = slots.iter().any(|slot| {
                model.sockets.contains(slot) && Some(*slot) != ejected && waits(*slot)
            });
            model.busy = busy.clone();
            let decision = model.decide(key);
            prop_assert_eq!(decision.slot.is_some(), !model.sockets.is_empty());
            prop_assert!(decision.slot.is_none_or(|slot| model.sockets.contains(&slot)));
            prop_assert_eq!(decision.detour.is_none(), decision.owner == Counter::OwnerTaken);
            if busy.is_none() {
                prop_assert_eq!(decision.failed as usize, model.tried.len() - usize::from(decision.slot.is_some()));
            }
            let asked_all = slots.len() <= READY_TRIES as usize && decision.owner != Counter::OwnerNone;
            if busy.is_some() && somebody_waits && asked_all {
                prop_assert!(decision.slot.is_some_and(waits), "{:?}", decision);
            }
        }
    }
}
