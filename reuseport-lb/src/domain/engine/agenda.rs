//! Work of an engine that is still to be done, in parts: with hundreds of workers or dozens of listeners, the loop
//! serves other services and requests between them.

use std::collections::{BTreeMap, VecDeque};

use super::super::Reply;
use super::super::bucket_move::Constraint;
use super::super::denied::Denied;
use super::super::incidents::IncidentQueue;
use super::super::ports::{Cookie, ListenerId, WorkerId};
use super::super::reconfigure::Undo;
use super::super::table::Plan;
use super::super::worker::Step;
use super::input::{NewGroup, Scaling};

/// All work that is still to be done.
#[derive(Default)]
pub(super) struct Agenda {
    /// Workers whose first process is still to be started.
    pub(super) starts: VecDeque<WorkerId>,
    /// Steps that many workers take at once, or that wait until buckets have moved.
    pub(super) steps: VecDeque<(WorkerId, Step)>,
    /// Workers whose sockets are still to be repaired.
    pub(super) repairs: VecDeque<WorkerId>,
    /// Workers whose deadline has passed.
    pub(super) due: VecDeque<WorkerId>,
    /// The move of buckets that is under way.
    pub(super) pass: Option<Pass>,
    /// Callers that are answered when buckets have moved.
    pub(super) placed: Vec<Reply<()>>,
    /// The service is being scaled, or gets other settings.
    pub(super) change: Option<Change>,
    /// A worker that is missing could not be added.
    pub(super) refill_failed: bool,
    /// Other settings are being prepared.
    pub(super) prepared: bool,
    /// Callers that are answered when the service decides for all of its listeners.
    pub(super) deciding: Vec<Reply<()>>,
    /// What is still to be told to those who watch the service.
    pub(super) incidents: IncidentQueue,
}

impl Agenda {
    /// Whether no work can be done now.
    pub(super) fn is_empty(&self) -> bool {
        let lists =
            self.starts.is_empty() && self.steps.is_empty() && self.repairs.is_empty() && self.due.is_empty();
        lists && self.pass.is_none() && self.change.is_none()
    }

    /// Whether buckets are being moved.
    pub(super) fn is_placing(&self) -> bool {
        self.pass.is_some()
    }

    /// What keeps the service from taking inputs, as the end of a sentence: service web "is being scaled".
    pub(super) fn busy(&self) -> Option<&'static str> {
        if self.pass.is_some() || !self.placed.is_empty() {
            return Some("is moving buckets");
        }
        self.change.as_ref().map(Change::is)
    }
}

/// A pass over the buckets of all listeners, in stages.
pub(super) struct Pass {
    pub(super) stage: PassStage,
    /// Listeners that this stage has still to visit; the last one first.
    pub(super) left: Vec<ListenerId>,
}

pub(super) enum PassStage {
    /// Counts live flows by slot, for workers that leave.
    CountFlows(Vec<u64>),
    /// Takes flows from workers that keep them no longer; counts them by slot.
    Cut(BTreeMap<u16, u64>),
    /// Collects the constraints of buckets.
    Constrain(Constraints),
    /// Writes the changes of a plan into buckets; of listeners with buckets of their own, makes the plan first.
    Publish(Publishing),
    /// Counts by slot the live flows that stay with it although their bucket has moved.
    CountStaying(Vec<u64>),
    /// Ends moves of buckets whose previous worker has no live flow; counts them.
    Sweep(usize),
}

/// Where buckets can move; those beyond the end of a list can move anywhere.
#[derive(Default)]
pub(super) struct Constraints {
    /// In all listeners with the buckets of the service.
    pub(super) common: Vec<Constraint>,
    /// In each of the others.
    pub(super) own: BTreeMap<ListenerId, Vec<Constraint>>,
}

/// A plan that is being written.
pub(super) struct Publishing {
    /// The plan for all listeners with the buckets of the service.
    pub(super) plan: Plan,
    pub(super) constraints: Constraints,
    /// Buckets that changed their worker in any listener, and those that should.
    pub(super) moved: usize,
    pub(super) waiting: u32,
}

/// A change that is being made; the engine takes no input until it is done.
pub(super) enum Change {
    /// Workers are being added by `scale`.
    Scaling(Growth, Reply<Result<Scaling, Denied>>),
    /// Missing workers with these numbers are being added.
    Refilling(VecDeque<usize>),
    /// Other settings are being applied.
    Applying(Box<Applying>),
}

impl Change {
    /// What keeps the service from taking inputs, as the end of a sentence.
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
    /// What has changed so far, for the answer.
    pub(super) changes: Vec<String>,
    pub(super) undo: Undo,
    pub(super) reply: Reply<Result<String, String>>,
}

/// Stage of applying other settings, with what it has still to do.
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
    /// The number of workers to go back to if one cannot be added.
    pub(super) wanted: usize,
    pub(super) after: usize,
}
