//! Saving what the next daemon must know: whenever it differs from what was saved last.

use std::path::Path;
use std::time::{Duration, Instant};

use tracing::warn;

use super::claims::Claims;
use super::processes::OwnEngine;
use super::state_file::{self, Identities, SavedService, Stamp, StateFile};
use crate::domain::engine::{Snapshot, WorkerRecord};
use crate::domain::ports::Dataplane;

/// The pause after a save is this many times as long as the save, so that saving takes at most a sixth of the time.
const SAVING: u32 = 5;

/// Pauses that would be shorter than this are not made.
const TOGETHER: Duration = Duration::from_millis(50);

/// The state file of a service, and what was saved in it.
pub(super) struct Saver {
    file: StateFile,
    /// What was saved last.
    saved: Option<Saved>,
    /// The state differs from what was saved last.
    differs: bool,
    /// The end of the pause after the last save, if there is one.
    not_before: Option<Instant>,
}

/// A state that was saved.
struct Saved {
    snapshot: Snapshot,
    listeners: Vec<state_file::SavedListener>,
    /// [`ProcessTable::changed`](super::processes::ProcessTable::changed) then.
    changed: u64,
}

impl Saver {
    pub(super) fn new(runtime_dir: &Path, service: &str) -> Self {
        let file = StateFile::new(runtime_dir, service);
        Self { file, saved: None, differs: true, not_before: None }
    }

    /// Why the last write failed, if it did.
    pub(super) fn failure(&self) -> Option<&str> {
        self.file.failure()
    }

    /// Ends the pause: the next change is saved at once.
    pub(super) fn at_once(&mut self) {
        self.not_before = None;
    }

    /// When to save next, if something is still to be saved.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.differs { self.not_before } else { self.file.again_at() }
    }

    /// Saves everything again if the state file was removed or replaced.
    pub(super) fn look(&mut self, engine: &OwnEngine) {
        if self.saved.is_some() && self.file.failure().is_none() && !self.file.is_there() {
            warn!(service = engine.settings().config.name, "its state was removed, and is written again");
            self.saved = None;
        }
    }

    /// Saves the state if it has changed and no pause forbids it; false if a change is not saved yet.
    pub(super) fn save(&mut self, engine: &OwnEngine, claims: &Claims) -> bool {
        let now = Instant::now();
        let listeners = listeners_of(engine, claims);
        let changed = engine.processes().changed();
        let same = |saved: &Saved| {
            engine.is_as(&saved.snapshot) && saved.listeners == listeners && saved.changed == changed
        };
        self.differs = !self.saved.as_ref().is_some_and(same);
        let again = self.file.again_at().is_some_and(|at| at <= now);
        if !self.differs && !again {
            return true;
        }
        // A process that is not in the state file is lost to the next daemon.
        let urgent = engine.processes().has_blocked();
        if self.differs && !urgent && self.not_before.is_some_and(|at| at > now) {
            return false;
        }
        let snapshot = engine.snapshot();
        self.file.write(&to_state(engine, &snapshot, &listeners));
        self.saved = Some(Saved { snapshot, listeners, changed });
        self.differs = false;
        // With thousands of sockets a save is long, and several changes are saved together.
        let pause = now.elapsed() * SAVING;
        self.not_before = (pause > TOGETHER).then(|| now + pause);
        true
    }

    /// Removes all copies.
    pub(super) fn remove(&self) {
        self.file.remove();
    }
}

fn listeners_of(engine: &OwnEngine, claims: &Claims) -> Vec<state_file::SavedListener> {
    let service = &engine.settings().config.name;
    let of = |listener: &crate::domain::listeners::ListenerState| {
        let group = engine.dataplane().get(listener.id)?;
        Some(state_file::SavedListener {
            asked: listener.asked,
            bound: *group.group.listener(),
            name: group.name.clone(),
            wanted: listener.wanted,
            program: Some(group.group.program_id()),
            since: claims.since(&listener.asked, service),
            lost: claims.is_lost(&listener.asked, service),
            avoided: listener.apart.as_ref().map(|apart| apart.avoided().to_vec()),
            left: listener.left.iter().map(|cookie| cookie.0).collect(),
        })
    };
    engine.listeners().filter_map(of).collect()
}

fn to_state(
    engine: &OwnEngine,
    snapshot: &Snapshot,
    listeners: &[state_file::SavedListener],
) -> SavedService {
    SavedService {
        abandoned: None,
        told: false,
        stamp: Stamp::own(),
        config: snapshot.settings.config.clone(),
        configured: snapshot.settings.configured.clone(),
        moved: snapshot.moved,
        flows_cut: snapshot.flows_cut,
        tally: snapshot.tally.clone(),
        identities: Identities { count: snapshot.serial, word: Some(engine.dataplane().word()) },
        revision: snapshot.revision,
        listeners: listeners.to_vec(),
        workers: snapshot.workers.iter().map(|record| worker_of(engine, record)).collect(),
    }
}

fn worker_of(engine: &OwnEngine, record: &WorkerRecord) -> state_file::SavedWorker {
    let place = |(listener, cookie, selected_before): &(_, crate::domain::ports::Cookie, u64)| {
        state_file::SavedSocket {
            listener: engine.dataplane().address(*listener),
            cookie: cookie.0,
            selected_before: *selected_before,
        }
    };
    state_file::SavedWorker {
        id: record.id.into(),
        slot: record.slot,
        holds_slot: record.holds_slot,
        trial: record.trial,
        revision: record.revision,
        weight: record.weight,
        life: record.life,
        watched: record.watched,
        stop: record.stop,
        process: record.process.and_then(|key| engine.processes().describe(key)).unwrap_or_default(),
        sockets: record.sockets.iter().map(place).collect(),
        bound: record.bound.iter().map(|(at, it)| (engine.dataplane().address(*at), it.0)).collect(),
    }
}
