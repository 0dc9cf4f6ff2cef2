//! Who decides for a group, where two services have programs for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the program of a group decides, as its service and the list of all claims see it.
#[derive(Clone)]
pub struct Decides(Arc<AtomicBool>);

impl Decides {
    /// What both see at first.
    #[must_use]
    pub fn new(decides: bool) -> Self {
        Self(Arc::new(decides.into()))
    }

    /// Whether it does.
    #[must_use]
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Says so.
    pub fn set(&self, decides: bool) {
        self.0.store(decides, Ordering::Relaxed);
    }
}
