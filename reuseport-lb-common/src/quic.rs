//! Connection ids of QUIC that say whose they are: those of QUIC-LB, not encrypted (draft-ietf-quic-load-balancers-21,
//! 5.1). Not: the ids themselves, which servers make.
//!
//! ```text
//! connection id   first octet │ server id, 4 or 8 bytes │ the server's own
//!                 0b111.....: not one of these
//! server id       the worker's tag, high bits │ its slot, scrambled, low 11 bits
//! ```
//!
//! A tag is drawn anew whenever a slot gets a worker, so that an id of one that is gone is nobody's, and goes by its flow.

use crate::slots::MAX_SLOTS;

/// How connection ids of a group look. In the program's read-only data, patched before it is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Format {
    /// Bytes of a server id: 4 or 8.
    pub server_id: u32,
    /// Place of the server id's first byte in the connection id: after the first octet, so from 1 on.
    pub offset: u32,
    /// Bytes of a connection id that servers make: at most [`LONGEST`].
    pub length: u32,
    /// Scrambles slots: another word for each service. Its lower and its upper half.
    pub word: [u32; 2],
}

/// Most bytes of a connection id (RFC 9000, 17.2).
pub const LONGEST: usize = 20;

/// Most bytes of a server id.
pub const LONGEST_SERVER_ID: usize = 8;

/// Bits of a server id that are the slot.
const SLOT_BITS: u32 = MAX_SLOTS.trailing_zeros();

/// The first octet's upper bits, where an id is not to be routed (5.1 of the draft).
const UNROUTABLE: u8 = 0b111 << 5;

/// The bit of a packet's first byte that says that it has a long header (RFC 8999, 5.1).
const LONG: u8 = 0x80;

/// Where a long header has the length of its destination's connection id, and that itself (RFC 8999, 5.1).
const LONG_LENGTH: usize = 5;
const LONG_ID: usize = 6;

/// Where a short header has its destination's connection id (RFC 8999, 5.2).
const SHORT_ID: usize = 1;

/// Bytes at the beginning of a datagram that may have to be read, of a format with this offset and length of server ids.
/// A packet that can be anything but a probe has more.
#[must_use]
pub const fn read(offset: usize, server_id: usize) -> usize {
    LONG_ID + offset + server_id
}

/// Most of those: the server id is within the longest connection id.
pub const MOST_READ: usize = LONG_ID + LONGEST;

impl Format {
    /// What stands in the object before it is patched.
    pub const NONE: Self = Self { server_id: 4, offset: 1, length: 11, word: [0; 2] };

    /// The server id of the worker with this tag in `slot`, as a number whose bytes are in network order. Of the tag only
    /// what there is room for is used: see [`Format::cut`].
    #[must_use]
    pub fn id(&self, slot: u16, tag: u64) -> u64 {
        let tag = self.cut(tag);
        tag << SLOT_BITS | u64::from(slot ^ self.scrambled(tag))
    }

    /// Slot and tag of a server id.
    #[inline(always)]
    #[must_use]
    pub fn parts(&self, id: u64) -> (u16, u64) {
        let tag = id >> SLOT_BITS;
        ((id as u16 & SLOT_MASK) ^ self.scrambled(tag), tag)
    }

    /// As much of a tag as a server id has room for: 21 or 53 bits.
    #[must_use]
    pub fn cut(&self, tag: u64) -> u64 {
        let bits = 8 * self.server_id - SLOT_BITS;
        tag & (u64::MAX >> (64 - bits))
    }

    /// What a slot is combined with, so that slots do not show (MurmurHash3's finalizer).
    #[inline(always)]
    fn scrambled(&self, tag: u64) -> u16 {
        let [low, high] = self.word;
        let mut mixed = tag ^ (u64::from(high) << 32 | u64::from(low));
        mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        (mixed ^ (mixed >> 33)) as u16 & SLOT_MASK
    }

    /// The server id in the beginning of a datagram; `None` if its connection id has another length, or says that it is not to
    /// be routed.
    #[inline(always)]
    #[must_use]
    pub fn server_id(&self, start: &impl Start) -> Option<u64> {
        let at = if start.byte(0) & LONG == 0 {
            SHORT_ID
        } else {
            if u32::from(start.byte(LONG_LENGTH)) != self.length {
                return None;
            }
            LONG_ID
        };
        if start.byte(at) & UNROUTABLE == UNROUTABLE {
            return None;
        }
        // Constants for the verifier, but not for the compiler, which would follow each.
        let at = at + (self.offset as usize).min(LONGEST - LONGEST_SERVER_ID);
        let high = u64::from(start.word(at));
        Some(if self.server_id == 4 { high } else { high << 32 | u64::from(start.word(at + 4)) })
    }
}

/// The beginning of a datagram, behind its UDP header: as many bytes as [`read`] says.
pub trait Start {
    /// The byte at this place.
    fn byte(&self, at: usize) -> u8;
    /// The four bytes from this place on, of which the first is the highest.
    fn word(&self, at: usize) -> u32;
}

impl Start for [u8; MOST_READ] {
    #[inline(always)]
    fn byte(&self, at: usize) -> u8 {
        self.get(at).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn word(&self, at: usize) -> u32 {
        let bytes = self.get(at..).and_then(|rest| rest.first_chunk::<4>());
        bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }
}

const SLOT_MASK: u16 = MAX_SLOTS as u16 - 1;

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeSet;

    use super::*;

    fn datagram(bytes: &[u8]) -> [u8; MOST_READ] {
        let mut start = [0; MOST_READ];
        start[..bytes.len()].copy_from_slice(bytes);
        start
    }

    #[test]
    fn an_id_has_slot_and_tag_of_either_length() {
        for server_id in [4, 8] {
            let format = Format { server_id, word: [0x1234_5678, 0x9abc_def0], ..Format::NONE };
            let mut all = BTreeSet::new();
            for slot in 0..MAX_SLOTS as u16 {
                let tag = 0x0102_0304_0506_0708_u64.wrapping_mul(u64::from(slot) + 1);
                let id = format.id(slot, tag);
                assert_eq!(format.parts(id), (slot, format.cut(tag)));
                assert!(server_id == 8 || id <= u32::MAX.into());
                assert!(all.insert(id));
            }
        }
    }

    /// Where ids are in packets: RFC 8999; and which are not to be routed: 5.1 of the draft.
    #[test]
    fn ids_are_found_in_long_and_in_short_headers() {
        let format = Format { server_id: 4, offset: 1, length: 11, word: [0; 2] };
        let id = [0x0b, 0xc4, 0x60, 0x5e, 0x00, 1, 2, 3, 4, 5, 6];
        let short = [&[0x40][..], &id].concat();
        assert_eq!(format.server_id(&datagram(&short)), Some(0xc460_5e00));
        let long = [&[0xc0, 0, 0, 0, 1, 11][..], &id].concat();
        assert_eq!(format.server_id(&datagram(&long)), Some(0xc460_5e00));
        let other_length = [&[0xc0, 0, 0, 0, 1, 8][..], &id[..8]].concat();
        assert_eq!(format.server_id(&datagram(&other_length)), None);
        let unroutable = [&[0x40, 0xeb][..], &id[1..]].concat();
        assert_eq!(format.server_id(&datagram(&unroutable)), None);
        let eight = Format { server_id: 8, length: 17, ..format };
        assert_eq!(eight.server_id(&datagram(&short)), Some(0xc460_5e00_0102_0304));
    }
}
