//! Affinity `source`: packets of one client address belong together.

use xxhash_rust::xxh64::xxh64;

use super::{Hint, Packet, Steer};

/// Offset of the source address in an IPv4 header (RFC 791).
pub const V4_SOURCE: u32 = 12;
/// Offset of the source address in an IPv6 header (RFC 8200).
pub const V6_SOURCE: u32 = 8;

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
    fn hint(packet: &impl Packet) -> Option<Hint> {
        // Hashed in one place whichever way the address came, so that the verifier follows one of them.
        let address =
            if packet.is_migrating() { packet.migrating_v4() } else { packet.network_header(V4_SOURCE)? };
        Some(Hint::Key(source_v4(address)))
    }
}

/// The client's address, of an IPv6 header.
pub struct SourceV6;

impl Steer for SourceV6 {
    #[inline(always)]
    fn hint(packet: &impl Packet) -> Option<Hint> {
        let address =
            if packet.is_migrating() { packet.migrating_v6() } else { packet.network_header(V6_SOURCE)? };
        Some(Hint::Key(source_v6(address)))
    }
}

/// The client's address, of an IPv4 or an IPv6 header: a dual-stack socket receives both.
pub struct SourceAny;

impl Steer for SourceAny {
    #[inline(always)]
    fn hint(packet: &impl Packet) -> Option<Hint> {
        // Hashed in two places only, so that the verifier follows few ways.
        let address = if packet.is_migrating() {
            packet.migrating_v6()
        } else if packet.is_v4() {
            mapped(packet.network_header(V4_SOURCE)?)
        } else {
            packet.network_header(V6_SOURCE)?
        };
        Some(Hint::Key(source_v6(address)))
    }
}

/// The IPv4-mapped address of `v4`.
#[inline(always)]
fn mapped(v4: [u8; 4]) -> [u8; 16] {
    let mut address = [0; 16];
    address[..12].copy_from_slice(&MAPPED);
    address[12..].copy_from_slice(&v4);
    address
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::net::Ipv6Addr;

    use super::*;

    #[test]
    fn a_mapped_address_equals_its_ipv4_address() {
        let mut address = mapped([192, 0, 2, 7]);
        assert_eq!(address, "::ffff:192.0.2.7".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(source_v6(address), source_v4([192, 0, 2, 7]));
        address[0] = 1;
        assert_ne!(source_v6(address), source_v4([192, 0, 2, 7]));
    }

    /// What reaches a dual-stack socket.
    enum Arrival {
        V4([u8; 4]),
        V6([u8; 16]),
        Migrating([u8; 16]),
        Unreadable,
    }

    impl Packet for Arrival {
        fn hash(&self) -> u32 {
            0
        }

        fn random(&self) -> u32 {
            unreachable!("addresses are hashed")
        }

        fn cpu(&self) -> u32 {
            unreachable!("addresses are hashed")
        }

        fn is_migrating(&self) -> bool {
            matches!(self, Self::Migrating(_))
        }

        fn is_v4(&self) -> bool {
            matches!(self, Self::V4(_))
        }

        fn network_header<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
            match (self, offset) {
                (Self::V4(address), V4_SOURCE) => address[..].try_into().ok(),
                (Self::V6(address), V6_SOURCE) => address[..].try_into().ok(),
                _ => None,
            }
        }

        fn payload(&self) -> Option<u32> {
            unreachable!("addresses are hashed")
        }

        fn own(&self) -> u32 {
            unreachable!("addresses are hashed")
        }

        fn migrating_v4(&self) -> [u8; 4] {
            unreachable!("a dual-stack socket is an IPv6 one")
        }

        fn migrating_v6(&self) -> [u8; 16] {
            match self {
                Self::Migrating(address) => *address,
                _ => unreachable!("there is a packet"),
            }
        }
    }

    #[test]
    fn a_client_of_a_dual_stack_socket_has_one_key_whichever_way_it_comes() {
        let v4 = [192, 0, 2, 7];
        let v6 = "2001:db8::7".parse::<Ipv6Addr>().unwrap().octets();
        for (arrival, key) in [
            (Arrival::V4(v4), source_v4(v4)),
            (Arrival::Migrating(mapped(v4)), source_v4(v4)),
            (Arrival::V6(v6), source_v6(v6)),
            (Arrival::Migrating(v6), source_v6(v6)),
        ] {
            assert_eq!(SourceAny::hint(&arrival), Some(Hint::Key(key)));
        }
        assert_eq!(SourceAny::hint(&Arrival::Unreadable), None);
    }

    #[test]
    fn the_key_is_xxh64_of_the_bytes() {
        // Reference value of XXH64("", seed 0) is ef46db3751d8e999; four bytes checked with xxhsum.
        assert_eq!(source_v4([127, 0, 0, 1]), xxh64(&[127, 0, 0, 1], 0) as u32);
        assert_eq!(xxh64(&[], 0), 0xef46_db37_51d8_e999);
    }
}
