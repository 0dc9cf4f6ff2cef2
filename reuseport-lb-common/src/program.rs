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
            rlb_idle_flow: PreferWaiting, Flow;
            rlb_idle_src4: PreferWaiting, SourceV4;
            rlb_idle_src6: PreferWaiting, SourceV6;
            rlb_idle_source: PreferWaiting, SourceAny;
            rlb_idle_random: PreferWaiting, Random;
            rlb_idle_cpu: PreferWaiting, Cpu;
            rlb_udp_flow: Tracked, Flow;
            rlb_udp_source4: Tracked, SourceV4;
            rlb_udp_source6: Tracked, SourceV6;
            rlb_udp_source: Tracked, SourceAny;
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
        /// All programs that decide.
        pub const ALL: &[Program] = &[$(Program {
            name: stringify!($name),
            kind: Kind::$kind,
            steering: Steering::$steering,
        }),*];

        /// The name of the program for a kind of group and a way to make keys; `None` if the two contradict each
        /// other.
        #[must_use]
        pub const fn name(kind: Kind, steering: Steering) -> Option<&'static str> {
            match (kind, steering) {
                $((Kind::$kind, Steering::$steering) => Some(stringify!($name)),)*
                // A flow that is tracked comes always to the same bucket.
                (Kind::Tracked, Steering::Random | Steering::Cpu) => None,
            }
        }
    };
}
programs!(list);

/// The name of the program's [`crate::offsets::Offsets`], a constant that is patched into its read-only data
/// before it is loaded.
pub const OFFSETS: &str = "OFFSETS";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offsets::PREFIX;

    #[test]
    fn names_are_different_and_short_enough_for_the_kernel() {
        for program in ALL {
            assert!(program.name.len() <= 15, "{}", program.name);
            assert!(program.name.as_bytes().starts_with(&PREFIX));
            assert_eq!(name(program.kind, program.steering), Some(program.name));
            assert_eq!(ALL.iter().filter(|other| other.name == program.name).count(), 1);
        }
    }
}
