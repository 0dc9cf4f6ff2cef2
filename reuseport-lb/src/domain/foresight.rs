//! What would be decided about a client now, PURE: the decision of the kernel program, on copies of what it would change.
//! Not: what the workers are called.

use reuseport_lb_common::activity::Activity;
use reuseport_lb_common::entry::Entry;
use reuseport_lb_common::load::Load;
use reuseport_lb_common::select::policy::{Bounded, FirstFit, Least, PreferWaiting};
use reuseport_lb_common::select::{Decision, Group, SelectPolicy, decide};
use reuseport_lb_common::shared::Zeroable as _;
use reuseport_lb_common::slots::{MAX_SLOTS, NO_SLOT};
use reuseport_lb_common::steer::Hint;
use reuseport_lb_common::table::{BUCKETS, Table};

use super::slots::SlotSet;

/// What a group decides with.
pub struct Foresight<'a> {
    /// The group's table.
    pub table: &'a Table,
    /// Fitness and rosters.
    pub load: &'a Load,
    /// The marks of live flows; `None` where no flows are tracked.
    pub activity: Option<&'a Activity>,
    /// Slots that have a socket.
    pub sockets: &'a SlotSet,
    /// Which of the workers that are there is taken.
    pub choice: Choice<'a>,
}

/// Which of the workers that are there is taken, and what that depends on, by slot.
#[derive(Clone, Copy)]
pub enum Choice<'a> {
    /// The first one.
    FirstFit,
    /// One that waits for work: `None` of its slot; of a busy one the length of its queue.
    PreferWaiting(&'a dyn Fn(u16) -> Option<u32>),
    /// The one with the fewest connections.
    Least(&'a dyn Fn(u16) -> u32),
    /// The first one with fewer connections than its bound.
    Bounded(&'a dyn Fn(u16) -> u32),
}

/// What would be decided.
#[derive(Debug)]
pub struct Foreseen {
    /// The entry of the key's bucket.
    pub entry: Entry,
    /// The decision.
    pub decision: Decision,
    /// Whether a flow of this key lives, or another one of its sub-bucket; `None` where no flows are tracked.
    pub lives: Option<bool>,
}

impl Foresight<'_> {
    /// Decides about a new connection, or a datagram, with this key.
    #[must_use]
    pub fn decide(&self, key: u32) -> Foreseen {
        let entry = self.table.entry(key);
        let marks = self.activity.map(|activity| {
            let copy = Activity::boxed();
            copy.merge_bucket(key as u16, activity);
            copy
        });
        let sides = if entry.is_moving() { vec![0, 1] } else { vec![entry.side()] };
        let lives = marks.as_deref().map(|marks| sides.into_iter().any(|side| marks.lives(key, side)));
        let decision = self.with(&[key.into()], marks.as_deref());
        Foreseen { entry, decision: decision[0], lives }
    }

    /// Decides about a client whose key is not known and who has no live flow: how many of all buckets lead to each slot, and
    /// to none ([`NO_SLOT`]). All workers are taken to wait for work. With `cpus`, each of these CPUs receives as much, and
    /// its worker comes before that of the bucket.
    #[must_use]
    pub fn chances(&self, cpus: Option<&[usize]>) -> Vec<(u16, u32)> {
        let hint = |bucket: u32| {
            // The upper half only chooses among candidates, and is as good as any.
            let key = bucket | bucket.wrapping_mul(0x9e37) << 16;
            match cpus.and_then(|cpus| cpus.get((bucket as usize).checked_rem(cpus.len())?)) {
                Some(cpu) => Hint::Cpu { cpu: *cpu as u32, key },
                None => Hint::Key(key),
            }
        };
        let hints: Vec<Hint> = (0..BUCKETS as u32).map(hint).collect();
        let marks = self.activity.map(|_| Activity::boxed());
        let choice = match self.choice {
            Choice::PreferWaiting(_) => Choice::PreferWaiting(&|_| None),
            other => other,
        };
        let mut counts = vec![0; MAX_SLOTS];
        let mut refused = 0;
        for decision in (Foresight { choice, ..*self }).with(&hints, marks.as_deref()) {
            match decision.slot() {
                Some(slot) => counts[usize::from(slot)] += 1,
                None => refused += 1,
            }
        }
        let counted = (0..).zip(counts).chain([(NO_SLOT, refused)]);
        counted.filter(|(_, count)| *count > 0).collect()
    }

    fn with(&self, hints: &[Hint], activity: Option<&Activity>) -> Vec<Decision> {
        match self.choice {
            Choice::FirstFit => self.decided::<FirstFit>(hints, activity),
            Choice::PreferWaiting(_) => self.decided::<PreferWaiting>(hints, activity),
            Choice::Least(_) => self.decided::<Least>(hints, activity),
            Choice::Bounded(_) => self.decided::<Bounded>(hints, activity),
        }
    }

    fn decided<P: SelectPolicy>(&self, hints: &[Hint], activity: Option<&Activity>) -> Vec<Decision> {
        let load = Load::boxed();
        load.copy(self.load);
        let decided = |hint: &Hint| {
            let group = Imagined::<P> {
                table: self.table,
                load: &load,
                activity,
                sockets: self.sockets,
                choice: self.choice,
                selected: NO_SLOT,
                policy: std::marker::PhantomData,
            };
            decide(*hint, group)
        };
        hints.iter().map(decided).collect()
    }
}

/// A group that counts nothing and sends nothing anywhere.
struct Imagined<'a, P> {
    table: &'a Table,
    load: &'a Load,
    activity: Option<&'a Activity>,
    sockets: &'a SlotSet,
    choice: Choice<'a>,
    selected: u16,
    policy: std::marker::PhantomData<P>,
}

impl<P: SelectPolicy> Group for Imagined<'_, P> {
    type Policy = P;
    type Verdict = Decision;

    fn table(&self) -> &Table {
        self.table
    }

    fn load(&self) -> Option<&Load> {
        Some(self.load)
    }

    fn activity(&self) -> Option<&Activity> {
        self.activity
    }

    fn select(&mut self, slot: u16) -> bool {
        self.selected = slot;
        self.sockets.contains(slot)
    }

    fn take(&mut self, slot: u16) -> bool {
        self.select(slot)
    }

    fn busy(&self) -> Option<u32> {
        match self.choice {
            Choice::PreferWaiting(busy) => busy(self.selected),
            _ => None,
        }
    }

    fn connections(&self, slot: u16) -> u32 {
        match self.choice {
            Choice::Least(connections) | Choice::Bounded(connections) => connections(slot),
            _ => 0,
        }
    }

    fn all_connections(&self) -> u32 {
        (0..MAX_SLOTS as u16)
            .filter(|slot| self.sockets.contains(*slot))
            .map(|slot| self.connections(slot))
            .sum()
    }

    /// Whoever is asked about is not the daemon itself.
    fn loopback_port(&self) -> u16 {
        0
    }

    fn is_migrating(&self) -> bool {
        false
    }

    fn count_kept(&mut self) {}

    fn count(&mut self, _decision: Decision) {}

    fn trace(&mut self, _key: u32, _decision: Decision) {}

    fn verdict(self, decision: Decision) -> Decision {
        decision
    }
}

#[cfg(test)]
mod tests {
    use reuseport_lb_common::counters::Counter;
    use reuseport_lb_common::load::Fitness;
    use reuseport_lb_common::table::attention;

    use super::*;

    /// Half of the buckets are of slot 0, half of slot 1.
    fn halves() -> (Box<Table>, Box<Load>, SlotSet) {
        let (table, load) = (Table::boxed(), Load::boxed());
        (0..=u16::MAX).for_each(|bucket| table.set_entry(bucket, Entry::steady(bucket % 2)));
        load.ready.set(&[0, 1]);
        (table, load, [0, 1].into_iter().collect())
    }

    #[test]
    fn what_is_foreseen_changes_nothing() {
        let (table, load, sockets) = halves();
        let activity = Activity::boxed();
        let foresight = Foresight {
            table: &table,
            load: &load,
            activity: Some(&activity),
            sockets: &sockets,
            choice: Choice::FirstFit,
        };
        let key = 0x0005_0001;
        assert_eq!(foresight.decide(key).decision.slot(), Some(1));
        assert_eq!(foresight.decide(key).lives, Some(false), "nothing was marked");
        activity.mark(key, table.entry(key));
        assert_eq!(foresight.decide(key).lives, Some(true));
        let moving = table.entry(key).turned().with_slot(0).with_previous(1);
        table.set_entry(1, moving);
        let foreseen = foresight.decide(key);
        assert_eq!((foreseen.decision.slot(), foreseen.decision.owner()), (Some(1), Counter::OwnerKept));
        assert_eq!((foreseen.entry.slot(), foreseen.entry.previous()), (0, 1));
        let other = foresight.decide(0x0006_0001);
        assert_eq!((other.decision.slot(), other.lives), (Some(0), Some(false)));
        assert_eq!(foresight.chances(None), [(0, 32769), (1, 32767)]);
        load.by_cpu.set(&[1, 1, NO_SLOT, 0]);
        assert_eq!(foresight.chances(Some(&[0, 1])), [(1, 65536)]);
        assert_eq!(foresight.chances(Some(&[0, 3])), [(0, 32768), (1, 32768)]);
    }

    #[test]
    fn it_knows_who_is_unfit_busy_or_gone() {
        let (table, load, sockets) = halves();
        let queues = |slot: u16| if slot == 0 { Some(3) } else { None };
        let foresight =
            |choice| Foresight { table: &table, load: &load, activity: None, sockets: &sockets, choice };
        let busy = foresight(Choice::PreferWaiting(&queues)).decide(2).decision;
        assert_eq!((busy.slot(), busy.owner()), (Some(1), Counter::OwnerBusy));
        assert_eq!(load.line(0).busy(), 0, "noted on a copy only");
        assert_eq!(foresight(Choice::FirstFit).decide(2).decision.slot(), Some(0));
        load.line(0).set_fitness(Fitness::Stalled);
        table.attention.set(attention::AVOID);
        table.set_entry(2, table.entry(2).with_slow(true));
        let stalled = foresight(Choice::FirstFit).decide(2).decision;
        assert_eq!((stalled.slot(), stalled.owner()), (Some(1), Counter::OwnerStalled));
        let none = SlotSet::default();
        let gone = Foresight { sockets: &none, ..foresight(Choice::FirstFit) };
        assert_eq!(
            (gone.decide(1).decision.slot(), gone.decide(1).decision.owner()),
            (None, Counter::OwnerGone)
        );
        assert_eq!(gone.chances(None), [(NO_SLOT, 65536)]);
    }
}
