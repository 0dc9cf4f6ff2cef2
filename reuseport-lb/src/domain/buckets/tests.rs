//! Tests of buckets in ordinary memory, with a model of what the kernel program does with flows.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::rc::Rc;

use proptest::prelude::*;
use reuseport_lb_common::activity::Activity;
use reuseport_lb_common::directed::DirectedPorts;
use reuseport_lb_common::entry::{EPOCHS, Entry};
use reuseport_lb_common::load::Fitness;
use reuseport_lb_common::shared::Zeroable as _;
use reuseport_lb_common::slots::NO_SLOT;
use reuseport_lb_common::table::{Table, attention};

use super::{
    Buckets, LiveFlows, SharedMemory, add_staying, constraints, count, entries, mark_moving, points_to,
};
use crate::domain::bucket_move::Constraint;

struct Fake {
    table: Box<Table>,
    activity: Option<Box<Activity>>,
    fitness: RefCell<BTreeMap<u16, Fitness>>,
    directed: Box<DirectedPorts>,
}

impl SharedMemory for Fake {
    fn table(&self) -> &Table {
        &self.table
    }

    fn set_fitness(&self, slot: u16, fitness: Fitness) {
        self.fitness.borrow_mut().insert(slot, fitness);
    }

    fn directed(&self) -> &DirectedPorts {
        &self.directed
    }

    fn tracks(&self) -> bool {
        self.activity.is_some()
    }

    fn activity(&self) -> Option<impl Deref<Target = Activity>> {
        self.activity.as_deref()
    }
}

impl SharedMemory for Rc<Fake> {
    fn table(&self) -> &Table {
        Fake::table(self)
    }

    fn set_fitness(&self, slot: u16, fitness: Fitness) {
        Fake::set_fitness(self, slot, fitness);
    }

    fn directed(&self) -> &DirectedPorts {
        &self.directed
    }

    fn tracks(&self) -> bool {
        Fake::tracks(self)
    }

    fn activity(&self) -> Option<impl Deref<Target = Activity>> {
        Fake::activity(self)
    }
}

impl Fake {
    /// Buckets without owners.
    fn new(tracks: bool) -> Self {
        // 4 MiB are on the stack for a moment.
        let make = std::thread::Builder::new().stack_size(32 << 20).spawn(move || Self {
            table: Box::new(Table::zeroed()),
            activity: tracks.then(|| Box::new(Activity::zeroed())),
            fitness: RefCell::default(),
            directed: DirectedPorts::boxed(),
        });
        let fake = make.unwrap().join().unwrap();
        (0..=u16::MAX).for_each(|bucket| fake.table.set_entry(bucket, Entry::steady(NO_SLOT)));
        fake
    }

    fn entry(&self, bucket: u16) -> Entry {
        self.table.entry(bucket.into())
    }

    /// Sends a datagram of flow `flow` of `bucket`; returns the slot that gets it.
    fn send(&self, bucket: u16, flow: u32) -> u16 {
        let (key, entry) = (u32::from(bucket) | flow << 16, self.entry(bucket));
        let activity = self.activity.as_ref().unwrap();
        if entry.is_moving() && activity.stays(key, entry) {
            return entry.previous();
        }
        activity.mark(key, entry);
        entry.slot()
    }
}

fn every_slot(_: u16) -> bool {
    true
}

fn flows(by_slot: &[(usize, u64)], live: u64, kept: u64) -> Option<LiveFlows> {
    let mut flows = LiveFlows { by_slot: vec![0; super::MAX_SLOTS], live, kept };
    by_slot.iter().for_each(|(slot, number)| flows.by_slot[*slot] = *number);
    Some(flows)
}

#[test]
fn without_flows_a_bucket_moves_at_once() {
    let (fake, buckets) = (Fake::new(false), Buckets::default());
    buckets.publish(&fake, [(0, 3), (65535, 4), (0, 5)], every_slot);
    assert_eq!((fake.entry(0), fake.entry(65535)), (Entry::steady(5), Entry::steady(4)));
    assert_eq!(fake.entry(1).slot(), NO_SLOT);
    assert_eq!(buckets.writes.get(), 3);
    assert!(points_to(&fake, |slot| slot == 4) && !points_to(&fake, |slot| slot == 3));
    // Operations on flows do nothing.
    assert_eq!(buckets.cut(&fake, |_| false), BTreeMap::new());
    assert_eq!((buckets.sweep(&fake), constraints(&fake, every_slot), count(&fake)), (0, Vec::new(), None));
    buckets.rotate(&fake);
    assert_eq!(buckets.writes.get(), 3);
}

#[test]
fn a_live_flow_stays_and_a_new_one_goes_to_the_new_worker() {
    let (fake, buckets) = (Fake::new(true), Buckets::default());
    buckets.publish(&fake, [(7, 1)], every_slot);
    assert_eq!(fake.send(7, 0), 1);
    buckets.publish(&fake, [(7, 2)], every_slot);
    assert_eq!((fake.send(7, 0), fake.send(7, 1), fake.send(7, 2)), (1, 2, 2));
    assert_eq!(count(&fake), flows(&[(1, 1), (2, 2)], 3, 1));
    let mut staying = vec![0; 4];
    add_staying(&fake, &mut staying);
    assert_eq!(staying, [0, 1, 0, 0]);
    let mut marks = vec![false; 10];
    mark_moving(&fake, &mut marks);
    assert_eq!(marks.iter().position(|moving| *moving), Some(7));
    assert!(points_to(&fake, |slot| slot == 1));
    // Flows of two workers live: the entry has no room for a third.
    assert_eq!(constraints(&fake, every_slot), [(7, Constraint::Back(1))]);
    assert_eq!(constraints(&fake, |slot| slot != 1), [(7, Constraint::Free)]);
}

#[test]
fn marks_that_an_earlier_worker_left_count_for_no_worker() {
    let (fake, buckets) = (Fake::new(true), Buckets::default());
    buckets.publish(&fake, [(7, 1)], every_slot);
    // On the other side, as left by a worker that is gone.
    fake.activity.as_ref().unwrap().mark(7, Entry::steady(1).turned());
    buckets.publish(&fake, [(7, 2)], every_slot);
    assert_eq!(fake.send(7, 0), 2, "it is new");
}

#[test]
fn a_move_ends_when_its_flows_are_quiet() {
    let (fake, buckets) = (Fake::new(true), Buckets::default());
    buckets.publish(&fake, [(7, 1), (8, 1)], every_slot);
    fake.send(7, 0);
    fake.send(8, 0);
    buckets.publish(&fake, [(7, 2), (8, 2)], every_slot);
    assert_eq!(buckets.sweep(&fake), 0);
    for _ in 0..EPOCHS - 1 {
        buckets.rotate(&fake);
        assert_eq!(fake.send(8, 0), 1, "it goes on");
    }
    assert_eq!((buckets.sweep(&fake), fake.send(7, 0)), (0, 1), "one epoch less than a flow lives");
    for _ in 0..EPOCHS {
        buckets.rotate(&fake);
        fake.send(8, 0);
    }
    let before = buckets.writes.get();
    assert_eq!(buckets.sweep(&fake), 1);
    assert_eq!(buckets.writes.get(), before + 1);
    assert_eq!((fake.entry(7).previous(), fake.entry(8).previous()), (NO_SLOT, 1));
    assert_eq!((fake.send(7, 0), fake.send(8, 0)), (2, 1));
}

#[test]
fn a_worker_that_keeps_flows_no_longer_loses_them_and_they_are_counted() {
    let (fake, buckets) = (Fake::new(true), Buckets::default());
    buckets.publish(&fake, [(7, 1), (8, 1), (9, 3)], every_slot);
    for (bucket, flow) in [(7, 0), (7, 1), (8, 0), (9, 0)] {
        fake.send(bucket, flow);
    }
    buckets.publish(&fake, [(7, 2)], every_slot);
    assert_eq!(buckets.cut(&fake, |slot| slot != 1), BTreeMap::from([(1, 3)]));
    assert_eq!(fake.entry(7).previous(), NO_SLOT);
    assert_eq!((fake.send(7, 0), fake.send(9, 0)), (2, 3));
    assert_eq!(fake.entry(8).slot(), 1, "that is for `publish`");
    buckets.publish(&fake, [(8, 2)], |slot| slot != 1);
    assert_eq!((fake.send(8, 0), fake.entry(8).previous()), (2, NO_SLOT));
    assert_eq!(buckets.cut(&fake, |slot| slot != 1), BTreeMap::new());
}

#[test]
fn flows_are_counted_again_only_when_something_has_changed() {
    let (fake, buckets) = (Rc::new(Fake::new(true)), Buckets::default());
    buckets.publish(&fake, [(7, 1)], every_slot);
    let live =
        |decisions: u64| buckets.flow_counter(&fake, (decisions, 0)).unwrap().count().map(|flows| flows.live);
    assert_eq!(live(1), Some(0));
    fake.send(7, 0);
    assert_eq!(live(1), Some(0), "what is known");
    assert_eq!(live(2), Some(1), "the program has decided");
    assert_eq!(live(0), Some(0), "where it has not, nothing is read");
    buckets.cut(&fake, |slot| slot != 1);
    buckets.publish(&fake, [(7, 2)], |slot| slot != 1);
    fake.activity.as_ref().unwrap().forget(7, 0, u64::MAX);
    assert_eq!(live(2), Some(0), "buckets were written");
    assert!(buckets.flow_counter(&Rc::new(Fake::new(false)), (0, 0)).is_none());
}

/// Buckets with an owner whose entries are marked for the slow path.
fn marked(fake: &Fake) -> BTreeSet<u16> {
    let marked = entries(fake).filter(|(_, entry)| entry.is_slow() && entry.slot() != NO_SLOT);
    marked.map(|(bucket, _)| bucket).collect()
}

#[test]
fn buckets_of_the_unfit_are_marked_and_no_others() {
    let (fake, mut buckets) = (Fake::new(false), Buckets::default());
    buckets.publish(&fake, [(1, 1), (2, 2), (3, 1)], every_slot);
    buckets.set_fitness(&fake, 1, Fitness::Overloaded);
    assert_eq!(marked(&fake), [1, 3].into());
    assert_eq!(fake.table.attention.get(), attention::AVOID);
    buckets.set_fitness(&fake, 2, Fitness::Stalled);
    buckets.publish(&fake, [(3, 5), (4, 2)], every_slot);
    assert_eq!(marked(&fake), [1, 2, 4].into(), "what is published is marked as well");
    assert_eq!(buckets.unfit(), [(1, Fitness::Overloaded), (2, Fitness::Stalled)]);
    let writes = buckets.writes.get();
    buckets.set_fitness(&fake, 2, Fitness::Stalled);
    assert_eq!(buckets.writes.get(), writes, "that is known");
    buckets.set_fitness(&fake, 2, Fitness::Fit);
    assert_eq!((marked(&fake), fake.table.attention.get()), ([1].into(), attention::AVOID));
    buckets.set_fitness(&fake, 1, Fitness::Fit);
    assert_eq!((marked(&fake), fake.table.attention.get()), ([].into(), 0));
    assert_eq!(*fake.fitness.borrow(), [(1, Fitness::Fit), (2, Fitness::Fit)].into());
}

#[test]
fn tracing_marks_all_and_leaves_the_unfit_marked() {
    let (fake, mut buckets) = (Fake::new(false), Buckets::default());
    buckets.publish(&fake, [(1, 1), (2, 2)], every_slot);
    buckets.set_fitness(&fake, 1, Fitness::Stalled);
    buckets.trace(&fake, true);
    assert_eq!(marked(&fake), [1, 2].into());
    assert_eq!(fake.table.attention.get(), attention::AVOID | attention::TRACE);
    let writes = buckets.writes.get();
    buckets.trace(&fake, true);
    assert_eq!(buckets.writes.get(), writes);
    buckets.trace(&fake, false);
    assert_eq!((marked(&fake), fake.table.attention.get()), ([1].into(), attention::AVOID));
}

#[test]
fn where_the_daemons_own_come_is_marked_as_long_as_they_do() {
    let (fake, mut buckets) = (Fake::new(false), Buckets::default());
    buckets.publish(&fake, [(1, 1), (2, 2), (3, 3)], every_slot);
    buckets.set_fitness(&fake, 3, Fitness::Overloaded);
    assert!(buckets.direct(&fake, 40_000, 2, None));
    assert_eq!(marked(&fake), [1, 2, 3].into());
    assert_eq!(fake.table.attention.get(), attention::AVOID | attention::DIRECT);
    assert!(!buckets.direct(&fake, 40_000 + 64, 2, None), "both are in one place");
    assert!(buckets.direct(&fake, 40_001, 1, Some(2)));
    assert_eq!(buckets.directed(&fake, 40_000, true), None, "nothing has come yet");
    assert_eq!(fake.directed.find(40_000, 0x0007_0001), Some(2));
    assert_eq!(buckets.directed(&fake, 40_000, false), Some(None), "the next one may come anywhere");
    assert_eq!((buckets.directed(&fake, 40_000, true), marked(&fake)), (Some(Some(1)), [1, 2, 3].into()));
    buckets.publish(&fake, [(1, 5), (2, 5)], every_slot);
    assert_eq!(marked(&fake), [1, 2, 3].into(), "what is published is marked as well");
    buckets.undirect(&fake, 40_000);
    assert_eq!((marked(&fake), fake.directed.find(40_000, 1)), ([2, 3].into(), None));
    assert_eq!(buckets.directed(&fake, 40_000, true), None, "it is over");
    buckets.undirect(&fake, 40_001);
    assert_eq!((marked(&fake), fake.table.attention.get()), ([3].into(), attention::AVOID));
}

#[derive(Clone, Debug)]
enum Step {
    Send(u16, u32),
    /// Gives a bucket to a slot, if that cuts no flow.
    Give(u16, u16),
    Sweep,
    Rotate,
    /// The worker in this slot is removed; another one comes later.
    Gone(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4u16, 0..4u32).prop_map(|(bucket, flow)| Step::Send(bucket, flow)),
        4 => (0..4u16, 0..4u16).prop_map(|(bucket, slot)| Step::Give(bucket, slot)),
        1 => Just(Step::Sweep),
        1 => Just(Step::Rotate),
        1 => (0..4u16).prop_map(Step::Gone),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// After any steps, a live flow is still with its worker, as long as that serves, and the count of live flows is
    /// that of the model.
    #[test]
    fn a_flow_that_goes_on_stays(steps in prop::collection::vec(step(), 1..60)) {
        let (fake, buckets) = (Fake::new(true), Buckets::default());
        buckets.publish(&fake, (0..4).map(|bucket| (bucket, bucket)), every_slot);
        // Worker and age in epochs of each flow.
        let mut homes: BTreeMap<(u16, u32), (u16, usize)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Send(bucket, flow) => {
                    let slot = fake.send(bucket, flow);
                    let (home, age) = homes.entry((bucket, flow)).or_insert((slot, 0));
                    prop_assert_eq!(slot, *home, "flow {} of bucket {}", flow, bucket);
                    *age = 0;
                }
                Step::Give(bucket, slot) => {
                    let free = constraints(&fake, every_slot).into_iter().find(|(which, _)| *which == bucket);
                    match free.map(|(_, constraint)| constraint) {
                        None | Some(Constraint::Free) => {}
                        Some(Constraint::Back(back)) if back == slot => {}
                        _ => continue,
                    }
                    buckets.publish(&fake, [(bucket, slot)], every_slot);
                    prop_assert_eq!(fake.entry(bucket).slot(), slot);
                }
                Step::Sweep => drop(buckets.sweep(&fake)),
                Step::Rotate => {
                    buckets.rotate(&fake);
                    homes.retain(|_, (_, age)| {
                        *age += 1;
                        *age < EPOCHS
                    });
                }
                Step::Gone(slot) => {
                    let its = homes.values().filter(|(home, _)| *home == slot).count() as u64;
                    let cut = buckets.cut(&fake, |other| other != slot);
                    prop_assert_eq!(cut.get(&slot).copied().unwrap_or_default(), its);
                    // Not to the previous slot: flows of the removed worker would be forgotten there.
                    let heir = |entry: Entry| (0..4).find(|it| *it != slot && *it != entry.previous());
                    let owned = (0..4).filter(|bucket| fake.entry(*bucket).slot() == slot);
                    let given: BTreeMap<u16, u16> =
                        owned.filter_map(|bucket| Some((bucket, heir(fake.entry(bucket))?))).collect();
                    // Live flows in the worker's buckets go to the new owners; flows that stayed with it elsewhere end.
                    homes.retain(|(bucket, _), (home, _)| {
                        if *home == slot && let Some(heir) = given.get(bucket) {
                            *home = *heir;
                        }
                        *home != slot
                    });
                    buckets.publish(&fake, given, |other| other != slot);
                }
            }
            let live = count(&fake).unwrap();
            prop_assert_eq!(live.live, homes.len() as u64);
            for slot in 0..4u16 {
                let its = homes.values().filter(|(home, _)| *home == slot).count() as u64;
                prop_assert_eq!(live.by_slot[usize::from(slot)], its, "slot {}", slot);
            }
        }
    }
}
