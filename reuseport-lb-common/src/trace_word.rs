//! A traced decision, as the program logs it and the daemon reads it: one word, and the client.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::counters::{Counter, EVENTS};

/// What is logged of a decision besides the client. In one word, because the verifier follows the writing of a line once for
/// each size that it may have, number by number (KERNEL.md 80).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceWord {
    /// What the decision was made of.
    pub key: u32,
    /// The selected slot, or [`crate::slots::NO_SLOT`].
    pub slot: u16,
    /// Indices of counters: why the program ran; what became of the bucket's own worker; who was asked instead, or
    /// [`EVENTS`]. Each is at most [`EVENTS`].
    pub counters: [u32; 3],
}

/// Bits of an index; the first one has only what the others leave of a word.
const INDEX_BITS: u32 = 6;

impl TraceWord {
    /// All of it in one word.
    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> u64 {
        let [arrival, owner, detour] = self.counters;
        let counters = (arrival << INDEX_BITS | owner) << INDEX_BITS | detour;
        (counters as u64) << 48 | (self.slot as u64) << 32 | self.key as u64
    }

    /// The inverse of [`TraceWord::pack`].
    #[must_use]
    pub fn unpack(word: u64) -> Self {
        let counters = (word >> 48) as u32;
        let index = |nth| counters >> (nth * INDEX_BITS) & ((1 << INDEX_BITS) - 1);
        Self { key: word as u32, slot: (word >> 32) as u16, counters: [index(2), index(1), index(0)] }
    }
}

/// Bytes of a [`TraceLine`].
pub const LINE: usize = size_of::<TraceLine>();

/// All that is logged of a decision, as one argument of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TraceLine {
    /// A [`TraceWord`].
    pub word: u64,
    /// The client's address, of [`TraceLine::family`]: an IPv4 one has the first four bytes.
    pub address: [u8; 16],
    /// The client's port, in network byte order.
    pub port: [u8; 2],
    /// One of [`family`].
    pub family: u8,
    /// So that no byte of a line is undefined.
    pub rest: [u8; 5],
}

/// What [`TraceLine::address`] is.
pub mod family {
    /// Neither address nor port could be read.
    pub const NONE: u8 = 0;
    /// An IPv4 address.
    pub const V4: u8 = 4;
    /// An IPv6 address, perhaps an IPv4-mapped one.
    pub const V6: u8 = 6;
}

impl TraceLine {
    /// The line of these bytes.
    #[must_use]
    pub fn of(bytes: [u8; LINE]) -> Self {
        let [w0, w1, w2, w3, w4, w5, w6, w7, rest @ ..] = bytes;
        let mut line = Self { word: u64::from_ne_bytes([w0, w1, w2, w3, w4, w5, w6, w7]), ..Self::default() };
        line.address.copy_from_slice(&rest[..16]);
        line.port.copy_from_slice(&rest[16..18]);
        line.family = rest[18];
        line
    }

    /// Address and port of the client, an IPv4-mapped address as the IPv4 one; `None` if they could not be read.
    #[must_use]
    pub fn client(&self) -> Option<SocketAddr> {
        let address: IpAddr = match self.family {
            family::V4 => [self.address[0], self.address[1], self.address[2], self.address[3]].into(),
            family::V6 => Ipv6Addr::from(self.address).to_canonical(),
            _ => return None,
        };
        Some((address, u16::from_be_bytes(self.port)).into())
    }
}

const _: () = assert!(LINE == 32);
const _: () = assert!(EVENTS < 1 << INDEX_BITS);
const _: () = assert!((Counter::Packet as u32) < 16 && (Counter::Migration as u32) < 16);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::{MAX_SLOTS, NO_SLOT};

    #[test]
    fn a_word_has_all_of_a_decision() {
        for key in [0, 1, 0x8000_0001, u32::MAX] {
            for slot in [0, MAX_SLOTS as u16 - 1, NO_SLOT] {
                for arrival in [Counter::Packet, Counter::Migration] {
                    for (owner, detour) in [(0, EVENTS), (EVENTS - 1, 1)] {
                        let counters = [arrival as u32, owner as u32, detour as u32];
                        let traced = TraceWord { key, slot, counters };
                        assert_eq!(TraceWord::unpack(traced.pack()), traced);
                    }
                }
            }
        }
    }

    #[test]
    fn a_line_has_the_client() {
        let mut bytes = [0; LINE];
        bytes[..8].copy_from_slice(&7u64.to_ne_bytes());
        bytes[8..12].copy_from_slice(&[192, 0, 2, 7]);
        bytes[24..26].copy_from_slice(&40_000u16.to_be_bytes());
        let client = |bytes| TraceLine::of(bytes).client();
        assert_eq!((TraceLine::of(bytes).word, client(bytes)), (7, None));
        bytes[26] = family::V4;
        assert_eq!(client(bytes), "192.0.2.7:40000".parse().ok());
        bytes[26] = family::V6;
        assert_eq!(client(bytes), "[c000:207::]:40000".parse().ok());
        bytes[8..24].copy_from_slice(&"::ffff:192.0.2.8".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(client(bytes), "192.0.2.8:40000".parse().ok());
    }
}
