//! Affinity `program`: a function that the user brings says what belongs together.

use super::{Hint, Packet, Steer};

/// What it returns if it has no key for a packet.
pub const NO_KEY: u32 = u32::MAX;

/// Multiplier of [`spread`]: 2^32 by the golden ratio (Knuth, The Art of Computer Programming, vol. 3, 6.4).
const FIBONACCI: u32 = 0x9e37_79b1;

/// The key that decides, of the one that the user's function has returned: another one for each. Users return what tells
/// sessions apart, such as numbers that count up, in whichever byte order, and a bucket is the lower half of a key.
#[inline(always)]
#[must_use]
pub const fn spread(own: u32) -> u32 {
    let key = own.wrapping_mul(FIBONACCI);
    key ^ key >> 16
}

/// The key that the user's function makes ([`Packet::own`]); `None` of a packet that it has none for, and the kernel's hash of
/// a connection that is being migrated, of which there is no packet.
pub struct Own;

impl Steer for Own {
    #[inline(always)]
    fn hint(packet: &impl Packet) -> Option<Hint> {
        if packet.is_migrating() {
            return Some(Hint::Key(packet.hash()));
        }
        let own = packet.own();
        (own != NO_KEY).then(|| Hint::Key(spread(own)))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::HashSet;

    use super::*;

    #[test]
    fn numbers_that_count_up_in_any_byte_order_have_buckets_of_their_own() {
        for step in [1, 1 << 8, 1 << 16, 2, 1_000] {
            let buckets: HashSet<u16> =
                (0..1_000u32).map(|at| spread(at.wrapping_mul(step)) as u16).collect();
            // Of so many by chance: 65,536 x (1 - e^(-1,000 / 65,536)) = 992.
            assert!(buckets.len() >= 980, "{step}: {}", buckets.len());
        }
    }
}
