//! What all requests share: one look at the daemon at a time, so that a flood of requests costs no more than one after
//! the other does, and each answer is of a moment after its request.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use reuseport_lb_client::api::{Refusal, ServiceStatus, Status};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::handle::Handle;
use crate::offload;

/// Least time between the beginnings of two looks.
const APART: Duration = Duration::from_millis(50);

/// The daemon, as all requests see it.
pub(super) struct Shared {
    handle: Handle,
    /// Held by the request that looks.
    looking: Mutex<()>,
    /// When the last look that ended began, and what it saw.
    seen: RefCell<Option<(Instant, Arc<Status>)>>,
    next: Cell<Instant>,
}

impl Shared {
    pub(super) fn new(handle: Handle) -> Self {
        let next = Cell::new(Instant::now());
        Self { handle, looking: Mutex::default(), seen: RefCell::default(), next }
    }

    /// The status of all services.
    pub(super) async fn status(&self) -> Result<Arc<Status>, Refusal> {
        let asked = Instant::now();
        let _looking = self.looking.lock().await;
        // Somebody else may have looked since.
        if let Some((begun, status)) = &*self.seen.borrow()
            && *begun >= asked
        {
            return Ok(status.clone());
        }
        sleep_until(self.next.get()).await;
        let begun = Instant::now();
        self.next.set(begun + APART);
        let shown = |mut status: Status| {
            // A command may have a secret among its arguments.
            status.services.iter_mut().for_each(|service| service.settings.clear());
            Arc::new(status)
        };
        let status = self.handle.status(None, shown).await?;
        self.seen.replace(Some((begun, status.clone())));
        Ok(status)
    }

    /// The status of all services, or of one, without what takes long.
    pub(super) async fn glances(&self, only: Option<&str>) -> Result<Vec<ServiceStatus>, Refusal> {
        self.handle.glances(only).await
    }

    /// Makes a long text in a thread.
    pub(super) async fn in_thread(
        &self,
        make: impl FnOnce() -> String + Send + 'static,
    ) -> Result<String, Refusal> {
        offload::in_thread_or_here("answering", make)
            .await
            .map_err(|error| Refusal::Failed(format!("{error:#}")))
    }
}
