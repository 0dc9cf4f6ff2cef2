//! Affinity `flow`: packets of one 4-tuple belong together.

use super::{Packet, Steer};

/// The kernel's hash of the 4-tuple.
pub struct Flow;

impl Steer for Flow {
    #[inline(always)]
    fn key(packet: &impl Packet) -> Option<u32> {
        Some(packet.hash())
    }
}
