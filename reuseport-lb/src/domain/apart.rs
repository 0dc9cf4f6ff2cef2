//! The buckets of one listener while they are not those of the service, PURE: workers that do not read at a UDP listener
//! get no new flows there, and all of theirs elsewhere. Not: which workers do not read (`health/`), nor writing buckets
//! (`engine/placing.rs`).

use reuseport_lb_common::slots::NO_SLOT;

use super::bucket_move::Constraint;
use super::slots::SlotSet;
use super::table::{BucketTable, Member, Plan};

/// The buckets of a listener of its own.
#[derive(Clone, PartialEq, Eq)]
pub struct Apart {
    table: BucketTable,
    avoided: Vec<u16>,
}

impl Apart {
    /// Buckets that are as in `table` until the next [`Apart::plan`], which avoids these slots.
    #[must_use]
    pub fn of(table: BucketTable, avoided: Vec<u16>) -> Self {
        Self { table, avoided }
    }

    /// The owner of each bucket.
    #[must_use]
    pub fn table(&self) -> &BucketTable {
        &self.table
    }

    /// Slots of workers that get no new flows.
    #[must_use]
    pub fn avoided(&self) -> &[u16] {
        &self.avoided
    }

    /// Avoids these slots from now on.
    pub fn avoid(&mut self, slots: Vec<u16>) {
        self.avoided = slots;
    }

    /// Whether the listener has the buckets of the service again.
    #[must_use]
    pub fn is_over(&self, service: &BucketTable) -> bool {
        self.avoided.is_empty() && self.table == *service
    }

    /// Gives the buckets of avoided slots to the other members, as far as buckets may move; all of them if there is no
    /// other. If none is avoided, gives each bucket to whom it belongs in `service`.
    pub fn plan(
        &mut self,
        service: &BucketTable,
        members: &[Member],
        constraint: impl Fn(u16) -> Constraint,
    ) -> Plan {
        let avoided: SlotSet = self.avoided.iter().copied().collect();
        let others: Vec<Member> = members.iter().filter(|it| !avoided.contains(it.slot())).copied().collect();
        if !avoided.is_empty() && !others.is_empty() {
            return self.table.plan(&others, constraint);
        }
        let mut plan = Plan::default();
        let mut owners = self.table.owners().to_vec();
        for ((bucket, own), wanted) in (0..=u16::MAX).zip(&mut owners).zip(service.owners()) {
            if own == wanted {
                continue;
            }
            match constraint(bucket) {
                Constraint::Back(to) if to != *wanted && *wanted != NO_SLOT => plan.waiting += 1,
                Constraint::Fixed => plan.waiting += 1,
                _ => {
                    *own = *wanted;
                    plan.changes.push((bucket, *wanted));
                }
            }
        }
        self.table = BucketTable::of(owners);
        plan
    }
}

#[cfg(test)]
mod tests {
    use reuseport_lb_common::slots::MAX_SLOTS;

    use super::*;

    fn members(slots: std::ops::Range<u16>) -> Vec<Member> {
        slots.map(|slot| Member::new(&format!("web/{slot}"), slot, 1)).collect()
    }

    fn table(members: &[Member]) -> BucketTable {
        let mut table = BucketTable::default();
        table.rebalance(members);
        table
    }

    fn free(_: u16) -> Constraint {
        Constraint::Free
    }

    #[test]
    fn only_buckets_of_avoided_slots_move_and_they_come_back() {
        let members = members(0..4);
        let service = table(&members);
        let mut apart = Apart::of(service.clone(), vec![2]);
        let had = service.shares();
        let plan = apart.plan(&service, &members, free);
        assert_eq!((plan.changes.len(), plan.waiting), (had[2] as usize, 0));
        assert!(plan.changes.iter().all(|(bucket, _)| service.owners()[usize::from(*bucket)] == 2));
        assert_eq!(apart.table().shares()[2], 0);
        assert!(apart.table().shares().iter().all(|share| [0, 21_845, 21_846].contains(share)));
        assert!(!apart.is_over(&service));
        apart.avoid(Vec::new());
        assert!(!apart.is_over(&service));
        let back = apart.plan(&service, &members, free);
        assert_eq!((back.changes.len(), back.waiting), (plan.changes.len(), 0));
        assert!(apart.is_over(&service));
    }

    #[test]
    fn buckets_that_must_stay_wait_and_come_back_later() {
        let members = members(0..3);
        let service = table(&members);
        let mut apart = Apart::of(service.clone(), vec![0]);
        let moved = apart.plan(&service, &members, free).changes;
        apart.avoid(Vec::new());
        // Flows of two workers live in one: it can go back to the first, and to nobody else.
        let (held, elsewhere) = (moved[0].0, moved[1].0);
        let constraint = |bucket| match bucket {
            it if it == held => Constraint::Back(0),
            it if it == elsewhere => Constraint::Back(9),
            _ => Constraint::Free,
        };
        let plan = apart.plan(&service, &members, constraint);
        assert_eq!((plan.changes.len(), plan.waiting), (moved.len() - 1, 1));
        assert!(plan.changes.contains(&(held, 0)) && !apart.is_over(&service));
        assert_eq!(apart.plan(&service, &members, free).changes, [(elsewhere, 0)]);
        assert!(apart.is_over(&service));
    }

    #[test]
    fn without_another_member_the_buckets_stay() {
        let members = members(0..2);
        let service = table(&members);
        let mut apart = Apart::of(service.clone(), vec![0, 1]);
        assert_eq!(apart.plan(&service, &members, free), Plan::default());
        assert_eq!(apart.table().shares().len(), MAX_SLOTS);
    }
}
