//! A subscription to the single decisions of a service.

use reuseport_lb_client::api::{Traced, TracedDecision};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::services::ServiceHandle;
use crate::service::Command;

/// The decisions of a service from the moment of the subscription, which ends on drop.
pub struct Trace {
    pub(super) decisions: broadcast::Receiver<TracedDecision>,
    pub(super) service: ServiceHandle,
}

impl Trace {
    /// The next decision, or how many were missed; `None` when the service has ended. May be cancelled.
    pub async fn next(&mut self) -> Option<Traced> {
        match self.decisions.recv().await {
            Ok(decision) => Some(Traced::Decision(decision)),
            Err(RecvError::Lagged(missed)) => Some(Traced::Missed { missed }),
            Err(RecvError::Closed) => None,
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // The service counts its subscribers in its own task, which runs after this value is gone.
        let _ = self.service.tell(Command::TraceEnded);
    }
}
