//! The consistent-hash table, PURE: weights + old table → new table. Not: writing it into groups (`buckets.rs`).
//!
//! The table is exact (every member holds its quota of the 65,536 buckets, not one more or less), minimal
//! (a change moves `sum(max(0, had - quota))` owned buckets, not one more), and remembers (which
//! buckets move follows rendezvous ranks, so a member that returns gets most of its buckets back).
//!
//! Rendezvous hashing: Thaler and Ravishankar, "Using name-based mappings to increase hit rates",
//! IEEE/ACM Transactions on Networking 6(1), 1998. The rank of a bucket for a member is its position
//! in a pseudo-random order of all buckets that is the member's own, seeded by XXH3 of its name.
//! A rank takes two 16-bit multiplications, so SSE2 computes eight at once; a first table
//! for 256 members needs 17 million of them.

#[cfg(test)]
mod tests;

use reuseport_lb_common::slots::{MAX_SLOTS, NO_SLOT};
use reuseport_lb_common::table::BUCKETS;
use xxhash_rust::xxh3::xxh3_64;

use crate::domain::bucket_move::Constraint;

/// A worker that owns buckets: slot, weight, and the seed of its order of all buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    slot: u16,
    weight: u32,
    seed: u64,
}

impl Member {
    /// The worker `name` in `slot`; its share is `weight` over the sum of all weights.
    #[must_use]
    pub fn new(name: &str, slot: u16, weight: u32) -> Self {
        Self { slot, weight, seed: xxh3_64(name.as_bytes()) }
    }

    /// The slot that the member's buckets point to.
    #[must_use]
    pub fn slot(&self) -> u16 {
        self.slot
    }
}

/// A bucket and its new slot.
pub type BucketChange = (u16, u16);

/// Outcome of [`BucketTable::plan`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Buckets that have another slot now.
    pub changes: Vec<BucketChange>,
    /// Buckets that members lack of their quotas, because constraints keep them where they are.
    pub waiting: u32,
}

/// The slot that owns each bucket.
#[derive(Clone, PartialEq, Eq)]
pub struct BucketTable {
    owners: Vec<u16>,
}

impl Default for BucketTable {
    fn default() -> Self {
        Self { owners: vec![NO_SLOT; BUCKETS] }
    }
}

impl BucketTable {
    /// A table with these owners. (Tests that do not depend on the number of buckets have fewer than [`BUCKETS`].)
    #[must_use]
    pub fn of(owners: Vec<u16>) -> Self {
        debug_assert!(owners.len() <= BUCKETS, "one owner a bucket");
        Self { owners }
    }

    /// The slot of each bucket; [`NO_SLOT`] if it has none.
    #[must_use]
    pub fn owners(&self) -> &[u16] {
        &self.owners
    }

    /// How many buckets each slot has, indexed by slot.
    #[must_use]
    pub fn shares(&self) -> Vec<u32> {
        let mut shares = vec![0; MAX_SLOTS];
        for owner in self.owners.iter().filter(|owner| **owner != NO_SLOT) {
            shares[usize::from(*owner)] += 1;
        }
        shares
    }

    /// Gives every member its quota with the fewest moves; returns what changed.
    pub fn rebalance(&mut self, members: &[Member]) -> Vec<BucketChange> {
        self.plan(members, |_| Constraint::Free).changes
    }

    /// Gives every member its quota with the fewest moves, as far as buckets may move: one that may not move stays with
    /// its owner, be that a member or not, and others move in its place if they can.
    pub fn plan(&mut self, members: &[Member], constraint: impl Fn(u16) -> Constraint) -> Plan {
        let mut members = members.to_vec();
        // The result depends on names and weights, not on the order in which they are given.
        members.sort_by_key(|member| member.seed);
        let orders: Vec<Order> = members.iter().map(|member| Order::of(member.seed)).collect();
        let slots = members.iter().map(|member| usize::from(member.slot) + 1).max().unwrap_or_default();
        let mut index_of_slot = vec![None; slots];
        for (index, member) in members.iter().enumerate() {
            index_of_slot[usize::from(member.slot)] = Some(index);
        }
        let index_of = |slot: u16| index_of_slot.get(usize::from(slot)).copied().flatten();

        let mut changes = Vec::new();
        let mut had = vec![0; members.len()];
        for (bucket, owner) in (0..=u16::MAX).zip(&mut self.owners) {
            if index_of(*owner).is_none() && *owner != NO_SLOT {
                let heir = match constraint(bucket) {
                    Constraint::Free if members.is_empty() => NO_SLOT,
                    Constraint::Back(slot) if index_of(slot).is_some() => slot,
                    _ => *owner,
                };
                if heir != *owner {
                    *owner = heir;
                    changes.push((bucket, heir));
                }
            }
            if let Some(index) = index_of(*owner) {
                had[index] += 1;
            }
        }
        let quotas = quotas(&members, self.owners.len());
        let mut surplus: Vec<u32> =
            had.iter().zip(&quotas).map(|(had, q)| u32::saturating_sub(*had, *q)).collect();
        let mut need: Vec<u32> = had.iter().zip(&quotas).map(|(had, q)| q.saturating_sub(*had)).collect();

        loop {
            let takers: Vec<usize> = (0..members.len()).filter(|index| need[*index] > 0).collect();
            if takers.is_empty() {
                break;
            }
            let movable: Vec<u16> = (0..=u16::MAX)
                .zip(&self.owners)
                .filter(|(bucket, owner)| {
                    index_of(**owner).is_none_or(|owner| surplus[owner] > 0)
                        && constraint(*bucket) == Constraint::Free
                })
                .map(|(bucket, _)| bucket)
                .collect();
            if movable.is_empty() {
                break;
            }
            // Every round serves at least the first offer, and nearly all of them.
            for Offer { bucket, taker, .. } in
                offers(&movable, &takers, &orders, |bucket| index_of(self.owners[usize::from(bucket)]))
            {
                let owner = &mut self.owners[usize::from(bucket)];
                let donor = index_of(*owner);
                if need[usize::from(taker)] == 0 || donor.is_some_and(|donor| surplus[donor] == 0) {
                    continue;
                }
                if let Some(donor) = donor {
                    surplus[donor] -= 1;
                }
                need[usize::from(taker)] -= 1;
                *owner = members[usize::from(taker)].slot;
                changes.push((bucket, *owner));
            }
        }
        if need.iter().any(|need| *need > 0) {
            // Buckets that can only go back go back to members that still need some.
            for (bucket, owner) in (0..=u16::MAX).zip(&mut self.owners) {
                if let Constraint::Back(slot) = constraint(bucket)
                    && let (Some(taker), Some(donor)) = (index_of(slot), index_of(*owner))
                    && need[taker] > 0
                    && surplus[donor] > 0
                {
                    need[taker] -= 1;
                    surplus[donor] -= 1;
                    *owner = slot;
                    changes.push((bucket, slot));
                }
            }
        }
        Plan { changes, waiting: need.iter().sum() }
    }
}

/// The quota of each member: largest remainder over the weights; ties go to the member that comes first.
fn quotas(members: &[Member], buckets: usize) -> Vec<u32> {
    let sum: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
    // If all weights are 0, all are equal.
    let weight = |member: &Member| if sum == 0 { 1 } else { u64::from(member.weight) };
    let total = if sum == 0 { members.len().max(1) as u64 } else { sum };
    let due = |member: &Member| buckets as u64 * weight(member);
    let mut quotas: Vec<u32> = members.iter().map(|member| (due(member) / total) as u32).collect();
    let missing = if members.is_empty() { 0 } else { buckets - quotas.iter().sum::<u32>() as usize };
    let mut by_remainder: Vec<usize> = (0..members.len()).collect();
    by_remainder.sort_by_key(|index| std::cmp::Reverse(due(&members[*index]) % total));
    for index in by_remainder.into_iter().take(missing) {
        quotas[index] += 1;
    }
    quotas
}

/// A bucket, the taker with the best rank for it, and by how much that rank is better than the owner's.
#[derive(Clone, Copy, Default)]
struct Offer {
    bucket: u16,
    taker: u16,
    gain: u32,
}

/// For each of the `movable` buckets the taker with the best rank; offers with larger gains come first.
fn offers(
    movable: &[u16],
    takers: &[usize],
    orders: &[Order],
    owner: impl Fn(u16) -> Option<usize>,
) -> Vec<Offer> {
    /// Buckets that are ranked at a time: their ranks stay in the first-level cache.
    const CHUNK: usize = 4096;
    let mut offers = Vec::with_capacity(movable.len());
    let mut best = [0; CHUNK];
    let mut argument = [0; CHUNK];
    for buckets in movable.chunks(CHUNK) {
        best.fill(i16::MAX);
        argument.fill(0);
        for (at, taker) in takers.iter().enumerate() {
            orders[*taker].improve(buckets, at as i16, &mut best, &mut argument);
        }
        for ((bucket, rank), at) in buckets.iter().zip(best).zip(argument) {
            let owners_rank =
                owner(*bucket).map_or(i32::from(i16::MAX), |o| i32::from(orders[o].rank(*bucket)));
            // At least 0: ranks differ by less than 2^16.
            let gain = (owners_rank - i32::from(rank) + (1 << 16)) as u32;
            offers.push(Offer { bucket: *bucket, taker: takers[at as usize] as u16, gain });
        }
    }
    sorted_by_gain(&offers)
}

/// Sorts by gain, largest first, to within 32 of 131,072: a counting sort, five times as fast as an exact one.
fn sorted_by_gain(offers: &[Offer]) -> Vec<Offer> {
    const CLASSES: usize = 4096;
    let class = |offer: &Offer| CLASSES - 1 - (offer.gain as usize >> 5);
    let mut places = [0u32; CLASSES];
    offers.iter().for_each(|offer| places[class(offer)] += 1);
    let mut next = 0;
    for place in &mut places {
        next += std::mem::replace(place, next);
    }
    let mut sorted = vec![Offer::default(); offers.len()];
    for offer in offers {
        let place = &mut places[class(offer)];
        sorted[*place as usize] = *offer;
        *place += 1;
    }
    sorted
}

/// A member's own order of all buckets: a bijection on 16 bits.
#[derive(Clone, Copy)]
struct Order {
    multipliers: [u16; 2],
    addends: [u16; 2],
}

impl Order {
    fn of(seed: u64) -> Self {
        let word = |n: u32| (seed >> (16 * n)) as u16;
        // Odd multipliers have an inverse modulo 2^16.
        Self { multipliers: [word(0) | 1, word(2) | 1], addends: [word(1), word(3)] }
    }

    /// The position of `bucket` in this order; lower is better. Signed, because SSE2 compares signed numbers.
    #[inline(always)]
    fn rank(self, bucket: u16) -> i16 {
        let mut x = bucket.wrapping_mul(self.multipliers[0]).wrapping_add(self.addends[0]);
        x ^= x >> 7;
        x = x.wrapping_mul(self.multipliers[1]).wrapping_add(self.addends[1]);
        (x ^ (x >> 9)) as i16
    }

    /// Replaces each of `best` that is worse than this order's rank, and its `argument` by `at`. Without branches, for
    /// the vectoriser, and not inlined: `cargo xtask bench table` shows twice the time for a first table otherwise.
    #[inline(never)]
    fn improve(self, buckets: &[u16], at: i16, best: &mut [i16], argument: &mut [i16]) {
        for ((bucket, best), argument) in buckets.iter().zip(best).zip(argument) {
            let rank = self.rank(*bucket);
            let better = rank < *best;
            *best = rank.min(*best);
            *argument = if better { at } else { *argument };
        }
    }
}
