//! A handle of a daemon and its services, for tasks on its loop: requests in, answers, progress and refusals out, in
//! the types of the client package. Not: protocols (`api/`), nor carrying requests out (`service/`, `daemon/`).

mod directed;
mod machine;
mod services;
mod trace;

pub use directed::{Connected, Transport};
pub use machine::measure;
pub use services::{ServiceHandle, Services};
pub use trace::Trace;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use reuseport_lb_client::api::{
    Adopt, Adopted, Drain, Drained, Explainable, Explained, HostDrain, HostDrained, LastReload, Progress,
    Refusal, Released, Reload, Reloaded, Requester, Restart, Scale, Scaled, ServiceStatus, Status, Stop,
    Stopping, Weight,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::domain::listener::Listener;
use crate::domain::number::Number;
use crate::kernel::host;
use crate::offload;
use crate::service::event_log::{EventLog, EventReader};
use crate::service::{self, Command, ServiceReport};

/// A service that does not answer within this time is shown as it was before.
const BUSY: Duration = Duration::from_millis(50);

/// A request to the daemon itself, with who asks.
pub enum Order {
    /// End.
    Stop(Stop, Option<Requester>),
    /// Read the configuration again; answered, with what changed, when that is done.
    Reload(oneshot::Sender<Result<String, Refusal>>, Option<Requester>),
    /// Read the configuration again, and change nothing; answered with what would change.
    DryRun(oneshot::Sender<Result<String, Refusal>>),
    /// Start a service of this name that adopts sockets of others; answered when they are found.
    Adopt(String, Box<Adopt>, oneshot::Sender<Result<Adopted, Refusal>>, Option<Requester>),
    /// Make the machine get nothing new, or (`None`) new traffic again.
    Host(Option<HostDrain>, oneshot::Sender<Result<(), Refusal>>, Option<Requester>),
    /// End the service of this name, which adopts sockets of others.
    Release(String, oneshot::Sender<Result<Released, Refusal>>, Option<Requester>),
}

/// Requests to a daemon and its services. Clones ask the same daemon.
#[derive(Clone)]
pub struct Handle {
    services: Services,
    orders: mpsc::UnboundedSender<Order>,
    start_time: f64,
    last_reload: Rc<Cell<Option<LastReload>>>,
    host_drained: Rc<Cell<Option<HostDrained>>>,
    events: Rc<EventLog>,
    asker: Option<Requester>,
}

impl Handle {
    /// Makes a handle of these services, to which this happens; `orders` go to the daemon.
    #[must_use]
    pub fn new(services: Services, orders: mpsc::UnboundedSender<Order>, events: Rc<EventLog>) -> Self {
        let (last_reload, host_drained) = (Rc::default(), Rc::default());
        Self { services, orders, start_time: host::now(), last_reload, host_drained, events, asker: None }
    }

    /// A handle for what `asker` asks for.
    #[must_use]
    pub fn asked_by(&self, asker: Requester) -> Self {
        Self { asker: Some(asker), ..self.clone() }
    }

    fn service(&self, name: &str) -> Result<ServiceHandle, Refusal> {
        Ok(self.services.find(name)?.asked_by(self.asker.clone()))
    }

    /// Reads what happened, and follows.
    #[must_use]
    pub fn events(&self) -> EventReader {
        self.events.reader()
    }

    /// Says how a reload ended.
    pub fn reloaded(&self, successful: bool) {
        self.last_reload.set(Some(LastReload { successful, time: host::now() }));
    }

    /// Gives the status of all services, or of one, to `then` in a thread: with thousands of sockets both take many
    /// milliseconds. A service that is busy is shown as it was before.
    pub async fn status<T: Send + 'static>(
        &self,
        only: Option<&str>,
        then: impl FnOnce(Status) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let reports = self.reports(only).await?;
        let longest_step_ms = offload::longest().as_secs_f64() * 1000.0;
        let (start_time, last_reload) = (self.start_time, self.last_reload.get());
        let host_drained = self.host_drained();
        let completed = service::complete(reports, move |services| {
            then(Status {
                version: env!("CARGO_PKG_VERSION").into(),
                kernel: host::release(),
                pid: std::process::id(),
                start_time,
                last_reload,
                host_drained,
                longest_step_ms,
                services,
            })
        });
        completed.await.map_err(|error| Refusal::Failed(format!("{error:#}")))
    }

    /// The status of all services without flows, strangers and sockets, which take long. A service that is busy is shown
    /// as it was before.
    pub async fn glances(&self) -> Result<Vec<ServiceStatus>, Refusal> {
        self.glances_of(None).await
    }

    /// The status of all services, or of one, as [`glances`](Self::glances) has it.
    async fn glances_of(&self, only: Option<&str>) -> Result<Vec<ServiceStatus>, Refusal> {
        Ok(self.reports(only).await?.into_iter().map(|report| report.service).collect())
    }

    async fn reports(&self, only: Option<&str>) -> Result<Vec<ServiceReport>, Refusal> {
        let services = match only {
            Some(name) => vec![self.services.find(name)?],
            None => self.services.all(),
        };
        let mut asked = Vec::new();
        for service in services {
            let (answer, receive) = oneshot::channel();
            // A service that is just ending does not answer.
            let _ = service.tell(Command::Status(answer));
            asked.push((service, receive));
        }
        let mut reports = Vec::new();
        let patience = Instant::now() + BUSY;
        for (service, receive) in asked {
            reports.extend(reported(&service, receive, patience).await.transpose()?);
        }
        Ok(reports)
    }

    /// The status of a service, as soon as it is not busy, without flows, strangers and sockets, which take long.
    pub async fn glance(&self, service: &str) -> Result<ServiceStatus, Refusal> {
        Ok(self.services.find(service)?.report().await?.service)
    }

    /// The slot that owns each bucket of a service, with [`MOVING`](crate::service::MOVING) where flows stay with another.
    pub async fn buckets(&self, service: &str) -> Result<Vec<u16>, Refusal> {
        self.service(service)?.ask(Command::Buckets).await
    }

    /// Changes the number of a service's workers; answered when that has begun.
    pub async fn scale(&self, service: &str, scale: &Scale) -> Result<Scaled, Refusal> {
        let (answer, scaled) = oneshot::channel();
        let command = Command::scale(scale, answer)?;
        self.service(service)?.tell(command)?;
        scaled.await.map_err(|_| Refusal::ending())?
    }

    /// Gives a worker another weight.
    pub async fn weight(&self, service: &str, number: Number, weight: Weight) -> Result<Weight, Refusal> {
        let service = self.service(service)?;
        service.ask(|answer| Command::Weight(number, weight.weight, answer)).await?;
        Ok(weight)
    }

    /// Lets a worker leave; answered when it is removed.
    pub async fn drain(&self, service: &str, number: Number, drain: Drain) -> Result<Drained, Refusal> {
        let patience = drain.timeout_ms.map(Duration::from_millis);
        self.service(service)?.ask(|answer| Command::Drain(number, patience, answer)).await
    }

    /// Replaces all workers of a service, or the one with this number; the receiver gets the progress, with
    /// [`Progress::Done`] at the end.
    pub async fn restart(
        &self,
        service: &str,
        only: Option<usize>,
        restart: &Restart,
    ) -> Result<mpsc::UnboundedReceiver<Progress>, Refusal> {
        let (progress, told) = mpsc::unbounded_channel();
        let command = Command::restart(only, restart, progress)?;
        if let Some(number) = only {
            let (name, workers) = (format!("{service}/{number}"), self.glance(service).await?.workers);
            if !workers.iter().any(|worker| worker.name == name) {
                return Err(Refusal::unknown_worker(&name, workers.iter().map(|worker| &*worker.name)));
            }
        }
        self.service(service)?.tell(command)?;
        Ok(told)
    }

    /// Says where a client's next connection or datagram would go, or one with a key, to this listener or to any.
    pub async fn explain(
        &self,
        service: &str,
        what: Explainable,
        listen: Option<Listener>,
    ) -> Result<Explained, Refusal> {
        self.services.find(service)?.ask(|answer| Command::Explain(what, listen, answer)).await
    }

    /// Subscribes to single decisions of a service, from now on.
    pub async fn trace(&self, service: &str) -> Result<Trace, Refusal> {
        let service = self.services.find(service)?;
        let (answer, decisions) = oneshot::channel();
        service.tell(Command::Trace(answer))?;
        let decisions = decisions.await.map_err(|_| Refusal::ending())?;
        Ok(Trace { decisions, service })
    }

    /// Makes the daemon read its configuration again; answered when that is applied.
    pub async fn reload(&self, reload: Reload) -> Result<Reloaded, Refusal> {
        let (answer, changes) = oneshot::channel();
        // A daemon that is ending drops the order.
        let _ = self.orders.send(match reload.dry_run {
            true => Order::DryRun(answer),
            false => Order::Reload(answer, self.asker.clone()),
        });
        Ok(Reloaded { changes: changes.await.map_err(|_| Refusal::ending())?? })
    }

    /// Makes the sockets of a server that others have started the workers of a new service.
    pub async fn adopt(&self, service: &str, adopt: Adopt) -> Result<Adopted, Refusal> {
        let (answer, adopted) = oneshot::channel();
        // A daemon that is ending drops the order.
        let order = Order::Adopt(service.to_owned(), Box::new(adopt), answer, self.asker.clone());
        let _ = self.orders.send(order);
        adopted.await.map_err(|_| Refusal::ending())?
    }

    /// Lets go of the sockets that a service has adopted.
    pub async fn release(&self, service: &str) -> Result<Released, Refusal> {
        let (answer, released) = oneshot::channel();
        let _ = self.orders.send(Order::Release(service.to_owned(), answer, self.asker.clone()));
        released.await.map_err(|_| Refusal::ending())?
    }

    /// Ends the daemon; answered at once.
    pub fn stop(&self, stop: Stop) -> Result<Stopping, Refusal> {
        if stop.keep && stop.announce_ms.is_some() {
            return Err(Refusal::Malformed(
                "`announce_ms` and `keep` exclude each other: with `keep` the workers serve on".into(),
            ));
        }
        // The daemon may be ending already.
        let _ = self.orders.send(Order::Stop(stop, self.asker.clone()));
        Ok(Stopping { pid: std::process::id() })
    }
}

/// The answer of a service, or what it shows if it is busy for longer than `patience`; `None` if it ends.
async fn reported(
    service: &ServiceHandle,
    mut receive: oneshot::Receiver<Result<ServiceReport, Refusal>>,
    mut patience: Instant,
) -> Option<Result<ServiceReport, Refusal>> {
    loop {
        match timeout_at(patience, &mut receive).await {
            Ok(answer) => return answer.ok(),
            Err(_) => match &*service.shown().borrow() {
                Some(shown) => return Some(Ok(shown.clone())),
                None => patience = Instant::now() + BUSY / 4,
            },
        }
    }
}
