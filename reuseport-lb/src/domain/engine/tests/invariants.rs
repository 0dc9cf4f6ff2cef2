//! The invariants of an engine, checked after each event of a history.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use reuseport_lb_common::slots::NO_SLOT;

use super::fake::{BUCKETS, FLOWS, Fake, Stage};
use super::scene::Scene;
use crate::config::{Affinity, Ready, Replace};
use crate::domain::apart::Apart;
use crate::domain::engine::{Engine, Worker};
use crate::domain::listeners::ListenerState;
use crate::domain::number::Number;
use crate::domain::ports::{ListenerId, ProcessKey, WorkerId};
use crate::domain::table::{BucketTable, Member};
use crate::domain::worker::{Origin, State};

impl Scene {
    /// Each process that runs is known to the daemon, or was told to end.
    pub(super) fn check_known(&self, engine: &Engine<Fake, Fake>) {
        let keys: BTreeSet<ProcessKey> =
            engine.pool().iter().filter_map(|worker| worker.process).map(|running| running.key).collect();
        self.world(|world| {
            for (key, process) in world.processes.iter().filter(|(_, it)| it.stage == Stage::Runs) {
                let lost = !keys.contains(key) && !process.told && !process.killed && !process.joined;
                assert!(!lost, "process {key:?} belongs to no worker");
            }
        });
    }

    /// The owner of each bucket of each group, but for those that were made anew.
    pub(super) fn owners(&self) -> BTreeMap<ListenerId, Vec<u16>> {
        self.world(|world| {
            let known = world.groups.iter().filter(|(id, _)| !world.anew.contains(id));
            known.map(|(id, group)| (*id, group.entries.iter().map(|entry| entry.slot()).collect())).collect()
        })
    }

    /// Checks that a takeover has not moved a bucket.
    pub(super) fn check_buckets_are(
        &self,
        engine: &Engine<Fake, Fake>,
        before: &BTreeMap<ListenerId, Vec<u16>>,
    ) {
        for apart in engine.listeners().filter(|it| it.apart.is_some()) {
            let own = self.owners().remove(&apart.id);
            assert_eq!(own.as_ref(), before.get(&apart.id), "buckets of {:?} have moved", apart.id);
        }
        let mut common = engine.listeners().filter(|it| it.apart.is_none() && before.contains_key(&it.id));
        if let Some(known) = common.next() {
            let owners = engine.placement().table().owners();
            assert_eq!(owners, before[&known.id], "buckets are not where they were");
        }
    }

    /// Checks that a listener has buckets of its own only while a worker does not read there, or flows keep buckets where
    /// they are; and that then they are spread over all others.
    fn check_apart(&self, engine: &Engine<Fake, Fake>, listener: &ListenerState, apart: &Apart) {
        let waits = engine.flows().waiting() > 0;
        assert!(
            waits || !apart.avoided().is_empty(),
            "{:?} has buckets of its own for no reason",
            listener.id
        );
        let owners = apart.table().owners();
        self.world(|world| {
            let own = world.groups[&listener.id].entries.iter().map(|entry| entry.slot());
            assert!(own.eq(owners.iter().copied()), "the buckets of {:?} are not its own", listener.id);
        });
        let (avoided, members) = (apart.avoided(), engine.placement().members());
        let others: Vec<Member> =
            members.iter().filter(|it| !avoided.contains(&it.slot())).copied().collect();
        if !waits && !others.is_empty() && engine.placement().join_at().is_none() {
            let mut exact = BucketTable::of(owners.to_vec());
            assert!(
                exact.rebalance(&others).is_empty(),
                "buckets without those of {avoided:?} are not exact"
            );
        }
    }

    /// Checks what must hold at any time.
    pub(super) fn check_always(&self) {
        let wrong = self.world(|world| std::mem::take(&mut world.wrong));
        assert!(wrong.is_empty(), "{wrong:?}");
        let mut slots = BTreeMap::new();
        for worker in self.workers().filter(|worker| worker.holds_slot()) {
            let other = slots.insert(worker.slot, &worker.name);
            assert!(other.is_none(), "{} and {other:?} have slot {}", worker.name, worker.slot);
        }
        for worker in self.workers().filter(|worker| worker.life.state() == State::Ready) {
            // Of an adopted one, the next daemon finds it with its sockets.
            let known = worker.process.is_some() || worker.is_adopted();
            assert!(known, "{} is ready and has no process", worker.name);
        }
    }

    /// Checks what must hold when the engine has no work left.
    pub(super) fn check_at_rest(&mut self) {
        let Some(engine) = self.engine.as_ref() else { return };
        let owners = engine.placement().table().owners();
        let members = engine.pool().admitted();
        let groups: BTreeSet<ListenerId> = self.world(|world| world.groups.keys().copied().collect());
        for listener in engine.listeners().filter(|listener| groups.contains(&listener.id)) {
            match &listener.apart {
                Some(apart) => self.check_apart(engine, listener, apart),
                None => self.world(|world| {
                    let own = world.groups[&listener.id].entries.iter().map(|entry| entry.slot());
                    let same = own.eq(owners.iter().copied());
                    assert!(same, "the buckets of {:?} are not those of the table", listener.id);
                }),
            }
        }
        let ready = |worker: &&Worker| worker.is_member() && worker.life.state() == State::Ready;
        let slots: BTreeSet<u16> = self.workers().filter(ready).map(|worker| worker.slot).collect();
        self.world(|world| {
            for group in world.groups.values() {
                let told: BTreeSet<u16> = group.rosters.ready.iter().copied().collect();
                assert!(told.is_subset(&slots), "{told:?} are told to be ready, and {slots:?} are");
                assert_eq!(told.is_empty(), slots.is_empty(), "no slot is told to be ready");
            }
        });
        let shares = |worker: &&Worker| worker.is_member() && worker.stays();
        let takes = |worker: &&Worker| worker.life.admitted() && worker.weight > 0;
        let sharing =
            self.workers().filter(shares).map(|worker| Number::from(worker.id)).collect::<BTreeSet<_>>();
        let slots: BTreeSet<u16> = self.workers().filter(shares).filter(takes).map(|it| it.slot).collect();
        self.world(|world| {
            for group in world.groups.values() {
                let told = group.rosters.by_cpu.iter().copied().filter(|slot| *slot != NO_SLOT);
                let told: BTreeSet<u16> = told.collect();
                assert!(told.is_subset(&slots), "CPUs have {told:?}, and only {slots:?} take what is new");
                // Of one or two workers each has one of the two CPUs.
                let few = engine.settings().config.affinity == Affinity::Cpu && sharing.len() <= 2;
                assert!(!few || told == slots, "CPUs have {told:?}, and {slots:?} take what is new");
            }
        });
        for owner in owners.iter().filter(|owner| **owner != NO_SLOT) {
            let worker = self.workers().find(|it| it.holds_slot() && it.slot == *owner);
            let worker = worker.unwrap_or_else(|| panic!("slot {owner} has buckets and no worker"));
            let stop_first = engine.settings().config.replace == Replace::StopFirst;
            let is_it = |id: &WorkerId| {
                id.leader() == worker.id.leader() || stop_first && id.number == worker.id.number
            };
            let ready = self.proven.iter().any(is_it)
                || worker.life.origin() == Origin::Joined
                || engine.settings().config.ready == Ready::Immediate;
            // A bucket in which flows of two workers live cannot move.
            let waits = engine.flows().waiting() > 0 || worker.life.keeps_flows();
            assert!(ready, "{} has buckets and was never ready", worker.name);
            assert!(
                waits || (worker.is_member() && worker.life.admitted()),
                "{} has buckets and is {}",
                worker.name,
                worker.life.state()
            );
        }
        for worker in engine.pool().iter().filter(|it| it.life.state() == State::Starting) {
            let begins = worker.process.is_some() || worker.life.deadline().is_some();
            assert!(begins, "{} waits for a start that never comes", worker.name);
        }
        for worker in engine.pool().iter().filter(|it| it.life.is_deferred()) {
            let before = |it: &Worker| it.id.number == worker.id.number && it.process.is_some();
            assert!(self.workers().any(before), "{} waits for the end of nobody", worker.name);
        }
        let mut names = BTreeSet::new();
        for worker in engine.pool().iter().filter(|it| it.is_member() && it.life.admitted()) {
            assert!(names.insert(&worker.name), "{} is there twice", worker.name);
        }
        let tracked = engine.listeners().any(|listener| !listener.is_tcp());
        let settled = engine.flows().waiting() == 0 && engine.placement().join_at().is_none();
        // Without members, flows end with their workers.
        if settled && !(tracked && members.is_empty()) {
            let mut exact = BucketTable::of(owners.to_vec());
            assert!(exact.rebalance(&members).is_empty(), "the table is not exact");
        }
    }

    /// Lets time pass, and checks that each leaving worker is removed.
    pub(super) fn come_to_an_end(&mut self) {
        if self.engine.is_none() && !self.saved.workers.is_empty() {
            self.take_over();
        }
        for _ in 0..40 {
            if self.is_quiet() {
                break;
            }
            self.accept();
            for key in self.running() {
                let known = self.workers().any(|it| it.process.is_some_and(|running| running.key == key));
                let hangs = self.world(|world| world.processes[&key].hangs);
                if known && !hangs {
                    self.be_ready(key, None);
                }
            }
            for bucket in 0..BUCKETS {
                (0..FLOWS).for_each(|flow| self.forget(bucket, flow));
            }
            self.wait(Duration::from_secs(10));
        }
        for worker in self.workers() {
            let leaves = worker.life.state() == State::Draining;
            assert!(!leaves, "{} is still leaving", worker.name);
            assert!(!worker.is_successor(), "{} is still on trial", worker.name);
        }
        let Some(engine) = self.engine.as_ref() else { return };
        assert!(!engine.is_replacing(), "a rollout does not end");
        assert!(engine.busy().is_none());
        assert_eq!(self.asked, self.answered.borrow().len(), "a request has no answer");
        if !engine.is_stopping() {
            let wanted = engine.settings().config.workers;
            assert_eq!(engine.pool().staying().len(), wanted, "there are not as many workers as are wanted");
        }
    }

    fn is_quiet(&self) -> bool {
        let leaves = |worker: &Worker| worker.life.state() == State::Draining || worker.is_successor();
        let whole = |engine: &Engine<Fake, Fake>| {
            let staying = engine.pool().staying().len();
            !engine.is_replacing() && (engine.is_stopping() || staying == engine.settings().config.workers)
        };
        let done = self.asked == self.answered.borrow().len();
        done && !self.workers().any(leaves) && self.engine.as_ref().is_none_or(whole)
    }
}
