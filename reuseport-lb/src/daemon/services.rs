//! The services of a daemon and their tasks: expecting, starting, telling and ending them. Not: what a service does
//! (`service/`), nor which services are configured (`apply.rs`).

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use reuseport_lb_client::api::{Requester, ServiceStatus};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::handle::{ServiceHandle, Services};
use crate::offload;
use crate::service::joining::Request;
use crate::service::{Asked, Command, Service, coming};

/// All services.
#[derive(Default)]
pub(super) struct Registry {
    /// All services, also expected ones.
    pub(super) services: Services,
    /// Commands to services that are still being opened or taken over, until their tasks take them.
    expected: RefCell<HashMap<String, mpsc::UnboundedReceiver<Asked>>>,
    /// A service's task has ended.
    pub(super) ended: Notify,
    /// The error of a service whose task has panicked.
    broken: RefCell<Option<String>>,
}

impl Registry {
    /// Adds a service that is still being opened or taken over; commands to it wait until then.
    pub(super) fn expect(&self, coming: ServiceStatus) {
        if self.services.contains(&coming.name) {
            return;
        }
        let name = coming.name.clone();
        let (service, told) = ServiceHandle::new(coming);
        self.services.add(service);
        self.expected.borrow_mut().insert(name, told);
    }

    /// Forgets services that were expected and will not come.
    pub(super) fn forget(&self, name: impl Fn(&str) -> bool) {
        for (expected, _) in self.expected.borrow_mut().extract_if(|expected, _| name(expected)) {
            self.services.remove(&expected);
        }
        self.ended.notify_waiters();
    }

    /// Whether the service `name` runs, and is not only expected.
    pub(super) fn is_there(&self, name: &str) -> bool {
        self.services.contains(name) && !self.expected.borrow().contains_key(name)
    }

    /// Starts a service.
    pub(super) fn add(self: &Rc<Self>, name: String, service: Service) {
        self.expect(coming(service.config(), "is being opened"));
        let Some(told) = self.expected.borrow_mut().remove(&name) else { return };
        let Ok(handle) = self.services.find(&name) else { return };
        let task = service.run(told, handle.shown().clone());
        let task = tokio::task::spawn_local(offload::measured("a service", task));
        let registry = self.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = task.await {
                *registry.broken.borrow_mut() = Some(format!("the task of service {name} failed: {error}"));
            }
            registry.services.remove(&name);
            registry.ended.notify_waiters();
            registry.ended.notify_one();
        });
    }

    /// The error of a service that ended without being told to.
    pub(super) fn broken(&self) -> Option<String> {
        self.broken.borrow().clone()
    }

    /// Tells all services what `asker` asks for.
    pub(super) fn tell(&self, asker: &Option<Requester>, command: impl Fn() -> Command) {
        for service in self.services.all() {
            // Fails if the service has ended already.
            let _ = service.asked_by(asker.clone()).tell(command());
        }
    }

    /// Whether all workers of a service are ready; `None` if there is no such service.
    pub(super) async fn is_ready(&self, name: &str) -> Option<bool> {
        let report = self.services.find(name).ok()?.report().await.ok()?;
        Some(report.service.workers.iter().all(|worker| worker.state == "ready"))
    }

    /// Waits until a service decides for all its listeners, or ends.
    pub(super) async fn decides(&self, name: &str) {
        let (answer, decides) = oneshot::channel();
        if let Ok(service) = self.services.find(name) {
            let _ = service.tell(Command::Decides(answer));
            // Fails if the service ends.
            let _ = decides.await;
        }
    }

    /// Hands requests to join on to their services.
    pub(super) async fn pass_on(self: Rc<Self>, mut requests: mpsc::UnboundedReceiver<Request>) {
        while let Some(request) = requests.recv().await {
            match self.services.find(&request.service) {
                // A service that is just ending drops the request, which says so to its sender.
                Ok(service) => drop(service.tell(Command::Join(request))),
                Err(error) => drop(request.answer.send(Err(error.to_string()))),
            }
        }
    }
}
