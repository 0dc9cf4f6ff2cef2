//! What a group's program is made for.

use reuseport_lb_common::program::{Kind, Steering};
use reuseport_lb_common::quic::Format;
use reuseport_lb_common::steer::Bytes;

use crate::config::{Affinity, Balance, Flows, KeyFunction, PayloadBytes, WhenBusy};
use crate::domain::listener::{Listener, Protocol};

/// What a group's program is made for; another one needs another program.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// What a key is made of.
    pub affinity: Affinity,
    /// What happens to connections whose worker is busy; datagrams always go to their worker.
    pub when_busy: WhenBusy,
    /// Which worker gets a connection.
    pub balance: Balance,
    /// Whether live connections are counted.
    pub counts: bool,
    /// Whether the program of a UDP listener marks flows.
    pub flows: Flows,
    /// How connection ids of QUIC name workers, if they do.
    pub quic: Option<Format>,
}

impl Policy {
    /// The kind of program for `listener`.
    pub(super) fn kind(&self, listener: &Listener) -> Kind {
        match (listener.protocol, self.when_busy, self.balance) {
            (Protocol::Udp, ..) if self.quic.is_some() => Kind::Quic,
            (Protocol::Udp, ..) if self.flows == Flows::Track => Kind::Tracked,
            (Protocol::Udp, ..) => Kind::Plain,
            (Protocol::Tcp, _, Balance::Least) => Kind::Least,
            (Protocol::Tcp, _, Balance::Bounded(_)) => Kind::Bounded,
            (Protocol::Tcp, WhenBusy::Next, Balance::Table) if self.counts => Kind::CountedWaiting,
            (Protocol::Tcp, WhenBusy::Next, Balance::Table) => Kind::PreferWaiting,
            (Protocol::Tcp, WhenBusy::Queue, Balance::Table) if self.counts => Kind::Counted,
            (Protocol::Tcp, WhenBusy::Queue, Balance::Table) => Kind::Plain,
        }
    }

    /// Which bytes of a datagram's payload a key is made of, where it is.
    pub(super) fn bytes(&self) -> Bytes {
        match self.affinity {
            Affinity::Payload(PayloadBytes { offset, length }) => {
                Bytes { offset: offset.into(), length: length.into() }
            }
            _ => Bytes::NONE,
        }
    }

    /// The user's function that makes a key, where one does.
    pub(super) fn key_function(&self) -> Option<&KeyFunction> {
        match &self.affinity {
            Affinity::Program(function) => Some(function),
            _ => None,
        }
    }

    /// How the program of `listener` makes a key.
    pub(super) fn steering(&self, listener: &Listener) -> Steering {
        match self.affinity {
            Affinity::Flow => Steering::Flow,
            Affinity::Source if listener.dual_stack => Steering::SourceAny,
            Affinity::Source if listener.address.is_ipv6() => Steering::SourceV6,
            Affinity::Source => Steering::SourceV4,
            Affinity::Random => Steering::Random,
            Affinity::Cpu => Steering::Cpu,
            Affinity::Payload(_) => Steering::Payload,
            Affinity::Program(_) => Steering::Own,
        }
    }
}

/// Whether a kind of program reads where the kernel keeps something (`offsets.rs`), and the kind to go on with where that
/// cannot be found out.
pub(super) fn without_offsets(kind: Kind) -> Option<Kind> {
    match kind {
        Kind::PreferWaiting => Some(Kind::Plain),
        Kind::CountedWaiting | Kind::Least | Kind::Bounded => Some(Kind::Counted),
        Kind::Plain | Kind::Tracked | Kind::Quic | Kind::Counted => None,
    }
}
