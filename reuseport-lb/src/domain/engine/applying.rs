//! Applying other settings to a running service. What can fail has been prepared before (`service/`); what has not
//! changed is not touched.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use tracing::warn;

use super::super::Reply;
use super::super::listener::Listener;
use super::super::listeners::ListenerState;
use super::super::ports::{Dataplane, Processes};
use super::super::reconfigure::Undo;
use super::super::rollout::{RestartOptions, RolloutEvent};
use super::super::table::BucketChange;
use super::Engine;
use super::agenda::{Applying, ApplyingStage, Change};
use super::input::{NewGroup, Reconfiguration, Scaling};
use super::rolling::TRIAL;
use crate::config::ServiceConfig;

/// What a service goes back to if new processes do not work.
const OLD: &str = "its old command, listeners and all else that its workers are started with";

/// How many sockets get another backlog in one part of the work.
const SOCKETS_AT_ONCE: usize = 64;

impl<D: Dataplane, P: Processes> Engine<D, P> {
    /// Notes whether other settings are being prepared: no replacement of workers begins meanwhile.
    pub fn set_prepared(&mut self, prepared: bool) {
        self.agenda.prepared = prepared;
    }

    pub(super) fn reconfigure(
        &mut self,
        change: Option<Box<Reconfiguration>>,
        reply: Reply<Result<String, String>>,
        now: Instant,
    ) {
        self.agenda.prepared = false;
        let config = change.as_ref().map_or(&self.settings.config, |it| &it.settings.config);
        let listen: Vec<Listener> = config.listeners().copied().collect();
        let known = self.listeners.iter().filter(|it| listen.contains(&it.asked)).map(|it| it.id);
        let new = change.iter().flat_map(|change| &change.groups).map(|group| group.id);
        known.chain(new).for_each(|listener| self.dataplane.want(listener));
        let Some(change) = change else {
            return reply.send(Ok(format!("{}: not changed", self.settings.config.name)));
        };
        let Reconfiguration { settings, groups } = *change;
        if settings.revision() != self.settings.revision() {
            self.end_rollout("another configuration is applied", now);
        }
        let undo = self.settings.replace(settings);
        self.note_stop(undo.config().command == self.settings.config.command);
        self.give_sockets();
        let stage = ApplyingStage::Installing(groups.into());
        let applying = Applying { stage, changes: Vec::new(), undo, reply };
        self.agenda.change = Some(Change::Applying(Box::new(applying)));
    }

    /// Gives `stop_signal` and `stop_mode` to the processes that they are meant for: to all if the command is the
    /// `same`, else not to those that are about to be replaced.
    fn note_stop(&mut self, same: bool) {
        let (revision, stop) = (self.settings.revision(), self.settings.config.stop);
        for worker in self.pool.iter_mut() {
            let meant = same || !worker.is_started() || worker.revision == revision;
            worker.process.iter_mut().filter(|_| meant).for_each(|running| running.stop = stop);
        }
    }

    /// Gives the sockets to the user of the settings in force.
    fn give_sockets(&mut self) {
        self.dataplane.set_owner(self.settings.socket_owner().map(|user| user.uid));
    }

    /// Does one part of a change; false if none is being made.
    pub(super) fn go_on_changing(&mut self, now: Instant) -> bool {
        let Some(change) = self.agenda.change.take() else { return false };
        self.agenda.change = match change {
            Change::Scaling(growth, reply) => match self.grow(growth, now) {
                Ok(growth) => Some(Change::Scaling(growth, reply)),
                Err(scaled) => {
                    reply.send(scaled);
                    None
                }
            },
            Change::Refilling(left) => self.refill(left),
            Change::Applying(applying) => {
                self.apply_part(*applying, now).map(|applying| Change::Applying(Box::new(applying)))
            }
        };
        true
    }

    fn apply_part(&mut self, applying: Applying, now: Instant) -> Option<Applying> {
        let Applying { stage, mut changes, undo, reply } = applying;
        let stage = match stage {
            ApplyingStage::Installing(mut groups) => match groups.pop_front() {
                Some(group) => {
                    changes.push(self.install(group));
                    ApplyingStage::Installing(groups)
                }
                None => self.begin_listening(&undo, now),
            },
            ApplyingStage::Listening(mut sockets) if !sockets.is_empty() => {
                let at = sockets.len().saturating_sub(SOCKETS_AT_ONCE);
                let backlog = self.settings.config.backlog;
                sockets.drain(at..).for_each(|socket| self.dataplane.set_backlog(socket, backlog));
                ApplyingStage::Listening(sockets)
            }
            ApplyingStage::Listening(_) => self.begin_growing(&mut changes, &undo, now),
            ApplyingStage::Growing(growth) => match self.grow(growth, now) {
                Ok(growth) => ApplyingStage::Growing(growth),
                Err(scaled) => {
                    changes.push(match scaled {
                        Ok(Scaling { before, after }) => format!("{before} → {after} workers"),
                        Err(denied) => denied.to_string(),
                    });
                    ApplyingStage::Finishing
                }
            },
            ApplyingStage::Finishing => {
                self.finish_applying(changes, undo, reply);
                return None;
            }
        };
        Some(Applying { stage, changes, undo, reply })
    }

    /// Installs a prepared group of a new listener, or one that decides in another way; returns what has changed, for
    /// the answer.
    fn install(&mut self, group: NewGroup) -> String {
        let NewGroup { id, asked } = group;
        let known = self.listeners.iter().position(|listener| listener.id == id);
        let rosters = self.rosters(known.and_then(|at| self.listeners.at(at)), None);
        let sockets = self.sockets_of(id);
        let installed = self.dataplane.install(id, &rosters, &sockets);
        let address = self.dataplane.address(id);
        match (known, installed) {
            (Some(_), Ok(())) => format!("{address} decides anew"),
            (Some(_), Err(error)) => format!("{address} decides as before: {error}"),
            (None, _) => {
                let all: Vec<BucketChange> =
                    (0..=u16::MAX).zip(self.placement.table().owners().iter().copied()).collect();
                self.dataplane.publish(id, &all, self.flows.pinned());
                self.listeners.push(ListenerState::new(id, asked, true));
                format!("{address} added")
            }
        }
    }

    fn begin_listening(&mut self, undo: &Undo, now: Instant) -> ApplyingStage {
        self.want_listeners();
        self.plan_flows(now);
        if undo.config().backlog == self.settings.config.backlog {
            return ApplyingStage::Listening(Vec::new());
        }
        let sockets = self.pool.iter().flat_map(|worker| self.tcp_sockets(worker));
        ApplyingStage::Listening(sockets.map(|socket| socket.cookie).collect())
    }

    fn begin_growing(&mut self, changes: &mut Vec<String>, undo: &Undo, now: Instant) -> ApplyingStage {
        let (wanted, workers) = (self.settings.config.workers, self.pool.staying().len());
        self.settings.config.workers = workers;
        if wanted != workers {
            match self.begin_scaling(wanted, now) {
                Ok(growth) => return ApplyingStage::Growing(growth),
                Err(denied) => changes.push(denied.to_string()),
            }
        } else if *undo.config() != self.settings.config && changes.is_empty() {
            changes.push("settings changed".into());
        }
        ApplyingStage::Finishing
    }

    fn finish_applying(&mut self, changes: Vec<String>, undo: Undo, reply: Reply<Result<String, String>>) {
        let name = self.settings.config.name.clone();
        let revision = self.settings.revision();
        let outdated = self.pool.outdated(revision);
        if undo.revision() == revision || outdated.is_empty() {
            let summary = if changes.is_empty() { "not changed".into() } else { changes.join(", ") };
            self.prune_listeners();
            return reply.send(Ok(format!("{name}: {summary}")));
        }
        // Only another program may fail to work, and needs a trial; other listeners do not make it another program.
        let (before, after) = (undo.config(), &self.settings.config);
        let of = |config: &ServiceConfig| {
            (config.command.clone(), config.sockets, config.user.clone(), config.process.clone())
        };
        let program = of(before) == of(after);
        let trial = if program { Duration::ZERO } else { TRIAL };
        let reply = RefCell::new(Some(reply));
        let listener = move |event| {
            let RolloutEvent::Done { replaced, error } = event else { return };
            let Some(reply) = reply.take() else { return };
            reply.send(match error {
                None => {
                    let replaced = format!("{replaced} workers replaced");
                    let all = changes.iter().chain([&replaced]).map(String::as_str);
                    Ok(format!("{name}: {}", all.collect::<Vec<&str>>().join(", ")))
                }
                Some(error) => Err(format!("service {name} goes on with {OLD}: {error}")),
            });
        };
        let cause = self.agenda.incidents.asked("its settings have changed");
        self.replace(RestartOptions::in_turn(trial), outdated, Some(undo), cause, Box::new(listener));
    }

    /// Goes back to the settings that processes were started with before, because new processes did not work. Workers
    /// that have been replaced already are replaced again.
    pub(super) fn undo(&mut self, undo: Undo) {
        warn!(service = undo.config().name, "back to {OLD}");
        let same = undo.config().command == self.settings.config.command;
        self.settings.undo(undo);
        self.note_stop(same);
        self.give_sockets();
        self.want_listeners();
        self.replace_outdated();
        self.prune_listeners();
    }

    /// Removes listeners that are not wanted and that no worker uses.
    pub(super) fn prune_listeners(&mut self) {
        for listener in self.listeners.prune(|listener| self.pool.uses(listener)) {
            self.dataplane.remove(listener);
        }
    }
}
