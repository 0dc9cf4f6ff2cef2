//! Affinity `cpu`: what one CPU receives belongs together.

use super::{Hint, Packet, Steer};

/// The CPU that receives the packet; the kernel's hash of the 4-tuple where its worker cannot be taken.
pub struct Cpu;

impl Steer for Cpu {
    #[inline(always)]
    fn hint(packet: &impl Packet) -> Option<Hint> {
        Some(Hint::Cpu { cpu: packet.cpu(), key: packet.hash() })
    }
}
