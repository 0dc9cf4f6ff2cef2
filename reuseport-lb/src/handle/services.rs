//! The services of a daemon: one shared list. The daemon changes it, and a handle finds in it which service to ask.

use std::cell::RefCell;
use std::rc::Rc;

use reuseport_lb_client::api::{Refusal, Requester, ServiceStatus};
use tokio::sync::{mpsc, oneshot};

use crate::service::{Asked, Command, ServiceReport, Shown};

/// Sends commands to one service.
#[derive(Clone)]
pub struct ServiceHandle {
    name: String,
    commands: mpsc::UnboundedSender<Asked>,
    shown: Shown,
    by: Option<Requester>,
}

impl ServiceHandle {
    /// Makes the handle of a service that is not open yet, and is shown as `coming` until then; commands wait in the
    /// receiver.
    #[must_use]
    pub fn new(coming: ServiceStatus) -> (Self, mpsc::UnboundedReceiver<Asked>) {
        let (commands, told) = mpsc::unbounded_channel();
        let name = coming.name.clone();
        (Self { name, commands, shown: Rc::new(RefCell::new(Some(coming.into()))), by: None }, told)
    }

    /// The name of the service.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What `status` shows while the service is busy.
    #[must_use]
    pub fn shown(&self) -> &Shown {
        &self.shown
    }

    /// This handle for what `asker` asks for; `None`: the daemon by itself.
    #[must_use]
    pub fn asked_by(self, asker: Option<Requester>) -> Self {
        Self { by: asker, ..self }
    }

    /// Sends a command; fails if the service has ended.
    pub fn tell(&self, command: Command) -> Result<(), Refusal> {
        self.commands.send(Asked { command, by: self.by.clone() }).map_err(|_| Refusal::ending())
    }

    /// Sends a command and waits for its answer.
    pub async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Command,
    ) -> Result<T, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.tell(command(answer))?;
        answered.await.map_err(|_| Refusal::ending())?
    }

    /// The status of the service, as soon as it is not busy, without flows, strangers and sockets.
    pub async fn report(&self) -> Result<ServiceReport, Refusal> {
        self.ask(Command::Status).await
    }
}

/// All services of a daemon, in the order in which they were added. Clones are one list.
#[derive(Clone, Default)]
pub struct Services(Rc<RefCell<Vec<ServiceHandle>>>);

impl Services {
    /// Adds a service at the end.
    pub fn add(&self, service: ServiceHandle) {
        self.0.borrow_mut().push(service);
    }

    /// Removes the service with this name.
    pub fn remove(&self, name: &str) {
        self.0.borrow_mut().retain(|service| service.name != name);
    }

    /// Whether there is no service.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// A copy of the list.
    #[must_use]
    pub fn all(&self) -> Vec<ServiceHandle> {
        self.0.borrow().clone()
    }

    /// Whether there is a service with this name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.borrow().iter().any(|service| service.name == name)
    }

    /// The service with this name; the error lists the known ones.
    pub fn find(&self, name: &str) -> Result<ServiceHandle, Refusal> {
        let all = self.0.borrow();
        let found = all.iter().find(|service| service.name == name).cloned();
        found.ok_or_else(|| Refusal::unknown_service(name, all.iter().map(ServiceHandle::name)))
    }
}
