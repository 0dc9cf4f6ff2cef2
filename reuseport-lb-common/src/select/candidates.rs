//! Who is asked for a key, in which order: the owner, the next candidates, ready workers, waiting ones. The
//! only place where they are walked. Not: which of those that are there is taken.

use super::decision::Decision;
use super::group::{Group, SelectPolicy};
use crate::counters::Counter;
use crate::load::Fitness;
use crate::shared::unfollowed;
use crate::slots::NO_SLOT;
use crate::table::attention;

/// How many other buckets of the same key are tried when the owner cannot be taken.
pub(super) const CANDIDATES: u32 = 4;

/// How many slots of a roster are tried; each can fail only while its socket has just gone.
const ROSTER_TRIES: u32 = 8;

/// Walks through them all. `tried`: the owner was, and its socket is gone; `failed`: attempts so far at
/// others.
///
/// Written so that the verifier, which follows each way through it, has few to follow, also that of Linux 6.1
/// (KERNEL.md 75): what was seen so far is three numbers of which it knows nothing, and turns have no counter.
#[inline(always)]
pub(super) fn walk<G: Group>(key: u32, owner: u16, tried: bool, failed: u32, group: &mut G) -> Decision {
    let mut policy = G::Policy::default();
    let mut failed = unfollowed(failed);
    let why = if owner == NO_SLOT {
        Counter::OwnerNone
    } else if tried {
        failed = unfollowed(failed + 1);
        Counter::OwnerGone
    } else {
        match fitness(group, owner) {
            Fitness::Overloaded => Counter::OwnerOverloaded,
            Fitness::Stalled => Counter::OwnerStalled,
            Fitness::Fit => {
                if !has_socket(group, owner, &mut failed) {
                    Counter::OwnerGone
                } else if policy.takes(owner, 0, group) {
                    return Decision::taken(Counter::OwnerTaken, owner, failed);
                } else {
                    G::Policy::PASSED_OVER
                }
            }
        }
    };
    let why = unfollowed(why as u32);
    let decided = |detour, slot, failed| Decision::detoured(why, detour, slot, failed);

    let pick = candidate(key, 0);
    macro_rules! ask {
        ($($turn:literal)*) => {
            $(
                if is_asked::<G::Policy>($turn) {
                    let slot = asked(key, pick, $turn, group);
                    if slot != NO_SLOT
                        && slot != owner
                        && fitness(group, slot) == Fitness::Fit
                        && has_socket(group, slot, &mut failed)
                        && policy.takes(slot, $turn, group)
                    {
                        return decided(asked_in($turn), slot, failed);
                    }
                }
            )*
        };
    }
    const { assert!(G::Policy::CANDIDATE_TRIES <= CANDIDATES && CANDIDATES + G::Policy::READY_TRIES <= 12) };
    ask!(1 2 3 4 5 6 7 8 9 10 11 12);
    if let Some((slot, turn)) = policy.best()
        && has_socket(group, slot, &mut failed)
    {
        if G::Policy::COMPARES && turn == 0 {
            return Decision::taken(Counter::OwnerTaken, slot, failed);
        }
        return decided(asked_in(turn), slot, failed);
    }
    if why == Counter::OwnerOverloaded as u32 && has_socket(group, owner, &mut failed) {
        return decided(Counter::DetourOwner, owner, failed);
    }
    for nth in 0..ROSTER_TRIES {
        let Some(slot) = group.load().and_then(|load| load.ready.pick(pick, nth)) else { break };
        if has_socket(group, slot, &mut failed) {
            return decided(Counter::DetourReady, slot, failed);
        }
    }
    for nth in 0..ROSTER_TRIES {
        let Some(slot) = group.load().and_then(|load| load.waiting.pick(pick, nth)) else { break };
        if has_socket(group, slot, &mut failed) {
            return decided(Counter::DetourHold, slot, failed);
        }
    }
    let open = group.table().attention.get() & attention::OPEN != 0;
    decided(if open { Counter::DetourKernel } else { Counter::DetourNone }, NO_SLOT, failed)
}

/// Whether a worker is asked in a turn.
#[inline(always)]
const fn is_asked<P: SelectPolicy>(turn: u32) -> bool {
    turn <= P::CANDIDATE_TRIES || (turn > CANDIDATES && turn <= CANDIDATES + P::READY_TRIES)
}

/// Selects the socket in `slot`; if there is none, that is one more attempt that `failed`.
#[inline(always)]
fn has_socket(group: &mut impl Group, slot: u16, failed: &mut u32) -> bool {
    let selected = group.select(slot);
    if !selected {
        *failed = unfollowed(*failed + 1);
    }
    selected
}

/// What is said of a slot: read anew each time, so that the verifier knows nothing of it from the time before.
#[inline(always)]
fn fitness(group: &impl Group, slot: u16) -> Fitness {
    if group.table().attention.get() & attention::AVOID == 0 {
        return Fitness::Fit;
    }
    group.load().map_or(Fitness::Fit, |load| load.line(slot).fitness())
}

/// The slot that is asked in a turn; [`NO_SLOT`] if there is none.
#[inline(always)]
fn asked(key: u32, pick: u32, turn: u32, group: &impl Group) -> u16 {
    if turn <= CANDIDATES {
        group.table().entry(candidate(key, turn)).slot()
    } else {
        group.load().and_then(|load| load.ready.pick(pick, turn - CANDIDATES - 1)).unwrap_or(NO_SLOT)
    }
}

/// Whom [`walk`] asks in a turn (a counter of stage `Detour`).
#[inline(always)]
fn asked_in(turn: u32) -> Counter {
    match turn {
        0 => Counter::DetourOwner,
        1..=CANDIDATES => Counter::DetourCandidate,
        _ => Counter::DetourReady,
    }
}

/// The key of the `nth` next candidate of `key`: another bucket for the same client. The final
/// mix of MurmurHash3 (32 bits), so that keys of one bucket do not share their candidates; but its last
/// step brings the upper half down with a rotation. Verifiers before Linux 6.10 know nothing of the
/// XOR of two bounded numbers, and the compiler masks them before it.
#[inline(always)]
fn candidate(key: u32, nth: u32) -> u32 {
    let mut h = key ^ nth.wrapping_mul(0x9e37_79b9);
    h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
    h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
    h.rotate_left(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_of_one_key_fall_into_different_buckets() {
        for key in (0..1_000_000u32).step_by(997) {
            let buckets = [1, 2, 3, 4].map(|nth| candidate(key, nth) & 0xffff);
            assert!(buckets.iter().filter(|b| **b == key & 0xffff).count() <= 1);
        }
    }
}
