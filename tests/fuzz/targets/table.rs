//! Any history of members, weights and buckets that may not move → tables that are exact and minimal,
//! and plans that keep to what is allowed. What is exact is computed here once more, from the weights.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use reuseport_lb::domain::bucket_move::Constraint;
use reuseport_lb::domain::table::{BucketTable, Member};
use reuseport_lb_common::slots::NO_SLOT;
use reuseport_lb_common::table::BUCKETS;
use xxhash_rust::xxh3::xxh3_64;

/// More steps, and more members, find nothing else, and take their time.
const STEPS: usize = 5;
const MEMBERS: u8 = 64;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.iter().copied();
    let mut table = BucketTable::default();
    for _ in 0..STEPS {
        let Some(seed) = bytes.next() else { return };
        let weights = members(&mut bytes);
        let members: Vec<Member> = weights
            .iter()
            .map(|(slot, weight)| Member::new(&format!("web/{slot}"), *slot, *weight))
            .collect();
        if seed != 0 {
            allowed(&mut table, &members, u64::from(seed));
        }
        exact(&mut table, &members, &weights);
    }
});

/// Pairs of a slot and a weight, up to a slot that is none. Small weights are as they are, others grow fast.
fn members(bytes: &mut impl Iterator<Item = u8>) -> BTreeMap<u16, u32> {
    let mut weights = BTreeMap::new();
    while let (Some(slot), Some(weight)) = (bytes.next().filter(|slot| *slot < MEMBERS), bytes.next()) {
        let weight = u32::from(weight);
        weights
            .insert(u16::from(slot), if weight < 16 { weight } else { (weight - 15) * (weight - 15) * 17 });
    }
    weights
}

/// What moves may, all of that is told, and what is missing is what another plan gives.
fn allowed(table: &mut BucketTable, members: &[Member], seed: u64) {
    let random = |bucket: u16| match xxh3_64(&(seed << 16 | u64::from(bucket)).to_le_bytes()) % 8 {
        0 => Constraint::Fixed,
        n @ 1..=2 => Constraint::Back((n * seed % u64::from(MEMBERS)) as u16),
        _ => Constraint::Free,
    };
    let constraints: Vec<Constraint> = (0..=u16::MAX).map(random).collect();
    let constraint = |bucket: u16| constraints[usize::from(bucket)];
    let before = table.clone();
    let plan = table.plan(members, constraint);
    let mut told = before.clone().owners().to_vec();
    for (bucket, slot) in &plan.changes {
        told[usize::from(*bucket)] = *slot;
    }
    assert_eq!(told, table.owners(), "changes that were not told");
    for (bucket, (was, is)) in (0..=u16::MAX).zip(before.owners().iter().zip(table.owners())) {
        let may = match constraint(bucket) {
            Constraint::Free => true,
            Constraint::Back(slot) => *is == slot,
            Constraint::Fixed => false,
        };
        assert!(was == is || may, "bucket {bucket} moved from {was} to {is}");
    }
    let mut whole = table.clone();
    whole.rebalance(members);
    let (due, has) = (whole.shares(), table.shares());
    let missing = |member: &Member| {
        let slot = usize::from(member.slot());
        due[slot].saturating_sub(has[slot])
    };
    assert_eq!(plan.waiting, members.iter().map(missing).sum::<u32>(), "what waits is what is missing");
}

/// Everybody has its part of the sum to the bucket, and no bucket moves that need not.
fn exact(table: &mut BucketTable, members: &[Member], weights: &BTreeMap<u16, u32>) {
    let before = table.shares();
    let changes = table.rebalance(members);
    let shares = table.shares();
    if weights.is_empty() {
        assert!(table.owners().iter().all(|owner| *owner == NO_SLOT));
        return;
    }
    let sum: u64 = weights.values().map(|weight| u64::from(*weight)).sum();
    let total = if sum == 0 { weights.len() as u64 } else { sum };
    for (slot, weight) in weights {
        let weight = if sum == 0 { 1 } else { u64::from(*weight) };
        let due = BUCKETS as u64 * weight;
        let share = u64::from(shares[usize::from(*slot)]);
        assert!(
            share >= due / total && share <= due.div_ceil(total),
            "slot {slot}: {share} for {due}/{total}"
        );
    }
    assert_eq!(shares.iter().sum::<u32>() as usize, BUCKETS, "a bucket of nobody");
    let gained: u32 = shares.iter().zip(before).map(|(is, was)| is.saturating_sub(was)).sum();
    assert_eq!(changes.len(), gained as usize, "more moves than must be");
}
