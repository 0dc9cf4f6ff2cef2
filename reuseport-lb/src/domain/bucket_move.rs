//! Flows of UDP while their bucket gets another worker, PURE: entry + wish → entry. Not: which
//! buckets get another worker (`table.rs`), nor when flows are looked at (`flows.rs`).
//!
//! ```text
//!             another worker                       no flow of A lives, or A is gone
//!  A (side 0) ─────────────▶ B (side 1), previous A ──────────────────────▶ B (side 1)
//!                               │          ▲
//!                    back to A  ▼          │  back to B
//!                            A (side 0), previous B ──────────────────────▶ A (side 0)
//! ```
//!
//! A flow is marked on the side of the worker that it has, and on no other. So whatever is stored
//! here, a flow that is marked stays with its worker for as long as the entry names that worker. A side
//! must have no marks when its turn begins, and when its worker is gone.

use reuseport_lb_common::layout::{Entry, NO_SLOT};

/// Where a bucket can move without any live flow losing its worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Constraint {
    /// Anywhere.
    #[default]
    Free,
    /// Back to this slot only: flows of two workers live in it, and there is no room for a third.
    Back(u16),
    /// Nowhere.
    Fixed,
}

impl Constraint {
    /// What both allow.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Free, constraint) | (constraint, Self::Free) => constraint,
            (Self::Back(one), Self::Back(same)) if one == same => self,
            _ => Self::Fixed,
        }
    }
}

/// Where the bucket of `entry` can move. `keeps`: whether the worker in a slot is there for its flows;
/// `begun`: whether flows of the entry's own slot live.
pub fn constraint(entry: Entry, keeps: impl Fn(u16) -> bool, begun: bool) -> Constraint {
    let previous = entry.previous();
    if begun && previous != NO_SLOT && keeps(entry.slot()) && keeps(previous) {
        Constraint::Back(previous)
    } else {
        Constraint::Free
    }
}

/// The entry that gives new flows to `to`, and leaves the others where they are; the arguments are
/// those of [`constraint`]. What that forbids, cuts the flows that began last.
pub fn moved(entry: Entry, to: u16, keeps: impl Fn(u16) -> bool, begun: bool) -> Entry {
    let (current, previous) = (entry.slot(), entry.previous());
    let previous = if previous != NO_SLOT && keeps(previous) { previous } else { NO_SLOT };
    let entry = entry.with_previous(previous);
    let stay = current != NO_SLOT && keeps(current);
    if to == current {
        entry
    } else if to == previous && to != NO_SLOT {
        entry.with_slot(to).turned().with_previous(if stay && begun { current } else { NO_SLOT })
    } else if stay && previous == NO_SLOT {
        entry.with_slot(to).turned().with_previous(current)
    } else {
        // Nobody stays with the current one; or there is no room for those who would.
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
        let moving = moved(steady, 5, all, true);
        assert_eq!((moving.slot(), moving.previous(), moving.side()), (5, 3, 1));
        assert_eq!(constraint(moving, all, true), Constraint::Back(3));
        assert_eq!(constraint(moving, all, false), Constraint::Free);
        let back = moved(moving, 3, all, true);
        assert_eq!((back.slot(), back.previous(), back.side()), (3, 5, 0));
        assert_eq!(moved(moving, 3, all, false), steady, "nobody is left behind");
        assert_eq!(moved(moving, 7, all, false).previous(), 3, "the old ones stay");
        assert_eq!(moved(moving, 5, |slot| slot != 3, true), moving.with_previous(NO_SLOT));
    }

    #[test]
    fn a_crash_leaves_nothing_behind() {
        let but_3 = |slot| slot != 3;
        assert_eq!(moved(Entry::steady(3), 5, but_3, true), Entry::steady(5));
        let moving = Entry::steady(3).turned().with_previous(4);
        assert_eq!(constraint(moving, but_3, true), Constraint::Free, "a crash does not wait");
        assert_eq!(moved(moving, 5, but_3, true), moving.with_slot(5));
        assert_eq!(moved(Entry::steady(NO_SLOT), 5, but_3, false), Entry::steady(5));
        assert_eq!(moved(Entry::steady(5), NO_SLOT, but_3, true).previous(), 5);
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

    /// One bucket with its marks, and what the program would do.
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
        /// A flow is silent for too long.
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
        /// Whatever happens, a flow that goes on stays with its worker for as long as that is there.
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
                        bucket.entry = moved(before, to, all, begun);
                        prop_assert_eq!(bucket.entry.slot(), to);
                        // As `Group` does.
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
                        bucket.entry = moved(bucket.entry, to, |slot| names.contains(&slot), begun);
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
