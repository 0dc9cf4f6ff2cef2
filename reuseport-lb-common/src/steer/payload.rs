//! Affinity `payload`: datagrams with the same bytes at the same place belong together.

use xxhash_rust::xxh64::xxh64;

use super::{Hint, Packet, Steer};

/// Most bytes that a key is made of.
pub const MAX_LENGTH: usize = 16;

/// Length of a UDP header (RFC 768), behind which the payload begins.
pub const UDP_HEADER: u32 = 8;

/// Which bytes of a datagram's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Bytes {
    /// Of the first one, from the beginning of the payload.
    pub offset: u32,
    /// 1 to [`MAX_LENGTH`].
    pub length: u32,
}

impl Bytes {
    /// What stands in the object before it is patched.
    pub const NONE: Self = Self { offset: 0, length: 1 };
}

/// The key of so many bytes: XXH64 with seed 0, its low 32 bits.
#[inline(always)]
#[must_use]
pub fn payload_key(bytes: &[u8]) -> u32 {
    xxh64(bytes, 0) as u32
}

/// Some bytes of the payload of a datagram ([`Packet::payload`]); of one that is too short, `None`.
pub struct Payload;

impl Steer for Payload {
    #[inline(always)]
    fn hint(packet: &impl Packet) -> Option<Hint> {
        packet.payload().map(Hint::Key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_xxh64_of_just_these_bytes() {
        // The low half of XXH64("abc"), the reference's 44bc2cf5ad770999.
        assert_eq!(payload_key(b"abc"), 0xad77_0999);
        assert_ne!(payload_key(b"abc"), payload_key(b"abc\0"));
    }
}
