//! Which UDP flows live: marked by the program, forgotten by the daemon. Not: what follows from it.

use crate::entry::{EPOCHS, Entry, LANES, SIDES};
use crate::shared::Shared;
use crate::table::BUCKETS;

/// Flows of one bucket that are told apart; those that share a sub-bucket share their fate.
pub const SUB_BUCKETS: u32 = 64;

/// The one value of map `ACTIVITY`, of UDP groups only (4 MiB): which flows live. The program marks
/// flows, the daemon forgets them.
///
/// A flow is a bucket (the low 16 bits of its key) and a sub-bucket (the next 6), one bit of a word.
/// Words of one epoch and side lie together: nearly all decisions are about one of these parts.
#[repr(C, align(64))]
pub struct Activity {
    lanes: [[Shared<u64>; BUCKETS]; LANES],
}

impl Activity {
    /// All zeros, as the kernel makes it.
    #[must_use]
    pub const fn zeroed() -> Self {
        Self { lanes: [const { [const { Shared::new(0) }; BUCKETS] }; LANES] }
    }

    /// Says that the flow of `key`, in the bucket of `entry`, lives at [`Entry::slot`].
    #[inline(always)]
    pub fn mark(&self, key: u32, entry: Entry) {
        let word = self.word(key, entry.lane());
        // Once in an epoch for each flow; a look is much cheaper than an atomic store.
        if word.get() & bit(key) == 0 {
            word.or(bit(key));
        }
    }

    /// Looks at the word that [`Activity::mark`] most likely needs, before the bucket's entry is there to
    /// say which that is: if both are far away, both are then waited for at once. `other` is the entry of
    /// any bucket: all are in one epoch, but for a moment, and most of them on one side until the number of
    /// workers has changed often.
    #[inline(always)]
    pub fn expect(&self, key: u32, other: Entry) {
        let _ = self.word(key, other.lane()).get();
    }

    /// Whether the flow of `key`, in the bucket of `entry`, lives at [`Entry::previous`]. Says that it
    /// lives, there or at [`Entry::slot`].
    #[inline(always)]
    pub fn stays(&self, key: u32, entry: Entry) -> bool {
        let (bit, lane) = (bit(key), entry.lane());
        // Marked there in this epoch, it is not at the previous one: no flow is at both.
        let current = self.word(key, lane);
        if current.get() & bit != 0 {
            return false;
        }
        let previous = self.word(key, lane ^ 1);
        if previous.get() & bit != 0 {
            return true;
        }
        let side = lane & 1 ^ 1;
        let seen = |epoch: usize| self.word(key, epoch * SIDES + side).get();
        let stays = (seen(0) | seen(1) | seen(2) | seen(3)) & bit != 0;
        if stays {
            previous.or(bit)
        } else {
            current.or(bit)
        }
        stays
    }

    /// All flows of a bucket that live on this side, a bit for each sub-bucket.
    pub fn live(&self, bucket: u16, side: usize) -> u64 {
        let seen = |epoch| self.word(bucket.into(), epoch * SIDES + side).get();
        (0..EPOCHS).fold(0, |live, epoch| live | seen(epoch))
    }

    /// Whether the flow of `key` lives on this side, or another one of its sub-bucket.
    pub fn lives(&self, key: u32, side: usize) -> bool {
        self.live(key as u16, side) & bit(key) != 0
    }

    /// Takes over the flows of one bucket that live in `other`.
    #[cfg(not(target_arch = "bpf"))]
    pub fn merge_bucket(&self, bucket: u16, other: &Self) {
        let lanes = 0..LANES;
        lanes.for_each(|lane| self.word(bucket.into(), lane).or(other.word(bucket.into(), lane).get()));
    }

    /// Forgets these flows of a bucket on this side.
    #[cfg(not(target_arch = "bpf"))]
    pub fn forget(&self, bucket: u16, side: usize, flows: u64) {
        (0..EPOCHS).for_each(|epoch| self.word(bucket.into(), epoch * SIDES + side).clear(flows));
    }

    /// Forgets what was seen the last time that a bucket was in the epoch of `entry`, before it is again.
    pub fn renew(&self, bucket: u16, entry: Entry) {
        let lane = entry.lane();
        [lane, lane ^ 1].iter().for_each(|lane| self.word(bucket.into(), *lane).set(0));
    }

    /// Takes over all flows that live in `other`.
    #[cfg(not(target_arch = "bpf"))]
    pub fn merge(&self, other: &Self) {
        for (own, other) in self.lanes.iter().flatten().zip(other.lanes.iter().flatten()) {
            if other.get() & !own.get() != 0 {
                own.or(other.get());
            }
        }
    }

    #[inline(always)]
    fn word(&self, key: u32, lane: usize) -> &Shared<u64> {
        &self.lanes[lane & (LANES - 1)][key as usize & (BUCKETS - 1)]
    }
}

/// The bit of a flow's sub-bucket.
#[inline(always)]
const fn bit(key: u32) -> u64 {
    1 << (key >> 16 & (SUB_BUCKETS - 1))
}

#[cfg(any(test, feature = "model", feature = "user"))]
#[expect(unsafe_code, reason = "says that it is valid when zeroed")]
// SAFETY: all fields are `Shared` integers.
unsafe impl crate::shared::Zeroable for Activity {}

const _: () = assert!(size_of::<Activity>() == LANES * BUCKETS * 8 && LANES.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::Zeroable as _;

    /// The daemon's way into the next epoch.
    fn rotate(activity: &Activity, bucket: u16, entry: &mut Entry) {
        activity.renew(bucket, entry.aged());
        *entry = entry.aged();
    }

    #[test]
    fn a_flow_is_forgotten_after_three_epochs_without_it() {
        let activity = Activity::boxed();
        let (key, neighbour) = (0x0005_0009, 0x0006_0009);
        let mut entry = Entry::steady(0).turned();
        activity.mark(key, entry);
        assert_eq!((activity.live(9, 0), activity.live(9, 1)), (0, 1 << 5));
        rotate(&activity, 9, &mut entry);
        activity.mark(neighbour, entry);
        for _ in 0..EPOCHS - 2 {
            rotate(&activity, 9, &mut entry);
            assert_eq!(activity.live(9, 1), 0b11 << 5);
        }
        rotate(&activity, 9, &mut entry);
        assert_eq!(activity.live(9, 1), 1 << 6);
        activity.forget(9, 1, u64::MAX);
        assert_eq!(activity.live(9, 1), 0);
    }

    #[test]
    fn a_flow_that_goes_on_stays_for_ever() {
        let activity = Activity::boxed();
        let (old, new) = (0xffff_ffff, 0x0000_ffff);
        let mut entry = Entry::steady(0);
        activity.mark(old, entry);
        entry = entry.turned().with_slot(1).with_previous(0);
        for _ in 0..3 * EPOCHS {
            assert!(activity.stays(old, entry) && activity.stays(old, entry));
            assert!(!activity.stays(new, entry) && !activity.stays(new, entry));
            rotate(&activity, u16::MAX, &mut entry);
        }
        assert_eq!((activity.live(u16::MAX, 0), activity.live(u16::MAX, 1)), (1 << 63, 1));
    }

    #[test]
    fn another_map_takes_all_flows_over_with_their_age() {
        let (old, new) = (Activity::boxed(), Activity::boxed());
        let mut entry = Entry::steady(0).aged();
        old.mark(1, entry);
        new.mark(0x0001_0001, entry.turned());
        new.merge(&old);
        assert_eq!((new.live(1, 0), new.live(1, 1)), (1, 2));
        (0..EPOCHS - 1).for_each(|_| rotate(&new, 1, &mut entry));
        assert_eq!(new.live(1, 0), 1);
        rotate(&new, 1, &mut entry);
        assert_eq!(new.live(1, 0), 0);
    }
}
