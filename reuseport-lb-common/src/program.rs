//! The kernel programs: which there are, and what each is made for. The one list for both sides.

/// Calls a macro with all programs: `name: Kind, Steering;` of each, where [`Kind`] and [`Steering`] have the
/// variants, and the kernel program has types of the same names. The kernel cuts names after 15 characters.
#[macro_export]
macro_rules! programs {
    ($with:ident) => {
        $with! {
            rlb_tcp_flow: Plain, Flow;
            rlb_tcp_source4: Plain, SourceV4;
            rlb_tcp_source6: Plain, SourceV6;
            rlb_tcp_source: Plain, SourceAny;
            rlb_tcp_random: Plain, Random;
            rlb_tcp_cpu: Plain, Cpu;
            rlb_one_payload: Plain, Payload;
            rlb_one_own: Plain, Own;
            rlb_idle_flow: PreferWaiting, Flow;
            rlb_idle_src4: PreferWaiting, SourceV4;
            rlb_idle_src6: PreferWaiting, SourceV6;
            rlb_idle_source: PreferWaiting, SourceAny;
            rlb_idle_random: PreferWaiting, Random;
            rlb_idle_cpu: PreferWaiting, Cpu;
            rlb_idle_own: PreferWaiting, Own;
            rlb_udp_flow: Tracked, Flow;
            rlb_udp_source4: Tracked, SourceV4;
            rlb_udp_source6: Tracked, SourceV6;
            rlb_udp_source: Tracked, SourceAny;
            rlb_udp_payload: Tracked, Payload;
            rlb_udp_own: Tracked, Own;
            rlb_quic_flow: Quic, Flow;
            rlb_quic_src4: Quic, SourceV4;
            rlb_quic_src6: Quic, SourceV6;
            rlb_quic_source: Quic, SourceAny;
        }
    };
}

/// As [`programs!`], of those in the object for services whose connections are counted.
#[macro_export]
macro_rules! counting_programs {
    ($with:ident) => {
        $with! {
            rlb_live_flow: Counted, Flow;
            rlb_live_src4: Counted, SourceV4;
            rlb_live_src6: Counted, SourceV6;
            rlb_live_src: Counted, SourceAny;
            rlb_live_rand: Counted, Random;
            rlb_live_cpu: Counted, Cpu;
            rlb_live_own: Counted, Own;
            rlb_lidle_flow: CountedWaiting, Flow;
            rlb_lidle_src4: CountedWaiting, SourceV4;
            rlb_lidle_src6: CountedWaiting, SourceV6;
            rlb_lidle_src: CountedWaiting, SourceAny;
            rlb_lidle_rand: CountedWaiting, Random;
            rlb_lidle_cpu: CountedWaiting, Cpu;
            rlb_lidle_own: CountedWaiting, Own;
            rlb_least_flow: Least, Flow;
            rlb_least_src4: Least, SourceV4;
            rlb_least_src6: Least, SourceV6;
            rlb_least_src: Least, SourceAny;
            rlb_least_rand: Least, Random;
            rlb_least_cpu: Least, Cpu;
            rlb_least_own: Least, Own;
            rlb_bound_flow: Bounded, Flow;
            rlb_bound_src4: Bounded, SourceV4;
            rlb_bound_src6: Bounded, SourceV6;
            rlb_bound_src: Bounded, SourceAny;
            rlb_bound_rand: Bounded, Random;
            rlb_bound_cpu: Bounded, Cpu;
            rlb_bound_own: Bounded, Own;
        }
    };
}

/// What a group is besides its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Every decision begins a flow: TCP.
    Plain,
    /// As [`Kind::Plain`], and new connections prefer workers that wait for work (`when_busy = "next"`).
    PreferWaiting,
    /// Flows are more than one decision, and live flows stay: UDP.
    Tracked,
    /// As [`Kind::Tracked`], and connection ids of QUIC say whose they are.
    Quic,
    /// As [`Kind::Plain`], and live connections are counted.
    Counted,
    /// As [`Kind::PreferWaiting`], and live connections are counted.
    CountedWaiting,
    /// New connections go to the worker with the fewest (`balance = "least"`).
    Least,
    /// New connections go past a worker that has many more than its share (`balance = { bounded = 1.25 }`).
    Bounded,
}

impl Kind {
    /// Whether flows are more than one decision.
    #[must_use]
    pub const fn tracks(self) -> bool {
        matches!(self, Self::Tracked | Self::Quic)
    }

    /// Whether live connections are counted: its programs are in the object for that.
    #[must_use]
    pub const fn counts(self) -> bool {
        matches!(self, Self::Counted | Self::CountedWaiting | Self::Least | Self::Bounded)
    }
}

/// What a key is made of; see [`crate::steer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    /// The 4-tuple.
    Flow,
    /// The client's address, from an IPv4 header.
    SourceV4,
    /// The client's address, from an IPv6 header.
    SourceV6,
    /// The client's address, from a header of either family.
    SourceAny,
    /// Chance.
    Random,
    /// The CPU that receives.
    Cpu,
    /// Bytes of a datagram's payload.
    Payload,
    /// A function of the user's.
    Own,
}

/// A program of the object, and what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// The function's name in the object.
    pub name: &'static str,
    /// The kind of group that it decides for.
    pub kind: Kind,
    /// How it makes keys.
    pub steering: Steering,
}

macro_rules! list {
    ($($name:ident: $kind:ident, $steering:ident;)*) => {
        &[$(Program { name: stringify!($name), kind: Kind::$kind, steering: Steering::$steering }),*]
    };
}

/// The programs of the object for services whose connections are not counted.
pub const PLAIN: &[Program] = programs!(list);

/// The programs of the object for services whose connections are counted.
pub const COUNTING: &[Program] = counting_programs!(list);

/// All programs that decide.
pub fn all() -> impl Iterator<Item = &'static Program> {
    PLAIN.iter().chain(COUNTING)
}

/// The name of the program for a kind of group and a way to make keys; `None` if the two contradict each other: a flow
/// that is tracked comes always to the same bucket.
#[must_use]
pub fn name(kind: Kind, steering: Steering) -> Option<&'static str> {
    all().find(|it| it.kind == kind && it.steering == steering).map(|it| it.name)
}

/// The name of the program's [`crate::offsets::Offsets`], a constant that is patched into its read-only data
/// before it is loaded.
pub const OFFSETS: &str = "OFFSETS";

/// The function that a user's one takes the place of ([`crate::steer::Packet::own`]), and its name in the user's object.
pub const KEY_FUNCTION: &str = "rlb_key";

/// Most instructions of a user's function: as many as stand in its place.
pub const KEY_FUNCTION_ROOM: usize = 2_000;

/// Stands beside a key that the program of a trial has made: there was a datagram.
pub const TRIED: u64 = 1 << 32;

/// The name of the [`crate::quic::Format`], a constant like [`OFFSETS`].
pub const QUIC: &str = "QUIC";

/// The name of the [`crate::steer::Bytes`] that keys are made of, a constant like [`OFFSETS`].
pub const PAYLOAD: &str = "PAYLOAD";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offsets::PREFIX;

    #[test]
    fn names_are_different_and_short_enough_for_the_kernel() {
        for program in all() {
            assert!(program.name.len() <= 15, "{}", program.name);
            assert!(program.name.as_bytes().starts_with(&PREFIX));
            assert_eq!(name(program.kind, program.steering), Some(program.name));
            assert_eq!(all().filter(|other| other.name == program.name).count(), 1);
        }
    }
}
