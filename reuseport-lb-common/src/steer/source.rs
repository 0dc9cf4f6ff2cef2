//! Affinity `source`: packets of one client address belong together.

use xxhash_rust::xxh64::xxh64;

use super::{Packet, Steer};

/// Offset of the source address in an IPv4 header (RFC 791).
const V4_SOURCE: u32 = 12;
/// Offset of the source address in an IPv6 header (RFC 8200).
const V6_SOURCE: u32 = 8;

/// How an IPv4-mapped address begins (RFC 4291, 2.5.5.2).
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// The key of an IPv4 client (network byte order): XXH64 with seed 0, its low 32 bits.
#[inline(always)]
#[must_use]
pub fn source_v4(address: [u8; 4]) -> u32 {
    xxh64(&address, 0) as u32
}

/// The key of an IPv6 client; an IPv4-mapped address has its IPv4 key.
#[inline(always)]
#[must_use]
pub fn source_v6(address: [u8; 16]) -> u32 {
    if address[..12] == MAPPED {
        source_v4([address[12], address[13], address[14], address[15]])
    } else {
        xxh64(&address, 0) as u32
    }
}

/// The client's address, of an IPv4 header.
pub struct SourceV4;

impl Steer for SourceV4 {
    #[inline(always)]
    fn key(packet: &impl Packet) -> Option<u32> {
        // Hashed in one place whichever way the address came, so that the verifier follows one of them.
        let address =
            if packet.is_migrating() { packet.migrating_v4() } else { packet.network_header(V4_SOURCE)? };
        Some(source_v4(address))
    }
}

/// The client's address, of an IPv6 header.
pub struct SourceV6;

impl Steer for SourceV6 {
    #[inline(always)]
    fn key(packet: &impl Packet) -> Option<u32> {
        let address =
            if packet.is_migrating() { packet.migrating_v6() } else { packet.network_header(V6_SOURCE)? };
        Some(source_v6(address))
    }
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
}
