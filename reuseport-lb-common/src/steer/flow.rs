//! Affinity `flow`: packets of one 4-tuple belong together.

use super::{Hint, Packet, Steer};

/// The kernel's hash of the 4-tuple.
pub struct Flow;

impl Steer for Flow {
    #[inline(always)]
    fn hint(packet: &impl Packet) -> Option<Hint> {
        Some(Hint::Key(packet.hash()))
    }
}
