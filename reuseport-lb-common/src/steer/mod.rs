//! From a packet to where it belongs: one file per affinity. Not: what becomes of it there.

mod cpu;
mod flow;
mod own;
mod payload;
mod random;
mod source;

pub use cpu::Cpu;
pub use flow::Flow;
pub use own::{NO_KEY, Own, spread};
pub use payload::{Bytes, MAX_LENGTH, Payload, UDP_HEADER, payload_key};
pub use random::Random;
pub use source::{SourceAny, SourceV4, SourceV6, V4_SOURCE, V6_SOURCE, source_v4, source_v6};

/// What steering reads of a packet, or of the connection that is being migrated.
pub trait Packet {
    /// The kernel's hash of the 4-tuple: secret per boot and network namespace, and equal for all packets of a
    /// flow and for its migration.
    fn hash(&self) -> u32;
    /// A random number, another one each time.
    fn random(&self) -> u32;
    /// The CPU that receives the packet.
    fn cpu(&self) -> u32;
    /// Whether a connection is being migrated. There is no packet then.
    fn is_migrating(&self) -> bool;
    /// Whether the packet is an IPv4 one. Of no meaning for a connection that is being migrated.
    fn is_v4(&self) -> bool;
    /// Bytes of the network header, from `offset` on; `None` if they cannot be read.
    fn network_header<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
    /// The key of the bytes of a datagram's payload that the group is made for; `None` if it has fewer.
    fn payload(&self) -> Option<u32>;
    /// What the user's function returns: a key, or [`NO_KEY`]. Not for a connection that is being migrated.
    fn own(&self) -> u32;
    /// The client's address, of an IPv4 connection that is being migrated.
    fn migrating_v4(&self) -> [u8; 4];
    /// The client's address, of a connection of an IPv6 socket that is being migrated; IPv4-mapped for an IPv4 client.
    fn migrating_v6(&self) -> [u8; 16];
}

/// Where a packet belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// To the worker of this key's bucket.
    Key(u32),
    /// To the worker of a CPU; to that of the key's bucket for a connection that is being migrated.
    Cpu {
        /// Number of the CPU.
        cpu: u32,
        /// What else is chosen by, where that worker cannot be taken.
        key: u32,
    },
}

impl Hint {
    /// The key.
    #[inline(always)]
    #[must_use]
    pub const fn key(self) -> u32 {
        match self {
            Self::Key(key) | Self::Cpu { key, .. } => key,
        }
    }
}

impl From<u32> for Hint {
    #[inline(always)]
    fn from(key: u32) -> Self {
        Self::Key(key)
    }
}

/// An affinity: what a decision is made from, and so which packets belong together.
pub trait Steer {
    /// Where `packet` belongs; `None` if what that is made of cannot be read. The key is [`Packet::hash`] then.
    fn hint(packet: &impl Packet) -> Option<Hint>;
}
