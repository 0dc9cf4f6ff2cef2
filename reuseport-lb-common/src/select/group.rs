//! What a decision is made with: the group, and the policy that it has.

use super::decision::Decision;
use crate::activity::Activity;
use crate::counters::Counter;
use crate::load::Load;
use crate::table::Table;

/// What a decision needs of its group.
pub trait Group {
    /// Which of the workers that are there is taken.
    type Policy: SelectPolicy;
    /// What is left of a decision in the end. (A whole [`Decision`] that a function of the kernel program
    /// returned would be one number for the verifier, which then follows each of its values.)
    type Verdict;

    /// Buckets, and what needs attention.
    fn table(&self) -> &Table;
    /// Fitness and rosters; asked for off the fast path only.
    fn load(&self) -> Option<&Load>;
    /// Which flows live; `None` where every decision begins a flow (TCP).
    fn activity(&self) -> Option<&Activity>;
    /// Tries to select the socket in `slot`; false if there is none. What is selected last, counts.
    fn select(&mut self, slot: u16) -> bool;
    /// As [`Group::select`], and counts what it selects: for decisions that [`Group::count`] does not see.
    fn take(&mut self, slot: u16) -> bool;
    /// Of the slot that was just selected: `None` if its worker waits for work, else the length of its queue.
    fn busy(&self) -> Option<u32>;
    /// How many connections the worker in `slot` has, which was just selected: live ones, and those that are being opened.
    fn connections(&self, slot: u16) -> u32;
    /// How many live connections the service has.
    fn all_connections(&self) -> u32;
    /// The port of whoever sends, in host order, if their address is the loopback address; else 0.
    fn loopback_port(&self) -> u16;
    /// Whether it is about a connection whose listener closes; else about one that begins, or a datagram.
    fn is_migrating(&self) -> bool;
    /// Counts a flow that stayed with the previous worker of its bucket, off the path of [`Group::count`].
    fn count_kept(&mut self);
    /// Counts a decision that did not take the fast path. (What the fast path decides follows from the rest:
    /// [`crate::counters::complete`].)
    fn count(&mut self, decision: Decision);
    /// Writes a decision into the log.
    fn trace(&mut self, key: u32, decision: Decision);
    /// What is left of a decision.
    fn verdict(self, decision: Decision) -> Self::Verdict;
}

/// Which of the workers that are there is taken, and what is remembered of the others: `Default` is what is
/// known before the first one.
pub trait SelectPolicy: Default {
    /// Whether the owner may be passed over although it is fit and there. There is no fast path then.
    const ASKS: bool;
    /// How many of the next candidates of the key are asked after the owner, up to four.
    const CANDIDATE_TRIES: u32;
    /// How many ready workers are asked after the candidates.
    const READY_TRIES: u32;
    /// What is counted of an owner that was passed over.
    const PASSED_OVER: Counter;
    /// Whether an owner that is [`SelectPolicy::best`] in the end was not passed over.
    const COMPARES: bool;

    /// Whether the worker in `slot`, which was just selected in this turn (0: the owner), is taken.
    fn takes(&mut self, slot: u16, turn: u32, group: &impl Group) -> bool;

    /// Of those that were not taken, the one to take when there is no other: its slot and its turn.
    fn best(&self) -> Option<(u16, u32)>;
}
