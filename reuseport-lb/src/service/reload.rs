//! Other settings for a service that runs: first everything that can fail, then the rest. What did
//! not change is not touched.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result};
use reuseport_lb_common::layout::LAYOUT_VERSION;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;
use xxhash_rust::xxh3::xxh3_64;

use super::door::Door;
use super::workers::Id;
use super::{LOOKING_UP, Progress, Service, Wish, with_user};
use crate::config;
use crate::domain::listener::{Listener, Protocol};
use crate::kernel::group::Policy;
use crate::kernel::host::User;
use crate::kernel::socket;
use crate::offload::{Slices, in_thread_within};

/// How long the first worker of another command is watched before it takes over.
pub const TRIAL: Duration = Duration::from_secs(2);

/// Other settings.
pub struct Prepare {
    /// As configured.
    pub config: config::Service,
    /// Only if that is not what was configured before: what `scale` and `drain` did then stays.
    pub if_changed: bool,
}

/// What [`super::Command::Prepare`] has made.
pub(super) struct Prepared {
    configured: config::Service,
    config: config::Service,
    user: Option<User>,
    /// New groups, and groups that are there with another policy.
    doors: Vec<Door>,
}

impl Service {
    /// Makes everything that can fail.
    pub(super) async fn prepare(&mut self, wish: Prepare) -> Result<(), String> {
        let Prepare { config: configured, if_changed } = wish;
        self.forget_prepared();
        if if_changed && configured == self.configured {
            return Ok(());
        }
        if self.stopping {
            return Err(format!("service {} is ending", self.config.name));
        }
        // A start does not fail for what an earlier daemon was doing.
        if self.rollout.is_some() && !if_changed {
            return Err(format!(
                "workers of service {} are being replaced right now: try again when that is done",
                self.config.name
            ));
        }
        let prepared = self.make_ready(&configured).await;
        let prepared = prepared
            .with_context(|| format!("service {}", configured.name))
            .map_err(|error| format!("{error:#}"))?;
        self.count += prepared.doors.len() as u64;
        self.prepared = Some(prepared);
        Ok(())
    }

    async fn make_ready(&self, configured: &config::Service) -> Result<Prepared> {
        let asked = configured.clone();
        let (config, user) =
            in_thread_within(LOOKING_UP, "looking up a user", move || with_user(asked)).await??;
        let mut known: Vec<&Door> = self.doors.iter().collect();
        let mut doors = Vec::new();
        let mut count = self.count;
        for listener in &config.listen {
            let door = match known.iter().position(|door| door.asked == *listener) {
                None => {
                    count += 1;
                    let made = Door::make(&config, listener, count, &self.surroundings, &self.tracer);
                    let door = made.await?;
                    socket::probe(&door.group)?;
                    door
                }
                Some(at) => {
                    let door = known.remove(at);
                    if Policy::of(&config) == Policy::of(&self.config) {
                        continue;
                    }
                    let which = (&door.asked, door.group.listener());
                    Door::take_over(
                        &config,
                        which,
                        &door.name,
                        LAYOUT_VERSION,
                        &self.surroundings,
                        &self.tracer,
                    )
                    .await?
                }
            };
            doors.push(door);
        }
        Ok(Prepared { configured: configured.clone(), config, user, doors })
    }

    /// Nothing of what was prepared is left.
    pub(super) fn forget_prepared(&mut self) {
        let Some(prepared) = self.prepared.take() else { return };
        for door in prepared.doors {
            if !self.doors.iter().any(|known| known.name == door.name) {
                self.surroundings.pins.forget(&self.config.name, &door.name);
            }
        }
    }

    /// Applies what was prepared.
    pub(super) async fn commit(&mut self, answer: oneshot::Sender<Result<String, String>>) {
        let wanted = self.prepared.as_ref().map_or(&self.config.listen, |it| &it.config.listen);
        wanted.iter().for_each(|listener| self.surroundings.claims.want(listener, &self.config.name));
        let Some(Prepared { configured, config, user, doors }) = self.prepared.take() else {
            return drop(answer.send(Ok(format!("{}: not changed", self.config.name))));
        };
        if release_of(&config) != self.release {
            self.end_rollout("another configuration is applied");
        }
        let before = std::mem::replace(&mut self.config, config);
        let old_configured = std::mem::replace(&mut self.configured, configured);
        let old_user = std::mem::replace(&mut self.user, user);
        let mut changes = Vec::new();
        let mut slices = Slices::begin();
        for door in doors {
            changes.push(self.put_up(door));
            slices.turn().await;
        }
        self.want_listeners();
        if before.backlog != self.config.backlog {
            self.set_backlog().await;
        }
        self.plan_rotation();
        let same = release_of(&before) == release_of(&self.config);
        self.release = release_of(&self.config);
        let (wanted, workers) = (self.config.workers, self.staying().len());
        self.config.workers = workers;
        if wanted != workers {
            match self.scale(wanted).await {
                Ok(scaled) => changes.push(format!("{} → {} workers", scaled.before, scaled.after)),
                Err(error) => changes.push(error),
            }
        } else if before != self.config && changes.is_empty() {
            changes.push("settings changed".into());
        }
        self.unsaved = true;
        let outdated = self.outdated();
        let name = self.config.name.clone();
        if same || outdated.is_empty() {
            let summary = if changes.is_empty() { "not changed".into() } else { changes.join(", ") };
            self.prune_doors();
            return drop(answer.send(Ok(format!("{name}: {summary}"))));
        }
        // Another program may not work; other listeners do not make it another program.
        let program = (&before.command, &before.user) == (&self.config.command, &self.config.user);
        let trial = if program { Duration::ZERO } else { TRIAL };
        let (progress, mut told) = mpsc::unbounded_channel();
        let undo = Undo { config: before, configured: old_configured, user: old_user };
        self.replace(Wish::in_turn(trial), outdated, Some(undo), progress);
        tokio::task::spawn_local(async move {
            let mut outcome = Err("the service ended meanwhile".into());
            while let Some(progress) = told.recv().await {
                if let Progress::Done { replaced, error } = progress {
                    outcome = match error {
                        None => {
                            changes.push(format!("{replaced} workers replaced"));
                            Ok(format!("{name}: {}", changes.join(", ")))
                        }
                        Some(error) => Err(format!(
                            "service {name} goes on with its old command, user and listeners: {error}"
                        )),
                    };
                    break;
                }
            }
            let _ = answer.send(outcome);
        });
    }

    /// The new processes did not work: what a process is started with is as before, also for those
    /// that have been replaced already.
    pub(super) fn undo(&mut self, undo: Undo) {
        let Undo { config, configured, user } = undo;
        warn!(service = config.name, "back to the old command, user and listeners");
        // Not what it was: other settings have changed, and a start with the old file changes them back.
        self.configured = starting_as(configured, self.configured.clone());
        self.config = starting_as(config, self.config.clone());
        self.user = user;
        self.release = release_of(&self.config);
        self.want_listeners();
        self.unsaved = true;
        self.replace_outdated();
        self.prune_doors();
    }

    /// Workers that were not started as they would be now.
    fn outdated(&self) -> VecDeque<usize> {
        let old = |id: &Id| self.workers.get(id).is_some_and(|worker| worker.release != self.release);
        self.staying().into_iter().filter(old).map(|id| id.number).collect()
    }

    /// Begins to replace them, unless somebody is being replaced.
    pub(super) fn replace_outdated(&mut self) {
        let outdated = self.outdated();
        if self.rollout.is_none() && !outdated.is_empty() {
            self.replace(Wish::in_turn(TRIAL), outdated, None, mpsc::unbounded_channel().0);
        }
    }

    /// A group that is new, or has another policy.
    fn put_up(&mut self, mut door: Door) -> String {
        let bound = *door.group.listener();
        let Some(at) = self.doors.iter().position(|old| old.name == door.name) else {
            door.publish(&self.table, &self.flows.keepers);
            self.doors.push(door);
            return format!("{bound} added");
        };
        door.group.copy(&self.doors[at].group);
        for (slot, fitness) in self.doors[at].group.unfit() {
            door.group.set_fitness(slot, fitness);
        }
        door.group.trace(self.tracer.wanted());
        std::mem::swap(&mut door.health, &mut self.doors[at].health);
        let mut old = std::mem::replace(&mut self.doors[at], door);
        self.tell_rosters(None);
        let attached = self.attach_door(at).and_then(|()| self.doors[at].group.settle());
        match attached {
            Ok(()) => format!("{bound} decides anew"),
            Err(error) => {
                std::mem::swap(&mut old.health, &mut self.doors[at].health);
                self.doors[at] = old;
                format!("{bound} decides as before: {error:#}")
            }
        }
    }

    /// Marks which doors workers get sockets of from now on, and puts them in the order of `listen`.
    fn want_listeners(&mut self) {
        let mut left: Vec<Door> = std::mem::take(&mut self.doors);
        for listener in &self.config.listen {
            let at = left.iter().position(|door| door.asked == *listener);
            if let Some(mut door) = at.map(|at| left.remove(at)) {
                door.wanted = true;
                self.doors.push(door);
            }
        }
        left.iter_mut().for_each(|door| door.wanted = false);
        self.doors.append(&mut left);
    }

    /// Takes down doors that nobody needs any more.
    pub(super) fn prune_doors(&mut self) {
        let used = |listener: &Listener| {
            self.workers.values().any(|it| it.places.iter().any(|place| place.listener == *listener))
        };
        let unused = |door: &Door| !door.wanted && !used(door.group.listener());
        let gone: Vec<usize> = (0..self.doors.len()).rev().filter(|at| unused(&self.doors[*at])).collect();
        for at in gone {
            let door = self.doors.remove(at);
            self.surroundings.pins.forget(&self.config.name, &door.name);
            self.unsaved = true;
        }
    }

    async fn set_backlog(&self) {
        let mut slices = Slices::begin();
        let places = self.workers.values().flat_map(|worker| &worker.places);
        for place in places.filter(|place| place.listener.protocol == Protocol::Tcp) {
            slices.turn().await;
            // Listening again is how listen(2) changes it; one that does not listen is not our business.
            if place.socket.is_listener().unwrap_or(false) {
                let _ = place.socket.listen(i32::try_from(self.config.backlog).unwrap_or(i32::MAX));
            }
        }
    }
}

/// What a reload that failed goes back to.
pub(super) struct Undo {
    config: config::Service,
    configured: config::Service,
    user: Option<User>,
}

/// `rest`, with processes started as in `start`: see [`release_of`].
fn starting_as(start: config::Service, rest: config::Service) -> config::Service {
    let config::Service { listen, command, embedded, user, watchdog, .. } = start;
    config::Service { listen, command, embedded, user, watchdog, ..rest }
}

/// A hash of what a process is started with: the settings that a running worker cannot be told. Going
/// back to settings of before makes workers current that were started with them.
pub(super) fn release_of(config: &config::Service) -> u64 {
    let started = (&config.listen, &config.command, config.embedded, &config.user, config.watchdog);
    xxh3_64(&serde_json::to_vec(&started).unwrap_or_default())
}
