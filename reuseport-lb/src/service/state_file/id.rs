//! Which worker a saved one is.

use serde::{Deserialize, Serialize};

use crate::domain::ports::WorkerId;

/// Which worker a saved one is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedId {
    /// The number in the worker's name: 7 for `web/7`.
    pub number: usize,
    /// Serial number, which tells workers with the same number apart.
    pub instance: u64,
    /// 0, or the number of a further socket of the worker's process: 1 for `web/7.1`.
    #[serde(default)]
    pub part: usize,
}

impl From<WorkerId> for SavedId {
    fn from(WorkerId { number, instance, part }: WorkerId) -> Self {
        Self { number, instance, part }
    }
}

impl From<SavedId> for WorkerId {
    fn from(SavedId { number, instance, part }: SavedId) -> Self {
        Self { number, instance, part }
    }
}
