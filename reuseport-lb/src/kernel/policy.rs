//! What a group's program is made for.

use reuseport_lb_common::program::Steering;

use crate::config::{Affinity, Flows, WhenBusy};
use crate::domain::listener::{Listener, Protocol};

/// What a group's program is made for; another one needs another program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// What a key is made of.
    pub affinity: Affinity,
    /// What happens to connections whose worker is busy; datagrams always go to their worker.
    pub when_busy: WhenBusy,
    /// Whether the program of a UDP listener marks flows.
    pub flows: Flows,
}

impl Policy {
    /// Whether the program of `listener` marks flows.
    pub(super) fn tracks(self, listener: &Listener) -> bool {
        listener.protocol == Protocol::Udp && self.flows == Flows::Track
    }

    /// How the program of `listener` makes a key.
    pub(super) fn steering(self, listener: &Listener) -> Steering {
        match self.affinity {
            Affinity::Flow => Steering::Flow,
            Affinity::Source if listener.dual_stack => Steering::SourceAny,
            Affinity::Source if listener.address.is_ipv6() => Steering::SourceV6,
            Affinity::Source => Steering::SourceV4,
            Affinity::Random => Steering::Random,
            Affinity::Cpu => Steering::Cpu,
        }
    }
}
