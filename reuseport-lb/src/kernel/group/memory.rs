//! What one group's program and the daemon share, in memory; for any thread.

use std::sync::Arc;

use aya::maps::MapData;
use reuseport_lb_common::activity::Activity;
use reuseport_lb_common::load::Load;
use reuseport_lb_common::table::Table;
use tracing::warn;

use crate::kernel::mapped::Mapped;

/// The structures that a group shares with its program. They outlive the group's pins while anybody has this.
#[derive(Clone)]
pub struct GroupMemory {
    table: Arc<Mapped<Table>>,
    load: Arc<Mapped<Load>>,
    /// Which flows live; of UDP only. Mapped only while it is looked at, because it is large.
    activity: Option<Arc<MapData>>,
}

impl GroupMemory {
    pub(super) fn new(table: Mapped<Table>, load: Mapped<Load>, activity: Option<MapData>) -> Self {
        Self { table: Arc::new(table), load: Arc::new(load), activity: activity.map(Arc::new) }
    }

    /// Where each bucket points to.
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// What the program is told of each slot.
    #[must_use]
    pub fn load(&self) -> &Load {
        &self.load
    }

    /// Whether flows are more than one decision.
    #[must_use]
    pub fn tracks(&self) -> bool {
        self.activity.is_some()
    }

    /// Which flows live; `None` where they are not tracked, or cannot be looked at now. To map it takes longer than most
    /// that is done with it.
    #[must_use]
    pub fn activity(&self) -> Option<impl std::ops::Deref<Target = Activity> + use<>> {
        self.activity.as_deref().and_then(mapped)
    }
}

/// The value of a map of activity. Without it, flows are not seen for once.
pub(super) fn mapped(map: &MapData) -> Option<Mapped<Activity>> {
    // SAFETY: by its layout, the value is an `Activity`, whose fields are all `Shared`.
    unsafe { Mapped::new(map.fd()) }.inspect_err(|error| warn!("cannot look at flows: {error:#}")).ok()
}
