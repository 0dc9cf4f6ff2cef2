//! Affinity `random`: nothing belongs together.

use super::{Packet, Steer};

/// A random number: each connection and each datagram goes to a worker by chance, by its weight.
pub struct Random;

impl Steer for Random {
    #[inline(always)]
    fn key(packet: &impl Packet) -> Option<u32> {
        Some(packet.random())
    }
}
