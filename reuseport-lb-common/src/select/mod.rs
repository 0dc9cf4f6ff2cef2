//! The decision: from a key to a slot. The only place where one is made, for the kernel program, for the
//! unit tests and for the model that the privileged tests compare the kernel with.

mod candidates;
mod decision;
mod group;
#[cfg(any(test, feature = "model"))]
pub mod model;
pub mod policy;
#[cfg(test)]
mod tests;

pub use decision::Decision;
pub use group::{Group, SelectPolicy};

use crate::counters::Counter;
use crate::entry::Entry;
use crate::slots::NO_SLOT;
use crate::steer::Hint;
use crate::table::attention;

/// Decides.
///
/// Order: the worker that a connection of the daemon's own is for; in a moving bucket, the previous worker, for flows that were there before; the bucket's
/// worker; if it is gone or not fit, the next candidates of the same key that are fit; an owner that is
/// merely overloaded; any ready worker; one where connections can wait; else none. The [`SelectPolicy`] may
/// pass over workers that are there, and take the best of those in the end. A decision is never left to the
/// kernel's own choice, which knows nothing of readiness and includes sockets of strangers; but in a group that others
/// have made ([`attention::OPEN`]) where nobody can be selected.
#[inline(always)]
pub fn decide<G: Group>(hint: impl Into<Hint>, mut group: G) -> G::Verdict {
    let hint = hint.into();
    let key = hint.key();
    let entry = if group.is_migrating() || G::Policy::ASKS {
        entry(hint, &group).with_slow(true)
    } else {
        match owner(hint, &mut group) {
            Ok(slot) => return group.verdict(Decision::taken(Counter::OwnerTaken, slot, 0)),
            Err(entry) => entry,
        }
    };
    detour(key, entry, group)
}

/// What a decision begins with: the entry of the key's bucket, or of the CPU that receives; a connection that is being
/// migrated has only that of whoever closes its listener.
#[inline(always)]
fn entry(hint: Hint, group: &impl Group) -> Entry {
    match hint {
        Hint::Cpu { cpu, .. } if !group.is_migrating() => {
            let entry = group.load().map_or(Entry::steady(NO_SLOT), |load| load.by_cpu.entry(cpu));
            // The entries of buckets have that in their slow bits.
            let looks = attention::TRACE | attention::AVOID | attention::DIRECT;
            let slow = group.table().attention.get() & looks != 0;
            entry.with_slow(slow)
        }
        Hint::Key(key) | Hint::Cpu { key, .. } => group.table().entry(key),
    }
}

/// The fast path, which nearly every decision takes: the own worker of the bucket or CPU; or else the
/// entry.
#[inline(always)]
fn owner(hint: Hint, group: &mut impl Group) -> Result<u16, Entry> {
    let key = hint.key();
    if let Some(activity) = group.activity() {
        activity.expect(key, group.table().entry(0));
    }
    let entry = entry(hint, group);
    if !entry.is_plain() {
        return Err(entry);
    }
    if let Some(activity) = group.activity() {
        activity.mark(key, entry);
    }
    let slot = entry.plain_slot();
    if group.take(slot) { Ok(slot) } else { Err(entry) }
}

/// Everything off the fast path: `entry` is what it found in the bucket, slow where nothing was tried yet. A function of
/// its own, so that its registers are its own as well; `cold` only puts it behind the fast path, whose instructions then
/// follow each other. It has one caller, because the verifier follows it anew for each.
#[cold]
#[inline(never)]
fn detour<G: Group>(key: u32, entry: Entry, mut group: G) -> G::Verdict {
    if group.activity().is_some()
        && entry.is_moving()
        && !entry.is_slow()
        && let Some(decision) = moving(key, entry, &mut group)
    {
        return group.verdict(decision);
    }
    let decision = slowly(key, entry, &mut group);
    group.count(decision.again());
    if group.table().attention.get() & attention::TRACE != 0 {
        group.trace(key, decision.again());
    }
    group.verdict(decision)
}

/// In a bucket that is moving and not slow: the previous worker for flows that were there before, else the
/// new one; `None` if its socket is gone.
#[inline(always)]
fn moving(key: u32, entry: Entry, group: &mut impl Group) -> Option<Decision> {
    let stays = group.activity().is_some_and(|activity| activity.stays(key, entry));
    let (slot, owner) = if stays {
        (entry.plain_previous(), Counter::OwnerKept)
    } else {
        (entry.plain_slot(), Counter::OwnerTaken)
    };
    if !group.take(slot) {
        return None;
    }
    if stays {
        group.count_kept();
    }
    Some(Decision::taken(owner, slot, 0))
}

#[inline(always)]
fn slowly(key: u32, entry: Entry, group: &mut impl Group) -> Decision {
    // A fast path that came here has tried the owner.
    let mut tried = !entry.is_slow();
    if entry.is_slow()
        && let Some(slot) = directed(key, group)
    {
        if group.select(slot) {
            return Decision::taken(Counter::OwnerDirected, slot, 0);
        }
        return Decision::detoured(Counter::OwnerGone as u32, Counter::DetourNone, NO_SLOT, 1);
    }
    let mut failed = 0;
    if let Some(activity) = group.activity() {
        if !entry.is_moving() {
            activity.mark(key, entry);
        } else if activity.stays(key, entry) {
            let previous = entry.plain_previous();
            if entry.is_slow() && group.select(previous) {
                return Decision::taken(Counter::OwnerKept, previous, 0);
            }
            (tried, failed) = (false, 1);
        }
    }
    candidates::walk(key, entry.slot(), tried, failed, group)
}

/// The slot of the worker that a connection or datagram of the daemon's own is for.
#[inline(always)]
fn directed(key: u32, group: &impl Group) -> Option<u16> {
    if group.table().attention.get() & attention::DIRECT == 0 || group.is_migrating() {
        return None;
    }
    group.load()?.directed.find(group.loopback_port(), key)
}
