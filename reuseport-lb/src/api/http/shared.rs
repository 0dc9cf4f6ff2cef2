//! What all requests share: one look of a kind at the daemon at a time, so that a flood of requests costs no more than one
//! after the other does, and each answer is of a moment after its request.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::slice::from_ref;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use reuseport_lb_client::api::{Refusal, ServiceStatus, Status};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep_until};

use crate::config::MetricsConfig;
use crate::handle::Handle;
use crate::offload;

/// Least time between the beginnings of two looks of a kind.
const APART: Duration = Duration::from_millis(50);

/// The daemon, as all requests see it.
pub(super) struct Shared {
    pub(super) handle: Handle,
    pub(super) metrics: Rc<Cell<MetricsConfig>>,
    statuses: Looks<Status>,
    glances: Looks<Vec<ServiceStatus>>,
    /// Of each service that was asked for.
    buckets: RefCell<BTreeMap<String, Rc<Looks<Bytes>>>>,
    /// What all readers of `/events` get each second.
    pub(super) live: watch::Sender<Bytes>,
    /// Whether a task makes these.
    pub(super) feeding: Cell<bool>,
}

/// Looks of one kind.
struct Looks<T> {
    /// Held by the request that looks.
    looking: Mutex<()>,
    /// When the last look that ended began, and what it saw.
    seen: RefCell<Option<(Instant, Arc<T>)>>,
    next: Cell<Instant>,
}

impl<T> Default for Looks<T> {
    fn default() -> Self {
        Self { looking: Mutex::default(), seen: RefCell::default(), next: Cell::new(Instant::now()) }
    }
}

impl<T> Looks<T> {
    /// What a look of after this call sees; this request's own, or that of another one.
    async fn share(&self, look: impl Future<Output = Result<Arc<T>, Refusal>>) -> Result<Arc<T>, Refusal> {
        let asked = Instant::now();
        let _looking = self.looking.lock().await;
        if let Some((begun, seen)) = &*self.seen.borrow()
            && *begun >= asked
        {
            return Ok(seen.clone());
        }
        sleep_until(self.next.get()).await;
        let begun = Instant::now();
        self.next.set(begun + APART);
        let seen = look.await?;
        self.seen.replace(Some((begun, seen.clone())));
        Ok(seen)
    }
}

impl Shared {
    pub(super) fn new(handle: Handle, metrics: Rc<Cell<MetricsConfig>>) -> Self {
        let (statuses, glances) = (Looks::default(), Looks::default());
        Self {
            handle,
            metrics,
            statuses,
            glances,
            buckets: RefCell::default(),
            live: watch::Sender::default(),
            feeding: Cell::default(),
        }
    }

    /// The owners of a service's buckets, as `/buckets` answers.
    pub(super) async fn buckets(&self, service: &str) -> Result<Bytes, Refusal> {
        let looks = self.buckets.borrow_mut().entry(service.to_owned()).or_default().clone();
        let look = async {
            let owners = self.handle.buckets(service).await?;
            Ok(Arc::new(owners.into_iter().flat_map(u16::to_le_bytes).collect::<Vec<u8>>().into()))
        };
        // Of a service that there is not, or not any more, nothing is kept.
        let seen =
            looks.share(look).await.inspect_err(|_| drop(self.buckets.borrow_mut().remove(service)))?;
        Ok(Bytes::clone(&seen))
    }

    /// The status of all services.
    pub(super) async fn status(&self) -> Result<Arc<Status>, Refusal> {
        let shown = |mut status: Status| {
            // A command may have a secret among its arguments.
            status.services.iter_mut().for_each(|service| service.settings.clear());
            Arc::new(status)
        };
        self.statuses.share(self.handle.status(None, shown)).await
    }

    /// What `judge` says of all services, or of one; it sees their status without what takes long.
    pub(super) async fn judged<J>(
        &self,
        only: Option<&str>,
        judge: impl FnOnce(&[ServiceStatus]) -> J,
    ) -> Result<J, Refusal> {
        let all = self.glances.share(async { self.handle.glances().await.map(Arc::new) }).await?;
        let Some(name) = only else { return Ok(judge(&all)) };
        match all.iter().find(|service| service.name == name) {
            Some(service) => Ok(judge(from_ref(service))),
            None => Err(Refusal::unknown_service(name, all.iter().map(|service| &*service.name))),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn requests_that_come_together_share_a_look_that_began_after_them() {
        let (looks, looked) = (Looks::default(), Cell::new(0));
        let one = || {
            looks.share(async {
                looked.set(looked.get() + 1);
                tokio::task::yield_now().await;
                Ok(Arc::new(looked.get()))
            })
        };
        // The look of the first one may have begun before the others came.
        let (first, second, third, fourth) = tokio::join!(one(), one(), one(), one());
        let seen = [first, second, third, fourth].map(|seen| *seen.unwrap());
        assert!(looked.get() <= 2 && seen[1..] == [looked.get(); 3], "{seen:?}");
        assert_eq!(*one().await.unwrap(), looked.get());
        assert!(seen[3] < looked.get(), "each answer is of a moment after its request");
    }
}
