//! Which worker has which bucket, PURE: members and constraints → changes. Not: writing buckets (`engine/placing.rs`).

use std::time::{Duration, Instant};

use super::bucket_move::Constraint;
use super::table::{BucketTable, Member, Plan};

/// How long a worker that became ready waits for buckets, so that buckets move once for all workers that become
/// ready within this time.
pub(super) const JOIN_TOGETHER: Duration = Duration::from_millis(200);

/// The table of a service, and the members that the next one is made for.
#[derive(Default)]
pub struct Placement {
    table: BucketTable,
    members: Vec<Member>,
    /// Buckets that changed their worker so far.
    moved: u64,
    /// Members of the next table, if it is to be made anew.
    wanted: Option<Vec<Member>>,
    /// When workers that are ready get buckets, all at once.
    join_at: Option<Instant>,
}

impl Placement {
    /// Begins with the table that an earlier daemon left.
    #[must_use]
    pub fn of(table: BucketTable, moved: u64) -> Self {
        Self { table, moved, ..Self::default() }
    }

    /// The owner of each bucket.
    #[must_use]
    pub fn table(&self) -> &BucketTable {
        &self.table
    }

    /// Members of the current table.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// How many buckets changed their worker so far.
    #[must_use]
    pub fn moved(&self) -> u64 {
        self.moved
    }

    /// Counts buckets that changed their worker at one listener only.
    pub fn moved_apart(&mut self, buckets: usize) {
        self.moved += buckets as u64;
    }

    /// Asks for a table of these members.
    pub fn want(&mut self, members: Vec<Member>) {
        self.join_at = None;
        self.wanted = Some(members);
    }

    /// Asks for a table of the current members, unless another table is asked for already: constraints have changed.
    pub fn again(&mut self) {
        self.wanted.get_or_insert_with(|| self.members.clone());
    }

    /// Whether a table was asked for and not made yet.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.wanted.is_some()
    }

    /// Asks for a table of all ready workers after `JOIN_TOGETHER`.
    pub fn join_soon(&mut self, now: Instant) {
        self.join_at.get_or_insert(now + JOIN_TOGETHER);
    }

    /// When the table that [`Placement::join_soon`] asked for is due.
    #[must_use]
    pub fn join_at(&self) -> Option<Instant> {
        self.join_at
    }

    /// Notes that workers that were waiting have been considered.
    pub fn joined(&mut self) {
        self.join_at = None;
    }

    /// Makes the table that was asked for, as far as buckets may move.
    pub fn plan(&mut self, constraint: impl Fn(u16) -> Constraint) -> Plan {
        let Some(members) = self.wanted.take() else { return Plan::default() };
        let plan = self.table.plan(&members, constraint);
        self.members = members;
        self.moved += plan.changes.len() as u64;
        plan
    }
}
