//! What one group's program and the daemon share, in memory; for any thread.

use std::sync::Arc;

use aya::maps::MapData;
use reuseport_lb_common::activity::Activity;
use reuseport_lb_common::load::Load;
use reuseport_lb_common::table::Table;
use tracing::warn;

use crate::kernel::mapped::Mapped;

/// The structures that a group shares with its program. They outlive the group's pins as long as a clone of this exists.
#[derive(Clone)]
pub struct GroupMemory {
    table: Arc<Mapped<Table>>,
    load: Arc<Mapped<Load>>,
    /// Map `ACTIVITY`, of UDP groups. Mapped only while it is read, because it has 4 MiB.
    activity: Option<Arc<MapData>>,
}

impl GroupMemory {
    pub(super) fn new(table: Mapped<Table>, load: Mapped<Load>, activity: Option<MapData>) -> Self {
        Self { table: Arc::new(table), load: Arc::new(load), activity: activity.map(Arc::new) }
    }

    /// The entry of each bucket.
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Fitness of each slot, and the rosters.
    #[must_use]
    pub fn load(&self) -> &Load {
        &self.load
    }

    /// Whether the program marks flows.
    #[must_use]
    pub fn tracks(&self) -> bool {
        self.activity.is_some()
    }

    /// Which flows live; `None` where they are not tracked, or the map cannot be mapped now. Mapping takes longer
    /// than most uses of it, so a caller keeps the result for all that it does at once.
    #[must_use]
    pub fn activity(&self) -> Option<impl std::ops::Deref<Target = Activity> + use<>> {
        self.activity.as_deref().and_then(mapped)
    }
}

/// Maps the value of a map of activity. `None` if that fails: the caller then skips what it does with flows.
pub(super) fn mapped(map: &MapData) -> Option<Mapped<Activity>> {
    // SAFETY: by its layout, the value is an `Activity`, whose fields are all `Shared`.
    unsafe { Mapped::new(map.fd()) }.inspect_err(|error| warn!("cannot look at flows: {error:#}")).ok()
}
