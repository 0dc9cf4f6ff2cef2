//! What is hashed: from a client's address to the 32-bit key of a decision. With `flow` affinity
//! the kernel's own hash is the key and nothing here runs.

use xxhash_rust::xxh64::xxh64;

const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// The key of an IPv4 client (network byte order): XXH64 with seed 0, its low 32 bits.
#[inline(always)]
#[must_use]
pub fn source_v4(address: [u8; 4]) -> u32 {
    xxh64(&address, 0) as u32
}

/// The key of an IPv6 client; an IPv4-mapped address (RFC 4291, 2.5.5.2) has its IPv4 key.
#[inline(always)]
#[must_use]
pub fn source_v6(address: [u8; 16]) -> u32 {
    if address[..12] == MAPPED {
        source_v4([address[12], address[13], address[14], address[15]])
    } else {
        xxh64(&address, 0) as u32
    }
}

/// The key of the `nth` next candidate of `key`: another bucket for the same client. The final
/// mix of MurmurHash3 (32 bits), so that keys of one bucket do not share their candidates; but its last
/// step brings the upper half down with a rotation. Verifiers before Linux 6.10 know nothing of the
/// XOR of two bounded numbers, and the compiler masks them before it.
#[inline(always)]
#[must_use]
pub fn candidate(key: u32, nth: u32) -> u32 {
    let mut h = key ^ nth.wrapping_mul(0x9e37_79b9);
    h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
    h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
    h.rotate_left(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_equals_its_ipv4_address() {
        let mut mapped = [0; 16];
        mapped[10..12].fill(0xff);
        mapped[12..].copy_from_slice(&[192, 0, 2, 7]);
        assert_eq!(source_v6(mapped), source_v4([192, 0, 2, 7]));
        mapped[0] = 1;
        assert_ne!(source_v6(mapped), source_v4([192, 0, 2, 7]));
    }

    #[test]
    fn the_key_is_xxh64_of_the_bytes() {
        // Reference value of XXH64("", seed 0) is ef46db3751d8e999; four bytes checked with xxhsum.
        assert_eq!(source_v4([127, 0, 0, 1]), xxh64(&[127, 0, 0, 1], 0) as u32);
        assert_eq!(xxh64(&[], 0), 0xef46_db37_51d8_e999);
    }

    #[test]
    fn candidates_of_one_key_fall_into_different_buckets() {
        for key in (0..1_000_000u32).step_by(997) {
            let buckets = [1, 2, 3, 4].map(|nth| candidate(key, nth) & 0xffff);
            assert!(buckets.iter().filter(|b| **b == key & 0xffff).count() <= 1);
        }
    }
}
