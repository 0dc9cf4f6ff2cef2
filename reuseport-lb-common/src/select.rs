//! The decision: from a key to a slot. The only place where one is made; pure but for
//! [`Group::select`], which the kernel program implements with `bpf_sk_select_reuseport` and tests
//! with a list.

use crate::counters::Counter;
use crate::key;
use crate::layout::{Fitness, Load, NO_SLOT, Table, attention};

/// How many other buckets of the same key are tried when the owner cannot be taken.
pub const CANDIDATES: u32 = 4;

/// How many slots of a roster are tried; each can fail only while its socket has just gone.
pub const ROSTER_TRIES: u32 = 8;

/// What a decision needs of its group.
pub trait Group {
    /// Buckets and the attention word.
    fn table(&self) -> &Table;
    /// Fitness and rosters; asked for off the fast path only.
    fn load(&self) -> Option<&Load>;
    /// Tries to select the socket in `slot`; false if there is none.
    fn select(&mut self, slot: u16) -> bool;
}

/// What was decided, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Decision {
    /// What became of the bucket's own worker (a counter of stage `Owner`).
    pub owner: Counter,
    /// Who was asked instead (a counter of stage `Detour`), unless the owner was taken.
    pub detour: Option<Counter>,
    /// The selected slot; `None` refuses the connection or datagram.
    pub slot: Option<u16>,
    /// Attempts at sockets that were gone.
    pub failed: u32,
}

/// Decides for `key`. With `hold`, connections wait at a starting worker when nobody is ready.
///
/// Order: the bucket's worker; if it is gone, overloaded or ejected, the next candidates of the
/// same key that are fit; an owner that is merely overloaded; any ready worker; with `hold`, a
/// starting one; else nobody. It is never left to the kernel's own choice, which knows nothing of
/// readiness and includes sockets of strangers.
#[inline(always)]
pub fn decide(key: u32, hold: bool, group: &mut impl Group) -> Decision {
    let slot = group.table().entry(key).current;
    let attention = group.table().attention.get();
    if attention & (attention::AVOID | attention::CLOSED) == 0 && slot != NO_SLOT && group.select(slot) {
        return Decision { owner: Counter::OwnerTaken, detour: None, slot: Some(slot), failed: 0 };
    }
    decide_slowly(key, slot, attention, hold, group)
}

#[inline(always)]
fn decide_slowly(key: u32, owner: u16, attention: u32, hold: bool, group: &mut impl Group) -> Decision {
    let avoid = attention & attention::AVOID != 0;
    let mut failed = 0;
    let why = if attention & attention::CLOSED != 0 {
        let owner = Counter::OwnerClosed;
        return Decision { owner, detour: Some(Counter::DetourNone), slot: None, failed };
    } else if owner == NO_SLOT {
        Counter::OwnerNone
    } else {
        match fitness(group, avoid, owner) {
            Fitness::Overloaded => Counter::OwnerOverloaded,
            Fitness::Ejected => Counter::OwnerEjected,
            // Only with `avoid` set has the owner not been tried yet.
            Fitness::Fit if avoid && group.select(owner) => {
                return Decision { owner: Counter::OwnerTaken, detour: None, slot: Some(owner), failed };
            }
            Fitness::Fit => {
                failed += 1;
                Counter::OwnerGone
            }
        }
    };
    let decided =
        |detour, slot, failed| Decision { owner: why, detour: Some(detour), slot: Some(slot), failed };

    for nth in 1..=CANDIDATES {
        let slot = group.table().entry(key::candidate(key, nth)).current;
        if slot == NO_SLOT || slot == owner || fitness(group, avoid, slot) != Fitness::Fit {
            continue;
        }
        if group.select(slot) {
            return decided(Counter::DetourCandidate, slot, failed);
        }
        failed += 1;
    }
    if why == Counter::OwnerOverloaded {
        if group.select(owner) {
            return decided(Counter::DetourOwner, owner, failed);
        }
        failed += 1;
    }
    let pick = key::candidate(key, 0);
    for nth in 0..ROSTER_TRIES {
        let Some(slot) = group.load().and_then(|load| load.ready.pick(pick, nth)) else { break };
        if group.select(slot) {
            return decided(Counter::DetourReady, slot, failed);
        }
        failed += 1;
    }
    if hold {
        for nth in 0..ROSTER_TRIES {
            let Some(slot) = group.load().and_then(|load| load.waiting.pick(pick, nth)) else { break };
            if group.select(slot) {
                return decided(Counter::DetourHold, slot, failed);
            }
            failed += 1;
        }
    }
    Decision { owner: why, detour: Some(Counter::DetourNone), slot: None, failed }
}

#[inline(always)]
fn fitness(group: &impl Group, avoid: bool, slot: u16) -> Fitness {
    match group.load() {
        Some(load) if avoid => load.fitness(slot),
        _ => Fitness::Fit,
    }
}
