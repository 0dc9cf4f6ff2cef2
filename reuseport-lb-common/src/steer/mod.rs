//! From a packet to its key: one file per affinity. Not: what becomes of the key.

mod flow;
mod random;
mod source;

pub use flow::Flow;
pub use random::Random;
pub use source::{SourceAny, SourceV4, SourceV6, V4_SOURCE, V6_SOURCE, source_v4, source_v6};

/// What steering reads of a packet, or of the connection that is being migrated.
pub trait Packet {
    /// The kernel's hash of the 4-tuple: secret per boot and network namespace, and equal for all packets of a
    /// flow and for its migration.
    fn hash(&self) -> u32;
    /// A random number, another one each time.
    fn random(&self) -> u32;
    /// Whether a connection is being migrated. There is no packet then.
    fn is_migrating(&self) -> bool;
    /// Whether the packet is an IPv4 one. Of no meaning for a connection that is being migrated.
    fn is_v4(&self) -> bool;
    /// Bytes of the network header, from `offset` on; `None` if they cannot be read.
    fn network_header<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
    /// The client's address, of an IPv4 connection that is being migrated.
    fn migrating_v4(&self) -> [u8; 4];
    /// The client's address, of a connection of an IPv6 socket that is being migrated; IPv4-mapped for an IPv4 client.
    fn migrating_v6(&self) -> [u8; 16];
}

/// An affinity: what a key is made of, and so which packets belong together.
pub trait Steer {
    /// The key of `packet`; `None` if what it is made of cannot be read. [`Packet::hash`] is taken then.
    fn key(packet: &impl Packet) -> Option<u32>;
}
