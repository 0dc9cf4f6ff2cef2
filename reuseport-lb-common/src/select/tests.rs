//! What is decided, by the model.

extern crate std;

use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use proptest::prelude::*;

use super::model::Model;
use super::policy::{FirstFit, PreferWaiting};
use super::*;
use crate::counters::{EVENTS, Stage};
use crate::load::{CPUS, Fitness};

#[test]
fn the_owner_is_taken_with_one_attempt() {
    let mut model = Model::<FirstFit>::new(&[3, 5]);
    let decision = model.arrive(0x7777_0001);
    assert_eq!((decision.slot(), decision.owner(), decision.detour()), (Some(5), Counter::OwnerTaken, None));
    assert_eq!(model.tried, [5]);
}

#[test]
fn a_slow_entry_alone_changes_nothing() {
    let mut model = Model::<FirstFit>::new(&[3, 5]);
    model.table.attention.set(attention::TRACE);
    model.table.set_entry(1, Entry::steady(5).with_slow(true));
    let decision = model.arrive(1);
    assert_eq!((decision.slot(), decision.owner(), decision.detour()), (Some(5), Counter::OwnerTaken, None));
    assert_eq!((&model.tried[..], &model.traced[..]), (&[5][..], &[1][..]));
}

/// What is the daemon's own goes to the worker that it is for, ready or not, and marks no flow; nothing else does.
#[test]
fn what_is_the_daemons_own_goes_where_it_says() {
    fn check<P: SelectPolicy>(mut model: Model<P>) {
        const PORT: u16 = 40_001;
        model.sockets.insert(9);
        model.table.attention.set(attention::DIRECT);
        model.table.set_entry(1, Entry::steady(5).with_slow(true));
        assert!(model.load.directed.set(PORT, 9) && !model.load.directed.set(PORT ^ 1 << 10, 3));
        for (port, slot) in [(PORT, 9), (0, 5), (PORT ^ 1 << 10, 5), (PORT + 1, 5)] {
            model.loopback_port = port;
            let (decision, directed) = (model.arrive(0x0003_0001), slot == 9);
            assert_eq!((decision.slot(), decision.detour()), (Some(slot), None), "{port}");
            let owner = if directed { Counter::OwnerDirected } else { Counter::OwnerTaken };
            assert_eq!((decision.owner(), &model.tried[..]), (owner, &[slot][..]), "{port}");
            let marked = model.activity.as_ref().map_or(0, |it| it.live(1, 0).count_ones());
            assert!(!directed || marked == 0, "{port}");
        }
        assert_eq!(model.load.directed.met(PORT), Some(0x0003_0001));
        let counted = model.counted();
        assert_eq!(counted[Counter::OwnerDirected.index()], 1);
        assert_eq!((counted[Counter::Packet.index()], counted[Counter::OwnerTaken.index()]), (4, 3));

        // A connection that is being migrated has another listener's port; and nobody else gets what is for one who is gone.
        model.loopback_port = PORT;
        assert_ne!(model.migrate(1).slot(), Some(9));
        model.sockets.remove(&9);
        let decision = model.arrive(1);
        assert_eq!((decision.slot(), decision.refuses(), decision.failed), (None, true, 1));
        model.load.directed.clear(PORT);
        assert_eq!(model.arrive(1).slot(), Some(5));
        assert!(model.load.directed.set(PORT, 3) && model.load.directed.met(PORT).is_none());
        model.table.attention.set(0);
        assert_eq!(model.arrive(1).slot(), Some(5), "nobody looks where nothing asks for it");
    }
    check(Model::<FirstFit>::new(&[3, 5]));
    check(Model::<FirstFit>::new(&[3, 5]).tracking());
    check(Model::<PreferWaiting>::new(&[3, 5]));
}

#[test]
fn a_flow_that_was_there_before_stays_and_others_go_to_the_new_one() {
    let mut model = Model::<FirstFit>::new(&[3, 5]).tracking();
    let [before, begun, shares] = [0x0001_0001, 0x0002_0001, 0xff01_0001];
    assert_eq!(model.arrive(before).slot(), Some(5));
    let moving = Entry::steady(3).turned().with_previous(5);
    for slow in [false, true, false] {
        model.table.set_entry(1, moving.with_slow(slow));
        let kept = model.arrive(before);
        assert_eq!((kept.slot(), kept.owner(), kept.detour()), (Some(5), Counter::OwnerKept, None));
        let new = model.arrive(begun);
        assert_eq!((new.slot(), new.owner(), new.detour()), (Some(3), Counter::OwnerTaken, None));
        assert_eq!(model.arrive(shares).slot(), Some(5), "it is in the sub-bucket of a flow that stays");
    }
    // And the other way round: back, while a flow that began meanwhile stays.
    model.table.set_entry(1, Entry::steady(5).with_previous(3));
    assert_eq!(model.arrive(before).slot(), Some(5));
    let kept = model.arrive(begun);
    assert_eq!((kept.slot(), kept.owner()), (Some(3), Counter::OwnerKept));
}

#[test]
fn a_flow_whose_worker_is_gone_goes_to_the_new_one() {
    for slow in [false, true] {
        let mut model = Model::<FirstFit>::new(&[3, 5]).tracking();
        assert_eq!(model.arrive(1).slot(), Some(5));
        let moving = Entry::steady(3).turned().with_previous(5);
        model.table.set_entry(1, moving.with_slow(slow));
        model.sockets.remove(&5);
        let decision = model.arrive(1);
        assert_eq!((decision.slot(), decision.owner()), (Some(3), Counter::OwnerTaken));
        assert_eq!((decision.failed, &model.tried[..]), (1, &[5, 3][..]));
    }
}

#[test]
fn a_gone_owner_is_replaced_by_a_candidate_of_the_key() {
    let mut model = Model::<FirstFit>::new(&[0, 1, 2, 3, 4, 5, 6, 7]);
    model.sockets.remove(&2);
    let mut heirs = BTreeSet::new();
    for key in (2..80_000).step_by(8) {
        let decision = model.arrive(key);
        assert_eq!(decision.owner(), Counter::OwnerGone);
        assert_eq!(decision.failed as usize, model.tried.len() - 1);
        assert_eq!(decision, model.arrive(key), "the same key has the same heir");
        heirs.extend(decision.slot());
    }
    assert_eq!(heirs.len(), 7, "they spread over all others");
}

#[test]
fn an_overloaded_owner_is_passed_over_unless_nobody_is_better() {
    let mut model = Model::<FirstFit>::new(&[0, 1]);
    model.set_fitness(0, Fitness::Overloaded);
    let decisions: Vec<Decision> = (0..2000).step_by(2).map(|key| model.arrive(key)).collect();
    assert!(decisions.iter().all(|decision| decision.owner() == Counter::OwnerOverloaded));
    let to = |slot, detour| {
        decisions.iter().filter(|d| d.slot() == Some(slot) && d.detour() == Some(detour)).count()
    };
    let (other, back) = (to(1, Counter::DetourCandidate), to(0, Counter::DetourOwner));
    // Four candidates all of slot 0: one key in sixteen.
    assert_eq!(other + back, 1000);
    assert!((30..100).contains(&back), "{back}");
}

#[test]
fn a_stalled_owner_gets_nothing_while_anybody_is_ready() {
    let mut model = Model::<FirstFit>::new(&[0, 1]);
    model.set_fitness(0, Fitness::Stalled);
    model.load.ready.set(&[1]);
    for key in (0..2000).step_by(2) {
        let decision = model.arrive(key);
        assert_eq!((decision.slot(), decision.owner()), (Some(1), Counter::OwnerStalled));
    }
}

#[test]
fn with_nobody_ready_it_waits_or_is_refused() {
    let mut model = Model::<FirstFit>::new(&[]);
    model.load.waiting.set(&[9]);
    model.sockets.insert(9);
    let decision = model.arrive(7);
    assert_eq!((decision.slot(), decision.detour()), (Some(9), Some(Counter::DetourHold)));
    model.load.waiting.set(&[]);
    let decision = model.arrive(7);
    assert_eq!((decision.slot(), decision.detour()), (None, Some(Counter::DetourNone)));
    assert_eq!(decision.owner(), Counter::OwnerNone);
    assert!(decision.refuses());
}

#[test]
fn in_an_open_group_the_kernel_chooses_where_nobody_can_be_selected() {
    let mut model = Model::<FirstFit>::new(&[3]);
    model.table.attention.set(attention::OPEN);
    assert_eq!(model.arrive(7).slot(), Some(3));
    model.sockets.clear();
    for migrating in [false, true] {
        let decision = if migrating { model.migrate(7) } else { model.arrive(7) };
        assert_eq!((decision.slot(), decision.detour()), (None, Some(Counter::DetourKernel)));
        assert!(!decision.refuses());
    }
    let counted = model.counted();
    let of = |counter: Counter| counted[counter.index()];
    assert_eq!((of(Counter::Packet), of(Counter::Migration), of(Counter::OwnerTaken)), (2, 1, 1));
    assert_eq!((of(Counter::DetourKernel), of(Counter::Refused), of(Counter::OwnerGone)), (2, 0, 2));
}

#[test]
fn a_busy_owner_is_passed_over_for_one_that_waits() {
    let mut model = Model::<PreferWaiting>::new(&[0, 1, 2, 3]);
    for key in 0..400 {
        let decision = model.arrive(key);
        assert_eq!((decision.slot(), decision.owner()), (Some(key as u16 % 4), Counter::OwnerTaken));
    }
    model.busy = BTreeMap::from([(1, 0), (2, 5), (3, 1)]);
    let detours: BTreeSet<_> = (0..400)
        .filter(|key| key % 4 != 0)
        .map(|key| {
            let decision = model.arrive(key);
            assert_eq!(
                (decision.slot(), decision.owner(), decision.failed),
                (Some(0), Counter::OwnerBusy, 0)
            );
            decision.detour().unwrap().name()
        })
        .collect();
    // One in three keys has no candidate that waits, and is found one among the ready workers.
    assert_eq!(detours, BTreeSet::from(["detour_candidate", "detour_ready"]));
}

#[test]
fn if_all_are_busy_the_shortest_queue_is_taken_and_the_owner_first() {
    let busy = |queues: [u32; 4]| {
        let mut model = Model::<PreferWaiting>::new(&[0, 1, 2, 3]);
        model.busy = (0..).zip(queues).collect();
        model
    };
    for key in 0..400 {
        let decision = busy([3, 3, 3, 3]).arrive(key);
        assert_eq!((decision.slot(), decision.owner()), (Some(key as u16 % 4), Counter::OwnerBusy));
        assert_eq!(decision.detour(), Some(Counter::DetourOwner));
        let decision = busy([3, 3, 3, 2]).arrive(key);
        assert_eq!((decision.slot(), decision.owner()), (Some(3), Counter::OwnerBusy));
    }
    // Unless that is not fit.
    let mut model = busy([3, 3, 3, 2]);
    model.set_fitness(3, Fitness::Overloaded);
    for key in (0..400).filter(|key| key % 4 != 3) {
        assert!(model.arrive(key).slot().is_some_and(|slot| slot < 3));
    }
}

#[test]
fn one_that_is_always_busy_is_worse_than_one_that_waits_now_and_then() {
    let mut model = Model::<PreferWaiting>::new(&[0, 1]);
    for key in 0..200 {
        // The owner of even keys is stuck, with an empty queue; the other one is woken up now and then.
        let queue = BTreeMap::from([(0, 0), (1, 0)]);
        model.busy = if key % 10 == 9 { BTreeMap::from([(0, 0)]) } else { queue };
        let decision = model.arrive(key);
        assert!(key < 20 || decision.slot() == Some(1), "{key}: {decision:?}");
    }
}

/// What CPU 0 receives is slot 5's, and what CPU 1 receives is nobody's; all buckets belong to slot 3.
fn by_cpu() -> Model<FirstFit> {
    let mut model = Model::<FirstFit>::new(&[3]);
    model.sockets.insert(5);
    model.load.by_cpu.set(&[5, NO_SLOT]);
    model
}

#[test]
fn a_cpu_has_its_own_worker_whoever_has_the_bucket() {
    let mut model = by_cpu();
    for cpu in [0, CPUS as u32] {
        let decision = model.arrive(Hint::Cpu { cpu, key: 1 });
        assert_eq!((decision.slot(), decision.owner()), (Some(5), Counter::OwnerTaken));
        assert_eq!(model.tried, [5]);
    }
    // A queued connection comes by the CPU of whoever closes its listener.
    assert_eq!(model.migrate(Hint::Cpu { cpu: 0, key: 1 }).slot(), Some(3));
}

#[test]
fn what_the_worker_of_a_cpu_cannot_take_goes_by_the_key() {
    let went = |model: &mut Model<FirstFit>, cpu| {
        let decision = model.arrive(Hint::Cpu { cpu, key: 1 });
        (decision.slot(), decision.owner(), decision.detour())
    };
    let by_key = Some(Counter::DetourCandidate);
    let mut model = by_cpu();
    assert_eq!(went(&mut model, 1), (Some(3), Counter::OwnerNone, by_key));
    model.set_fitness(5, Fitness::Overloaded);
    assert_eq!(went(&mut model, 0), (Some(3), Counter::OwnerOverloaded, by_key));
    model.set_fitness(5, Fitness::Fit);
    assert_eq!(went(&mut model, 0), (Some(5), Counter::OwnerTaken, None));
    model.table.attention.set(attention::TRACE);
    assert_eq!(went(&mut model, 0), (Some(5), Counter::OwnerTaken, None));
    assert_eq!(model.traced, [1]);
    for attention in [attention::TRACE, 0] {
        model.table.attention.set(attention);
        model.sockets.remove(&5);
        assert_eq!(went(&mut model, 0), (Some(3), Counter::OwnerGone, by_key));
        assert_eq!(model.tried, [5, 3]);
    }
}

/// Migration is decided off the fast path, and counted as such.
#[test]
fn a_migration_is_decided_and_counted_as_any_other_arrival() {
    let mut model = Model::<FirstFit>::new(&[3, 5]);
    let decision = model.migrate(1);
    assert_eq!((decision.slot(), decision.owner(), decision.detour()), (Some(5), Counter::OwnerTaken, None));
    model.sockets.remove(&5);
    let decision = model.migrate(1);
    assert_eq!((decision.slot(), decision.owner(), decision.failed), (Some(3), Counter::OwnerGone, 1));
    let _ = model.arrive(0);
    let counted = |wanted: &[(Counter, u64)]| {
        let mut events = [0; EVENTS];
        wanted.iter().for_each(|(counter, n)| events[counter.index()] = *n);
        events
    };
    let detour = decision.detour().unwrap();
    assert_eq!(
        model.counted(),
        counted(&[
            (Counter::Packet, 1),
            (Counter::Migration, 2),
            (Counter::OwnerTaken, 2),
            (Counter::OwnerGone, 1),
            (detour, 1),
            (Counter::SelectFailed, 1),
        ])
    );
    assert_eq!((model.selected()[3], model.selected()[5]), (2, 1));
}

/// What holds for any policy: what is selected exists, a worker that is there is found, and the decision says
/// how.
fn check<P: SelectPolicy>(
    slots: &[u16],
    gone: &BTreeSet<u16>,
    stalled: Option<u16>,
    busy: &BTreeMap<u16, u32>,
    hint: Hint,
    by_cpu: u16,
) -> Result<(), TestCaseError> {
    let mut model = Model::<P>::new(slots);
    if let Some(slot) = stalled {
        model.set_fitness(slot, Fitness::Stalled);
    }
    model.sockets.retain(|slot| !gone.contains(slot));
    model.load.by_cpu.set(&[by_cpu]);
    model.busy.clone_from(busy);
    let waits = |slot| !busy.contains_key(&slot);
    let any_waits = model.sockets.iter().any(|slot| Some(*slot) != stalled && waits(*slot));
    let decision = model.arrive(hint);
    prop_assert_eq!(decision.slot().is_some(), !model.sockets.is_empty());
    prop_assert!(decision.slot().is_none_or(|slot| model.sockets.contains(&slot)));
    prop_assert_eq!(decision.detour().is_none(), decision.owner() == Counter::OwnerTaken);
    let found = model.tried.iter().filter(|slot| !model.sockets.contains(slot)).count();
    prop_assert_eq!(decision.failed as usize, found);
    if P::ASKS && any_waits && slots.len() <= P::READY_TRIES as usize {
        prop_assert!(decision.slot().is_some_and(waits), "{:?}", decision);
    }
    let counted = model.counted();
    for stage in [Stage::Arrival, Stage::Owner] {
        let of = |counter: &&Counter| counter.stage() == stage;
        let sum: u64 = Counter::ALL.iter().filter(of).map(|counter| counted[counter.index()]).sum();
        prop_assert_eq!(sum, 1, "{:?}", stage);
    }
    Ok(())
}

proptest! {
    /// Whatever is gone, stalled or busy.
    #[test]
    fn somebody_is_selected_whenever_that_is_possible(
        slots in prop::collection::btree_set(0..64u16, 1..8),
        gone in prop::collection::btree_set(0..64u16, 0..8),
        stalled in prop::option::of(0..64u16),
        busy in prop::collection::btree_map(0..64u16, 0..9u32, 0..64),
        key in any::<u32>(),
        by_cpu in prop_oneof![Just(NO_SLOT), 0..64u16],
    ) {
        let slots: Vec<u16> = slots.into_iter().collect();
        for hint in [Hint::Key(key), Hint::Cpu { cpu: 0, key }] {
            check::<FirstFit>(&slots, &gone, stalled, &busy, hint, by_cpu)?;
            check::<PreferWaiting>(&slots, &gone, stalled, &busy, hint, by_cpu)?;
        }
    }
}
