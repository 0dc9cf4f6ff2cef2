//! What is said of the workers off the fast path: fitness of slots, queues, rosters. Not: who judges them.

use crate::directed::DirectedPorts;
use crate::entry::Entry;
use crate::shared::Shared;
use crate::slots::MAX_SLOTS;

/// What the daemon says of the worker in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Fitness {
    /// New connections may go there.
    Fit = 0,
    /// Its queue is much deeper than the others': other candidates first.
    Overloaded = 1,
    /// It does not accept: any other worker first, even one that is no candidate of the key.
    Stalled = 2,
}

/// One slot's line: 64 bytes, so that no two slots share a cache line.
#[repr(C, align(64))]
pub struct LoadLine {
    fitness: Shared<u32>,
    /// How many connections of the worker's own buckets in a row found it busy, up to [`LONGEST_BUSY`]. Written
    /// by the program alone.
    busy: Shared<u32>,
    /// Tag of the worker in connection ids of QUIC; 0: there are none. See [`crate::quic`].
    pub tag: Shared<u64>,
    /// Weight of the worker, where connections are counted.
    pub weight: Shared<u32>,
    /// Account of the worker's socket of this listener; see [`crate::connections`].
    pub socket: Shared<u32>,
    /// Account of the worker.
    pub worker: Shared<u32>,
    /// 1 since a datagram came by the worker's connection ids; the daemon forgets it each epoch.
    pub routed: Shared<u32>,
}

/// A worker that is found busy more often in a row is not worse for that: then queues decide.
const LONGEST_BUSY: u32 = 16;

impl LoadLine {
    /// Notes that the worker in this slot waits for work.
    #[inline(always)]
    pub fn found_waiting(&self) {
        // A look is much cheaper than a store to a line that other CPUs look at.
        if self.busy.get() != 0 {
            self.busy.set(0);
        }
    }

    /// Notes that a datagram came by a connection id.
    #[inline(always)]
    pub fn found_routed(&self) {
        if self.routed.get() == 0 {
            self.routed.set(1);
        }
    }

    /// How many connections in a row found the worker in this slot busy.
    #[inline(always)]
    pub fn busy(&self) -> u32 {
        self.busy.get()
    }

    /// Notes one more connection that found the worker busy. Returns how many there were before.
    #[inline(always)]
    pub fn found_busy(&self) -> u32 {
        let before = self.busy.get();
        // Two CPUs at once may count one.
        if before < LONGEST_BUSY {
            self.busy.set(before + 1);
        }
        before
    }

    /// What the daemon said last of this slot.
    #[inline(always)]
    pub fn fitness(&self) -> Fitness {
        match self.fitness.get() {
            0 => Fitness::Fit,
            1 => Fitness::Overloaded,
            _ => Fitness::Stalled,
        }
    }

    /// Sets the fitness; the program reads it for slow entries, if `attention::AVOID` is set.
    pub fn set_fitness(&self, fitness: Fitness) {
        self.fitness.set(fitness as u32);
    }
}

/// A list of slots. A reader may see it half changed: it then tries a slot that was on the list a
/// moment ago, which fails or succeeds like any other.
#[repr(C)]
pub struct Roster {
    len: Shared<u32>,
    slots: [Shared<u16>; MAX_SLOTS],
}

impl Roster {
    /// The slot at the place that `pick` falls on when spread evenly over the list, and `offset` further on.
    /// `None` if the list has no more than `offset` slots.
    #[inline(always)]
    pub fn pick(&self, pick: u32, offset: u32) -> Option<u16> {
        let len = self.len.get();
        if offset >= len {
            return None;
        }
        let mut at = ((u64::from(pick) * u64::from(len)) >> 32) as u32 + offset;
        if at >= len {
            at -= len;
        }
        Some(self.slots[at as usize & (MAX_SLOTS - 1)].get())
    }

    /// Replaces the list; slots beyond [`MAX_SLOTS`] are ignored.
    pub fn set(&self, slots: &[u16]) {
        let slots = &slots[..slots.len().min(MAX_SLOTS)];
        for (place, slot) in self.slots.iter().zip(slots) {
            place.set(*slot);
        }
        self.len.set(slots.len() as u32);
    }
}

/// CPUs that can have a worker of their own: a power of two, because the program masks with it. One beyond shares
/// the worker of a lower one.
pub const CPUS: usize = 1024;

/// The worker of each CPU, as entries that are slow where there is none: for affinity `cpu`.
#[repr(C)]
pub struct CpuSlots([Shared<u32>; CPUS]);

impl CpuSlots {
    /// The entry of `cpu`.
    #[inline(always)]
    pub fn entry(&self, cpu: u32) -> Entry {
        Entry::from_bits(self.0[cpu as usize & (CPUS - 1)].get())
    }

    /// Gives each CPU the slot at its place, or none ([`NO_SLOT`](crate::slots::NO_SLOT)).
    pub fn set(&self, slots: &[u16]) {
        for (place, slot) in self.0.iter().zip(slots) {
            place.set(Entry::steady(*slot).bits());
        }
    }
}

/// The one value of map `LOAD`: written by the daemon, read by the program off the fast path.
#[repr(C)]
pub struct Load {
    /// One line per slot.
    pub lines: [LoadLine; MAX_SLOTS],
    /// Slots of workers that are ready.
    pub ready: Roster,
    /// Slots for when there is no socket of a ready worker with a weight: of ready workers of weight 0, or else
    /// of workers that are being started, where connections can wait.
    pub waiting: Roster,
    /// Slots of workers that have a CPU's packets.
    pub by_cpu: CpuSlots,
    /// Where connections are counted: what goes for all workers.
    pub shares: Shares,
    /// Connections of the daemon's own.
    pub directed: DirectedPorts,
}

/// What goes for all workers of a service whose connections are counted.
#[repr(C)]
pub struct Shares {
    /// Account of the service.
    pub service: Shared<u32>,
    /// Weights of all workers in [`Load::ready`] together.
    pub weights: Shared<u32>,
    /// How much more than its share of the connections a worker may have (`balance = { bounded = … }`), in units of
    /// 1 / [`Shares::UNIT`].
    pub bound: Shared<u32>,
}

impl Shares {
    /// [`Shares::bound`] of 1.0.
    pub const UNIT: u32 = 1 << 16;
}

impl Load {
    /// Takes over all that `other` says but of connections of the daemon's own.
    #[cfg(not(target_arch = "bpf"))]
    pub fn copy(&self, other: &Self) {
        for (own, other) in self.lines.iter().zip(&other.lines) {
            let pairs = [
                (&own.fitness, &other.fitness),
                (&own.busy, &other.busy),
                (&own.weight, &other.weight),
                (&own.socket, &other.socket),
                (&own.worker, &other.worker),
            ];
            pairs.iter().for_each(|(own, other)| own.set(other.get()));
        }
        self.shares.service.set(other.shares.service.get());
        self.shares.weights.set(other.shares.weights.get());
        self.shares.bound.set(other.shares.bound.get());
        for (own, other) in [(&self.ready, &other.ready), (&self.waiting, &other.waiting)] {
            own.slots.iter().zip(&other.slots).for_each(|(own, other)| own.set(other.get()));
            own.len.set(other.len.get());
        }
        self.by_cpu.0.iter().zip(&other.by_cpu.0).for_each(|(own, other)| own.set(other.get()));
    }

    /// The line of `slot`.
    #[inline(always)]
    pub fn line(&self, slot: u16) -> &LoadLine {
        &self.lines[usize::from(slot) & (MAX_SLOTS - 1)]
    }
}

#[cfg(any(test, feature = "model", feature = "user"))]
#[expect(unsafe_code, reason = "says that it is valid when zeroed")]
// SAFETY: all fields are `Shared` integers.
unsafe impl crate::shared::Zeroable for Load {}

const _: () = {
    assert!(size_of::<LoadLine>() == 64);
    assert!(size_of::<Roster>() == 4 + MAX_SLOTS * 2);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_roster_is_picked_evenly_and_wraps() {
        let roster = Roster { len: Shared::new(0), slots: [const { Shared::new(0) }; MAX_SLOTS] };
        assert_eq!(roster.pick(u32::MAX, 0), None);
        roster.set(&[3, 5, 9]);
        assert_eq!(roster.pick(0, 0), Some(3));
        assert_eq!(roster.pick(u32::MAX / 2, 0), Some(5));
        assert_eq!(roster.pick(u32::MAX, 0), Some(9));
        assert_eq!(roster.pick(u32::MAX, 1), Some(3));
        assert_eq!(roster.pick(u32::MAX, 3), None);
    }
}
