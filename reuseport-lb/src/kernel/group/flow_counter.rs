//! Counting the flows that live in a group, in any thread.

use std::sync::{Arc, Mutex, PoisonError};

use aya::maps::MapData;
use reuseport_lb_common::layout::{MAX_SLOTS, NO_SLOT, Table};

use super::{Flows, mapped};
use crate::kernel::mapped::Mapped;

/// Counts the flows of a group.
#[derive(Clone)]
pub struct FlowCounter {
    table: Arc<Mapped<Table>>,
    activity: Arc<MapData>,
    known: Arc<Mutex<Option<(Counted, Flows)>>>,
    state: Counted,
}

/// What flows were counted at: decisions of the program, and writes to its table.
pub(super) type Counted = (u64, u64);

impl FlowCounter {
    pub(super) fn new(
        table: Arc<Mapped<Table>>,
        activity: Arc<MapData>,
        known: Arc<Mutex<Option<(Counted, Flows)>>>,
        state: Counted,
    ) -> Self {
        Self { table, activity, known, state }
    }

    /// Flows that live. Looks at 4 MiB; takes about a millisecond.
    #[must_use]
    pub fn count(&self) -> Option<Flows> {
        // Not while they are counted: the daemon's loop counts as well.
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((state, flows)) = &*known()
            && *state == self.state
            && state.0 != u64::MAX
        {
            return Some(flows.clone());
        }
        let activity = mapped(&self.activity)?;
        let mut flows = Flows { by_slot: vec![0; MAX_SLOTS], live: 0, kept: 0 };
        for (bucket, entry) in (0..=u16::MAX).map(|bucket| (bucket, self.table.entry(bucket.into()))) {
            let kept = match entry.previous() {
                NO_SLOT => 0,
                _ => u64::from(activity.live(bucket, 1 - entry.side()).count_ones()),
            };
            let begun = u64::from(activity.live(bucket, entry.side()).count_ones());
            flows.live += begun + kept;
            flows.kept += kept;
            for (slot, count) in [(entry.slot(), begun), (entry.previous(), kept)] {
                if let Some(flows) = flows.by_slot.get_mut(usize::from(slot)) {
                    *flows += count;
                }
            }
        }
        *known() = Some((self.state, flows.clone()));
        Some(flows)
    }
}
