//! The number of workers of a service and their weights: `scale`, `weight`, `drain`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tracing::warn;

use super::super::Reply;
use super::super::denied::Denied;
use super::super::incident::{Cause, IncidentKind};
use super::super::number::Number;
use super::super::pool::Departure;
use super::super::ports::{Dataplane, Processes};
use super::super::worker::Origin;
use super::Engine;
use super::agenda::{Change, Growth};
use super::input::{Scaling, Target};
use crate::config::{self, Affinity};

impl<D: Dataplane, P: Processes> Engine<D, P> {
    pub(super) fn scale(&mut self, target: Target, reply: Reply<Result<Scaling, Denied>>, now: Instant) {
        match self.number_wanted(target).and_then(|to| self.begin_scaling(to, now)) {
            Ok(growth) => self.agenda.change = Some(Change::Scaling(growth, reply)),
            Err(denied) => reply.send(Err(denied)),
        }
    }

    fn number_wanted(&self, target: Target) -> Result<usize, Denied> {
        let by = match target {
            Target::Exactly(to) => return Ok(to),
            Target::More(by) => by,
        };
        let now = self.settings.config.workers;
        let to = i64::try_from(now).ok().and_then(|now| usize::try_from(now.checked_add(by)?).ok());
        to.ok_or_else(|| Denied::TooFew { service: self.service(), now, fewer: by.unsigned_abs() })
    }

    /// Lets surplus workers leave; missing ones are then added by [`Engine::grow`].
    pub(super) fn begin_scaling(&mut self, to: usize, now: Instant) -> Result<Growth, Denied> {
        config::check_workers(to)?;
        if self.stopping {
            return Err(Denied::Ending { service: self.service() });
        }
        self.require_own("change its number of processes or sockets in its own configuration")?;
        if to > 0 && self.settings.config.command.is_empty() && !self.settings.config.embedded {
            return Err(Denied::NoCommand { service: self.service() });
        }
        // A request to scale ends the start of the service, whatever its outcome.
        self.mark_started();
        let staying = self.pool.staying();
        let before = staying.len();
        if to < before {
            let cause =
                self.agenda.incidents.asked(format!("the service is scaled from {before} to {to} workers"));
            self.leave(&staying[to..], None, &cause, now);
        }
        let left = self.pool.free_numbers().take(to.saturating_sub(before)).collect();
        // Set at once: the next daemon would go on with it.
        let wanted = std::mem::replace(&mut self.settings.config.workers, to);
        Ok(Growth { left, added: Vec::new(), before, wanted, after: to })
    }

    /// Adds one worker; as an error, the outcome when all are added or one could not be.
    pub(super) fn grow(
        &mut self,
        mut growth: Growth,
        now: Instant,
    ) -> Result<Growth, Result<Scaling, Denied>> {
        if let Some(number) = growth.left.pop_front() {
            match self.add(number, Origin::Started, 1) {
                Ok(id) => {
                    growth.added.push(id);
                    let cause = self.agenda.incidents.asked("the service is scaled");
                    self.tell_of(id, IncidentKind::Added, cause);
                }
                Err(error) => {
                    self.settings.config.workers = growth.wanted;
                    let cause = Cause::own(format!("not all that were wanted could be added: {error}"));
                    self.leave(&growth.added, None, &cause, now);
                    return Err(Err(error.into()));
                }
            }
            return Ok(growth);
        }
        let Growth { added, before, after, .. } = growth;
        self.agenda.starts.extend(added);
        self.tell(IncidentKind::Scaled { from: before, to: after }, self.agenda.incidents.by());
        Err(Ok(Scaling { before, after }))
    }

    /// Begins to add workers that are missing.
    pub(super) fn begin_refilling(&mut self) {
        let missing = self.missing();
        if !missing.is_empty() && !self.stopping && self.agenda.change.is_none() {
            self.agenda.change = Some(Change::Refilling(missing));
        }
    }

    /// Numbers of the workers that are missing. Leaving workers do not count: those that an earlier daemon was draining
    /// when it died may finish, and are replaced at once.
    fn missing(&self) -> VecDeque<usize> {
        let staying = self.pool.staying();
        let missing = self.settings.config.workers.saturating_sub(staying.len());
        let taken = |number: usize| self.pool.iter().any(|it| it.id.number == number && it.stays());
        let free = (0..).filter(|number| !taken(*number));
        free.take(missing).collect()
    }

    /// Adds the next worker that is missing.
    pub(super) fn refill(&mut self, mut left: VecDeque<usize>) -> Option<Change> {
        let number = left.pop_front()?;
        match self.add(number, Origin::Started, 1) {
            Ok(id) => {
                self.tell_of(id, IncidentKind::Added, Cause::own("the service has too few workers"));
                self.agenda.starts.push_back(id);
                self.agenda.refill_failed = false;
                Some(Change::Refilling(left))
            }
            Err(error) => {
                if !std::mem::replace(&mut self.agenda.refill_failed, true) {
                    let service = &self.settings.config.name;
                    warn!(service, "cannot add a worker: {error}; it is tried again each second");
                }
                None
            }
        }
    }

    pub(super) fn set_weight(&mut self, number: Number, weight: u32, reply: Reply<Result<(), Denied>>) {
        let found = self.pool.require(number).map(|worker| worker.id);
        let checked = found.and_then(|id| config::check_weight(weight).map(|()| id).map_err(Denied::from));
        let id = match checked {
            Ok(id) => id,
            Err(denied) => return reply.send(Err(denied)),
        };
        for id in self.pool.part_ids(id) {
            let Some(worker) = self.pool.get_mut(id) else { continue };
            let from = std::mem::replace(&mut worker.weight, weight);
            self.tell_of(id, IncidentKind::Weight { from, to: weight }, self.agenda.incidents.by());
        }
        if self.settings.config.affinity == Affinity::Cpu && weight > 1 {
            warn!(
                worker = self.pool.name_of(number),
                weight,
                "with `affinity = \"cpu\"` a weight other than 0 makes no difference, but for what the workers of the CPUs \
                 cannot take"
            );
        }
        self.rebalance();
        // Answered when buckets have moved, so that the caller can rely on the weight.
        if self.placement.is_wanted() {
            self.agenda.placed.push(Reply::new(|()| reply.send(Ok(()))));
        } else {
            reply.send(Ok(()));
        }
    }

    pub(super) fn drain(
        &mut self,
        number: Number,
        patience: Option<Duration>,
        reply: Reply<Result<Departure, Denied>>,
        now: Instant,
    ) {
        let id = match self.pool.require(number) {
            Ok(worker) => worker.id,
            Err(denied) => return reply.send(Err(denied)),
        };
        let Some(worker) = self.pool.get_mut(id) else { return };
        worker.drain.waiting.push(reply);
        if worker.stays() && worker.is_started() {
            // One worker less is wanted from now on.
            self.settings.config.workers = self.settings.config.workers.saturating_sub(1);
        }
        self.mark_started();
        let cause = self.agenda.incidents.asked("it is drained");
        self.leave(&[id], patience, &cause, now);
    }
}
