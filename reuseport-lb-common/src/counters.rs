//! What is counted: one enum variant is one counter, one field in `status`, one line of
//! docs/COUNTERS.md. A decision is counted exactly once in each stage that it passes.

use crate::slots::MAX_SLOTS;

/// The one per-CPU value of map `COUNTERS`: written by the program, summed up by the daemon.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Counters {
    /// Indexed by [`Counter`].
    pub events: [u64; EVENTS],
    /// Decisions for each slot.
    pub selected: [u64; MAX_SLOTS],
}

/// Places for counters; more than there are, so that a new one does not move `selected`.
pub const EVENTS: usize = 32;

/// The stage that a counter belongs to. Sums: all of `Arrival` equals all of `Owner`; all of
/// `Owner` but [`Counter::OwnerTaken`], [`Counter::OwnerKept`] and [`Counter::OwnerDirected`] equals all of `Detour`; all of `Arrival` equals the
/// selections of all slots plus [`Counter::Refused`] and [`Counter::DetourKernel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Why the program ran.
    Arrival,
    /// What became of the bucket's own worker.
    Owner,
    /// Who was asked instead, when it was not the bucket's own.
    Detour,
    /// The end of a decision that selected no socket.
    Verdict,
    /// Single attempts and mishaps; not one per decision.
    Incident,
}

macro_rules! counters {
    ($($variant:ident $name:literal $stage:ident $help:literal;)*) => {
        /// A counter of the kernel program: an index into [`Counters::events`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Counter { $(#[doc = $help] $variant,)* }

        impl Counter {
            /// All of them, in the order of their indices.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name in `status --json`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// The stage that it belongs to.
            #[must_use]
            pub const fn stage(self) -> Stage {
                match self { $(Self::$variant => Stage::$stage),* }
            }

            /// One line for people.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help),* }
            }
        }
    };
}

// New ones come last: the places of the others stay from one daemon to the next.
counters! {
    Packet "arrival_packet" Arrival "a SYN, the ACK that completes a SYN cookie, or a datagram";
    Migration "arrival_migration" Arrival "a queued connection whose listener closed or was shut down";
    OwnerTaken "owner_taken" Owner "the worker of the bucket was selected";
    OwnerKept "owner_kept" Owner "a flow of a moving bucket that was there before stayed with its worker";
    OwnerNone "owner_none" Owner "the bucket had no worker";
    OwnerOverloaded "owner_overloaded" Owner "the worker of the bucket was flagged as overloaded";
    OwnerStalled "owner_ejected" Owner "the worker of the bucket was passed over because it does not accept";
    OwnerGone "owner_gone" Owner "the socket of the bucket's worker was gone";
    DetourCandidate "detour_candidate" Detour "a next candidate of the same key was selected";
    DetourOwner "detour_owner" Detour "nobody was better, so the overloaded or busy owner was selected after all";
    DetourReady "detour_ready" Detour "any ready worker was selected";
    DetourHold "detour_hold" Detour "nobody else was there: a worker of weight 0 has it, or it waits in the queue of a starting one";
    DetourNone "detour_none" Detour "nobody could be selected";
    Refused "refused" Verdict "answered with RST (TCP) or ICMP port unreachable (UDP)";
    SelectFailed "select_failed" Incident "single attempts at a socket that failed: its slot was empty";
    KeyFallback "key_fallback" Incident "what the key is made of could not be read, as where a datagram is too short for `payload`, or the user's function has no key for it; the flow was hashed instead";
    OwnerBusy "owner_busy" Owner "the worker of the bucket did not wait for work";
    DetourKernel "detour_kernel" Detour "nobody could be selected, and the kernel chose among the server's own sockets (adopt)";
    OwnerFuller "owner_fuller" Owner "the worker of the bucket had more connections than `balance` gives it";
    QuicRouted "quic_routed" Incident "a connection id of QUIC named its worker, which was selected; `owner_taken` as well";
    QuicUnroutable "quic_unroutable" Incident "a connection id of QUIC named nobody who is there, as that of a client's first datagrams: its flow decided";
    OwnerDirected "owner_directed" Owner "the worker of the bucket was not asked: the daemon's own connection or datagram went to the one it is for";
}

/// Fills in the two counters of the fast path, which writes nothing but its slot's selections:
/// packets that arrived, and owners that were taken. `selected` is the sum over all slots.
pub fn complete(events: &mut [u64; EVENTS], selected: u64) {
    use Counter::{
        DetourCandidate, DetourHold, DetourKernel, DetourOwner, DetourReady, Migration, OwnerDirected,
        OwnerKept, OwnerTaken, Packet, Refused,
    };
    let others: u64 = [OwnerKept, OwnerDirected, DetourCandidate, DetourOwner, DetourReady, DetourHold]
        .iter()
        .map(|counter| events[counter.index()])
        .sum();
    // Read while the program counts, a difference may be off by what is being decided.
    events[OwnerTaken.index()] = selected.saturating_sub(others);
    let all = selected + events[Refused.index()] + events[DetourKernel.index()];
    events[Packet.index()] = all.saturating_sub(events[Migration.index()]);
}

impl Counter {
    /// The index in [`Counters::events`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

const _: () = {
    assert!(size_of::<Counters>() <= 32 << 10);
    assert!(Counter::ALL.len() <= EVENTS);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_follow_the_order() {
        for (at, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(counter.index(), at);
        }
    }

    #[test]
    fn the_fast_path_is_what_is_left() {
        let mut events = [0; EVENTS];
        for (counter, n) in [
            (Counter::DetourReady, 2),
            (Counter::Refused, 3),
            (Counter::Migration, 4),
            (Counter::OwnerKept, 5),
            (Counter::DetourKernel, 6),
        ] {
            events[counter.index()] = n;
        }
        complete(&mut events, 100);
        assert_eq!(events[Counter::OwnerTaken.index()], 93);
        assert_eq!(events[Counter::Packet.index()], 105);
    }
}
