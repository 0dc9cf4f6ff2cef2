//! Affinity `random`: nothing belongs together.

use super::{Hint, Packet, Steer};

/// A random number: each connection and each datagram goes to a worker by chance, by its weight.
pub struct Random;

impl Steer for Random {
    #[inline(always)]
    fn hint(packet: &impl Packet) -> Option<Hint> {
        Some(Hint::Key(packet.random()))
    }
}
