//! What is still to be done: in parts, so that with hundreds of workers or dozens of listeners others get their turn.

use std::collections::{BTreeMap, VecDeque};

use super::super::Reply;
use super::super::bucket_move::Constraint;
use super::super::denied::Denied;
use super::super::ports::{Cookie, ListenerId, WorkerId};
use super::super::reconfigure::Undo;
use super::super::table::Plan;
use super::super::worker::Step;
use super::input::{NewGroup, Scaling};

/// What is still to be done.
#[derive(Default)]
pub(super) struct Agenda {
    /// Workers whose first process is still to be started.
    pub(super) starts: VecDeque<WorkerId>,
    /// Steps that many workers take at once, or that wait until buckets have moved.
    pub(super) steps: VecDeque<(WorkerId, Step)>,
    /// Workers whose sockets are looked at next, and put right.
    pub(super) repairs: VecDeque<WorkerId>,
    /// Workers whose time has come.
    pub(super) due: VecDeque<WorkerId>,
    /// Buckets are being moved.
    pub(super) pass: Option<Pass>,
    /// Who is answered when they have been.
    pub(super) placed: Vec<Reply<()>>,
    /// The service is being scaled, or gets other settings.
    pub(super) change: Option<Change>,
    /// A worker that is missing could not be added.
    pub(super) refill_failed: bool,
    /// Other settings are being prepared.
    pub(super) prepared: bool,
    /// Who waits until the service decides for all of its listeners.
    pub(super) deciding: Vec<Reply<()>>,
}

impl Agenda {
    /// Whether nothing is to be done now.
    pub(super) fn is_empty(&self) -> bool {
        let lists =
            self.starts.is_empty() && self.steps.is_empty() && self.repairs.is_empty() && self.due.is_empty();
        lists && self.pass.is_none() && self.change.is_none()
    }

    /// Whether buckets are being moved.
    pub(super) fn is_placing(&self) -> bool {
        self.pass.is_some()
    }

    /// What the service is in the middle of.
    pub(super) fn busy(&self) -> Option<&'static str> {
        if self.pass.is_some() || !self.placed.is_empty() {
            return Some("is moving buckets");
        }
        self.change.as_ref().map(Change::is)
    }
}

/// Buckets that are being moved, or looked at after they have been.
pub(super) struct Pass {
    pub(super) stage: PassStage,
    /// Listeners that this stage has still to deal with; the last one first.
    pub(super) left: Vec<ListenerId>,
}

pub(super) enum PassStage {
    /// Flows of workers that are to leave are counted, by slot.
    CountFlows(Vec<u64>),
    /// Flows are taken from workers that keep them no longer: how many, by slot.
    Cut(BTreeMap<u16, u64>),
    /// Where each bucket can move; empty if all of them can move anywhere.
    Constrain(Vec<Constraint>),
    /// Changes are published, and so many buckets wait.
    Publish(Plan),
    /// Flows that stay with who does not get new ones are counted, by slot.
    CountStaying(Vec<u64>),
    /// Buckets whose old flows are quiet have moved: so many.
    Sweep(usize),
}

/// A change that is being made; nothing else may come in until it is done.
pub(super) enum Change {
    /// Workers are being added.
    Scaling(Growth, Reply<Result<Scaling, Denied>>),
    /// Workers with these numbers are missing.
    Refilling(VecDeque<usize>),
    /// Other settings are being applied.
    Applying(Box<Applying>),
}

impl Change {
    /// What the service is.
    pub(super) fn is(&self) -> &'static str {
        match self {
            Self::Scaling(..) => "is being scaled",
            Self::Refilling(_) => "is getting the workers that it lacks",
            Self::Applying(_) => "is being changed",
        }
    }
}

/// Other settings that are being applied.
pub(super) struct Applying {
    pub(super) stage: ApplyingStage,
    /// What has changed so far, in words.
    pub(super) changes: Vec<String>,
    pub(super) undo: Undo,
    pub(super) reply: Reply<Result<String, String>>,
}

/// How far that is.
pub(super) enum ApplyingStage {
    Installing(VecDeque<NewGroup>),
    Listening(Vec<Cookie>),
    Growing(Growth),
    Finishing,
}

/// Workers that are being added.
pub(super) struct Growth {
    pub(super) left: VecDeque<usize>,
    pub(super) added: Vec<WorkerId>,
    pub(super) before: usize,
    /// So many were wanted before.
    pub(super) wanted: usize,
    pub(super) after: usize,
}
