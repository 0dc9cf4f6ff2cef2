//! Which worker has which bucket, PURE: members and constraints → changes. Not: telling the kernel (`engine/placing.rs`).

use std::time::{Duration, Instant};

use super::bucket_move::Constraint;
use super::table::{Member, Plan, Table};

/// A worker that is ready waits this long for others that are starting, so that buckets move once
/// for all of them.
pub(super) const JOIN_TOGETHER: Duration = Duration::from_millis(200);

/// The table of a service, and what is to become of it.
#[derive(Default)]
pub struct Placement {
    table: Table,
    members: Vec<Member>,
    /// Buckets that changed their worker so far.
    moved: u64,
    /// Whom buckets are to be spread over next.
    wanted: Option<Vec<Member>>,
    /// When those who are ready join, together.
    join_at: Option<Instant>,
}

impl Placement {
    /// With a table that is there already.
    #[must_use]
    pub fn of(table: Table, moved: u64) -> Self {
        Self { table, moved, ..Self::default() }
    }

    /// Who has which bucket.
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Who has any.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Buckets that changed their worker so far.
    #[must_use]
    pub fn moved(&self) -> u64 {
        self.moved
    }

    /// Buckets are to be spread over these, as soon as that can be.
    pub fn want(&mut self, members: Vec<Member>) {
        self.join_at = None;
        self.wanted = Some(members);
    }

    /// The plan is to be made again for those who are members already, unless others are wanted.
    pub fn again(&mut self) {
        self.wanted.get_or_insert_with(|| self.members.clone());
    }

    /// Whether the table is to be made anew.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.wanted.is_some()
    }

    /// Those who are ready wait a moment for others.
    pub fn join_soon(&mut self, now: Instant) {
        self.join_at.get_or_insert(now + JOIN_TOGETHER);
    }

    /// When they have waited long enough.
    #[must_use]
    pub fn join_at(&self) -> Option<Instant> {
        self.join_at
    }

    /// Nobody waits any more.
    pub fn joined(&mut self) {
        self.join_at = None;
    }

    /// Makes the table of those who are wanted, as far as buckets may move.
    pub fn plan(&mut self, constraint: impl Fn(u16) -> Constraint) -> Plan {
        let Some(members) = self.wanted.take() else { return Plan::default() };
        let plan = self.table.plan(&members, constraint);
        self.members = members;
        self.moved += plan.changes.len() as u64;
        plan
    }
}
