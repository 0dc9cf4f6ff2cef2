//! Tests that tables are exact and minimal, and keep to constraints.

use super::*;
use proptest::prelude::*;

fn members(names: impl IntoIterator<Item = u16>) -> Vec<Member> {
    names.into_iter().map(|n| Member::new(&format!("web/{n}"), n, 1)).collect()
}

/// The moves that no table can avoid: buckets that members hold beyond their quotas.
fn minimum(table: &BucketTable, members: &[Member]) -> usize {
    let mut sorted = members.to_vec();
    sorted.sort_by_key(|member| member.seed);
    let unowned = table.owners.iter().filter(|o| sorted.iter().all(|m| m.slot != **o)).count();
    let shares = table.shares();
    let beyond =
        |(member, quota): (&Member, u32)| shares[usize::from(member.slot)].saturating_sub(quota) as usize;
    unowned + sorted.iter().zip(quotas(&sorted, BUCKETS)).map(beyond).sum::<usize>()
}

fn check(table: &BucketTable, members: &[Member]) {
    let mut sorted = members.to_vec();
    sorted.sort_by_key(|member| member.seed);
    let shares = table.shares();
    for (member, quota) in sorted.iter().zip(quotas(&sorted, BUCKETS)) {
        assert_eq!(shares[usize::from(member.slot)], quota, "slot {}", member.slot);
    }
}

#[test]
fn three_equal_members_hold_a_third_each() {
    let mut table = BucketTable::default();
    assert_eq!(table.rebalance(&members(0..3)).len(), BUCKETS);
    let mut held = table.shares()[..3].to_vec();
    held.sort_unstable();
    assert_eq!(held, [21845, 21845, 21846]);
}

#[test]
fn weights_are_quotas() {
    let weights = [1, 2, 5].map(|w| Member::new(&format!("web/{w}"), w as u16, w));
    let mut table = BucketTable::default();
    table.rebalance(&weights);
    assert_eq!([1, 2, 5].map(|slot| table.shares()[slot]), [8192, 16384, 40960]);
}

#[test]
fn a_first_table_depends_on_names_only() {
    let (mut one, mut other) = (BucketTable::default(), BucketTable::default());
    one.rebalance(&members(0..9));
    other.rebalance(&members((0..9).rev()));
    assert!(one == other);
}

#[test]
fn no_slot_owns_an_empty_table() {
    let mut table = BucketTable::default();
    table.rebalance(&members(0..2));
    assert_eq!(table.rebalance(&[]).len(), BUCKETS);
    assert!(table == BucketTable::default());
}

#[test]
fn a_member_that_returns_gets_most_of_its_buckets_back() {
    for (count, at_least) in [(8, 0.92), (32, 0.98)] {
        let mut table = BucketTable::default();
        table.rebalance(&members(0..count));
        let before = table.clone();
        table.rebalance(&members(1..count));
        table.rebalance(&members(0..count));
        let same = table.owners.iter().zip(&before.owners).filter(|(a, b)| a == b).count();
        let same = same as f64 / BUCKETS as f64;
        println!("{count} members: {same:.4} of the buckets are back where they were");
        assert!(same >= at_least, "{count} members: {same}");
    }
}

#[test]
fn a_rank_is_a_place_in_an_order() {
    let mut seen = vec![false; BUCKETS];
    let order = Order::of(xxh3_64(b"web/0"));
    (0..=u16::MAX).for_each(|bucket| seen[usize::from(order.rank(bucket) as u16)] = true);
    assert!(seen.into_iter().all(|seen| seen));
}

#[test]
fn what_may_not_move_waits_and_the_rest_stays_exact() {
    let mut table = BucketTable::default();
    table.rebalance(&members(0..4));
    let before = table.clone();
    // Slot 3 leaves; every second of its buckets holds flows of two workers, the other being 0.
    let kept = |bucket: u16| before.owners[usize::from(bucket)] == 3 && bucket.is_multiple_of(2);
    let back = |bucket| if kept(bucket) { Constraint::Back(0) } else { Constraint::Free };
    let plan = table.plan(&members(0..3), back);
    assert_eq!(plan.waiting, 0);
    check(&table, &members(0..3));
    assert!((0..=u16::MAX).filter(|b| kept(*b)).all(|b| table.owners[usize::from(b)] == 0));

    let mut table = before.clone();
    let fixed = |bucket| if kept(bucket) { Constraint::Fixed } else { Constraint::Free };
    let plan = table.plan(&members(0..3), fixed);
    let waits = (0..=u16::MAX).filter(|b| kept(*b)).count();
    assert_eq!(plan.waiting as usize, waits);
    assert_eq!(table.shares()[3] as usize, waits);
    // Later those buckets may move.
    let plan = table.plan(&members(0..3), |_| Constraint::Free);
    assert_eq!((plan.waiting, plan.changes.len()), (0, waits));
    check(&table, &members(0..3));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Each step is a set of members with weights; tables are exact and moves minimal after each.
    #[test]
    fn any_history_is_exact_and_minimal(
        steps in prop::collection::vec(
            (1..=1024usize).prop_flat_map(|n| prop::collection::btree_map(0..1024u16, 0..=100u32, 1..=n)),
            1..6,
        )
    ) {
        let mut table = BucketTable::default();
        for step in steps {
            let members: Vec<Member> = step
                .iter()
                .map(|(slot, weight)| Member::new(&format!("web/{slot}"), *slot, *weight))
                .collect();
            let must = minimum(&table, &members);
            let before = table.clone();
            let changes = table.rebalance(&members);
            prop_assert_eq!(changes.len(), must);
            check(&table, &members);
            let moved = table.owners.iter().zip(&before.owners).filter(|(a, b)| a != b).count();
            prop_assert_eq!(moved, must);
        }
    }

    /// Buckets that may not move do not, no member has more than its quota of buckets that others could have, and
    /// `waiting` is what is missing.
    #[test]
    fn a_plan_keeps_to_what_is_allowed(
        before in 1..40u16,
        after in prop::collection::btree_set(0..40u16, 0..40),
        seed in any::<u64>(),
    ) {
        let constraint = |bucket: u16| match xxh3_64(&(seed ^ u64::from(bucket)).to_le_bytes()) % 8 {
            0 => Constraint::Fixed,
            n @ 1..=2 => Constraint::Back((n * u64::from(before) / 3) as u16),
            _ => Constraint::Free,
        };
        let mut table = BucketTable::default();
        table.rebalance(&members(0..before));
        let old = table.clone();
        let members = members(after);
        let plan = table.plan(&members, constraint);
        for (bucket, (was, is)) in (0..=u16::MAX).zip(old.owners.iter().zip(&table.owners)) {
            let allowed = match constraint(bucket) {
                Constraint::Free => true,
                Constraint::Back(slot) => *is == slot,
                Constraint::Fixed => false,
            };
            prop_assert!(was == is || allowed, "bucket {}", bucket);
        }
        let moved = old.owners.iter().zip(&table.owners).filter(|(was, is)| was != is).count();
        prop_assert_eq!(plan.changes.len(), moved);
        let mut sorted = members.clone();
        sorted.sort_by_key(|member| member.seed);
        let shares = table.shares();
        let missing = |(member, quota): (&Member, u32)| quota.saturating_sub(shares[usize::from(member.slot)]);
        let missing: u32 = sorted.iter().zip(quotas(&sorted, BUCKETS)).map(missing).sum();
        prop_assert_eq!(plan.waiting, missing);
        if !members.is_empty() {
            table.plan(&members, |_| Constraint::Free);
            check(&table, &members);
        }
    }
}
