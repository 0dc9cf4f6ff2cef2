//! UDP flows while their bucket moves to another worker, PURE: entry + new owner → entry. Not: which
//! buckets move (`table/`), nor when flows are counted (`flows.rs`).
//!
//! ```text
//!             another worker                       no flow of A lives, or A is gone
//!  A (side 0) ─────────────▶ B (side 1), previous A ──────────────────────▶ B (side 1)
//!                               │          ▲
//!                    back to A  ▼          │  back to B
//!                            A (side 0), previous B ──────────────────────▶ A (side 0)
//! ```
//!
//! The program marks each flow on the side of its worker, and on no other. So a marked flow stays with its worker
//! as long as the entry names that worker. A side must have no marks when an entry begins to use it, and when its
//! worker is gone.

use reuseport_lb_common::entry::Entry;
use reuseport_lb_common::slots::NO_SLOT;

/// Where a bucket can move without a live flow losing its worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Constraint {
    /// Anywhere.
    #[default]
    Free,
    /// Back to this slot only: an entry names two workers, and flows of both live.
    Back(u16),
    /// Nowhere.
    Fixed,
}

impl Constraint {
    /// The constraint of a bucket that is constrained in two groups.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Free, constraint) | (constraint, Self::Free) => constraint,
            (Self::Back(one), Self::Back(same)) if one == same => self,
            _ => Self::Fixed,
        }
    }
}

/// Where the bucket of `entry` can move. `keeps`: whether the worker in a slot still serves its flows;
/// `begun`: whether flows of the entry's current slot live.
pub fn constraint(entry: Entry, keeps: impl Fn(u16) -> bool, begun: bool) -> Constraint {
    let previous = entry.previous();
    if begun && previous != NO_SLOT && keeps(entry.slot()) && keeps(previous) {
        Constraint::Back(previous)
    } else {
        Constraint::Free
    }
}

/// The entry that gives new flows to `to` and leaves live ones where they are; the arguments are
/// those of [`constraint`]; whether flows live is asked only where it makes a difference. A move that [`constraint`] forbids cuts the flows of the current slot.
pub fn moved(entry: Entry, to: u16, keeps: impl Fn(u16) -> bool, begun: impl FnOnce() -> bool) -> Entry {
    let (current, previous) = (entry.slot(), entry.previous());
    let previous = if previous != NO_SLOT && keeps(previous) { previous } else { NO_SLOT };
    let entry = entry.with_previous(previous);
    let stay = current != NO_SLOT && keeps(current);
    if to == current {
        entry
    } else if to == previous && to != NO_SLOT {
        entry.with_slot(to).turned().with_previous(if stay && begun() { current } else { NO_SLOT })
    } else if stay && previous == NO_SLOT {
        entry.with_slot(to).turned().with_previous(current)
    } else {
        // No flow stays with the current slot; or the entry has no room for a third slot.
        entry.with_slot(to)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bucket_moves_and_comes_back() {
        let all = |_| true;
        let steady = Entry::steady(3);
        let moving = moved(steady, 5, all, || true);
        assert_eq!((moving.slot(), moving.previous(), moving.side()), (5, 3, 1));
        assert_eq!(constraint(moving, all, true), Constraint::Back(3));
        assert_eq!(constraint(moving, all, false), Constraint::Free);
        let back = moved(moving, 3, all, || true);
        assert_eq!((back.slot(), back.previous(), back.side()), (3, 5, 0));
        assert_eq!(moved(moving, 3, all, || false), steady, "no flow is left behind");
        assert_eq!(moved(moving, 7, all, || false).previous(), 3, "the old ones stay");
        assert_eq!(moved(moving, 5, |slot| slot != 3, || true), moving.with_previous(NO_SLOT));
    }

    #[test]
    fn a_crash_leaves_nothing_behind() {
        let but_3 = |slot| slot != 3;
        assert_eq!(moved(Entry::steady(3), 5, but_3, || true), Entry::steady(5));
        let moving = Entry::steady(3).turned().with_previous(4);
        assert_eq!(constraint(moving, but_3, true), Constraint::Free, "a crash does not wait");
        assert_eq!(moved(moving, 5, but_3, || true), moving.with_slot(5));
        assert_eq!(moved(Entry::steady(NO_SLOT), 5, but_3, || false), Entry::steady(5));
        assert_eq!(moved(Entry::steady(5), NO_SLOT, but_3, || true).previous(), 5);
    }

    #[test]
    fn two_groups_allow_what_both_allow() {
        use Constraint::{Back, Fixed, Free};
        for (one, other, both) in [
            (Free, Free, Free),
            (Free, Back(1), Back(1)),
            (Back(1), Back(1), Back(1)),
            (Back(1), Back(2), Fixed),
            (Fixed, Free, Fixed),
        ] {
            assert_eq!(one.and(other), both);
            assert_eq!(other.and(one), both);
        }
    }

    /// One bucket with its marks, and a model of the kernel program.
    struct Bucket {
        entry: Entry,
        marks: [u64; 2],
    }

    impl Bucket {
        fn send(&mut self, flow: u32) -> u16 {
            let (side, bit) = (self.entry.side(), 1 << flow);
            let here = self.marks[side] & bit != 0;
            if self.entry.is_moving() && !here && self.marks[1 - side] & bit != 0 {
                return self.entry.previous();
            }
            self.marks[side] |= bit;
            self.entry.slot()
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Send(u32),
        Move(u16),
        Crash(u16),
        /// A flow is silent for longer than `idle_timeout`.
        Forget(u32),
        Sweep,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..6u32).prop_map(Step::Send),
            3 => (0..4u16).prop_map(Step::Move),
            1 => (0..4u16).prop_map(Step::Crash),
            1 => (0..6u32).prop_map(Step::Forget),
            1 => Just(Step::Sweep),
        ]
    }

    proptest! {
        /// After any steps, a live flow is still with its worker, as long as that serves.
        #[test]
        fn a_live_flow_never_moves(steps in prop::collection::vec(step(), 1..80)) {
            let mut bucket = Bucket { entry: Entry::steady(0), marks: [0; 2] };
            // The worker of each live flow; workers come back under another number.
            let mut homes: BTreeMap<u32, u16> = BTreeMap::new();
            let mut names: [u16; 4] = [0, 1, 2, 3];
            let mut next = 4;
            for step in steps {
                let side = bucket.entry.side();
                let begun = bucket.marks[side] != 0;
                match step {
                    Step::Send(flow) => {
                        let slot = bucket.send(flow);
                        let home = *homes.entry(flow).or_insert(slot);
                        prop_assert_eq!(slot, home, "flow {}", flow);
                    }
                    Step::Move(to) => {
                        let (to, all) = (names[usize::from(to)], |slot| names.contains(&slot));
                        match constraint(bucket.entry, all, begun) {
                            Constraint::Free => {}
                            Constraint::Back(back) if back == to => {}
                            _ => continue,
                        }
                        let before = bucket.entry;
                        bucket.entry = moved(before, to, all, || begun);
                        prop_assert_eq!(bucket.entry.slot(), to);
                        // As `Buckets::publish` does.
                        if bucket.entry.is_moving() && !before.is_moving() {
                            bucket.marks[bucket.entry.side()] = 0;
                        }
                    }
                    Step::Crash(which) => {
                        let gone = std::mem::replace(&mut names[usize::from(which)], next);
                        next += 1;
                        homes.retain(|_, home| *home != gone);
                        let current = bucket.entry.slot();
                        if bucket.entry.previous() == gone {
                            bucket.marks[1 - side] = 0;
                        }
                        let to = if current == gone { names[usize::from(which)] } else { current };
                        bucket.entry = moved(bucket.entry, to, |slot| names.contains(&slot), || begun);
                        prop_assert!(bucket.entry.slot() != gone && bucket.entry.previous() != gone);
                    }
                    Step::Forget(flow) => {
                        homes.remove(&flow);
                        bucket.marks.iter_mut().for_each(|marks| *marks &= !(1 << flow));
                    }
                    Step::Sweep => {
                        if bucket.marks[1 - bucket.entry.side()] == 0 {
                            bucket.entry = bucket.entry.with_previous(NO_SLOT);
                        }
                    }
                }
            }
        }
    }
}
