//! Which program decides for a group, where two services have one for its address.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the program of a group decides, as its service and the list of all claims see it.
#[derive(Clone)]
pub struct Decides(Arc<AtomicBool>);

impl Decides {
    /// A flag that starts as `decides`.
    #[must_use]
    pub fn new(decides: bool) -> Self {
        Self(Arc::new(decides.into()))
    }

    /// Whether the program decides.
    #[must_use]
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets the flag for all clones.
    pub fn set(&self, decides: bool) {
        self.0.store(decides, Ordering::Relaxed);
    }
}
