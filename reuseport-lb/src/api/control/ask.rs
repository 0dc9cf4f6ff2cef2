//! Asking a service, and waiting for what it says.

use reuseport_lb_client::api::Refusal;
use tokio::sync::{mpsc, oneshot};

use crate::daemon::services::Registry;
use crate::service::{Command, Report};

/// Asks a service for something and waits for what it says.
pub(super) async fn ask<T, E: Into<Refusal>>(
    services: &Registry,
    service: &str,
    command: impl FnOnce(oneshot::Sender<Result<T, E>>) -> Command,
) -> Result<T, Refusal> {
    let (send, receive) = oneshot::channel();
    services.find(service)?.send(command(send)).map_err(|_| Refusal::ending())?;
    receive.await.map_err(|_| Refusal::ending())?.map_err(Into::into)
}

/// How a service is, once it has time to say so.
pub(super) async fn report(commands: &mpsc::UnboundedSender<Command>) -> Result<Report, Refusal> {
    let (send, receive) = oneshot::channel();
    commands.send(Command::Status(send)).map_err(|_| Refusal::ending())?;
    let report = receive.await.map_err(|_| Refusal::ending())?;
    report.map_err(|error| Refusal::Failed(format!("{error:#}")))
}

/// Whether a service has the worker `name` now.
pub(super) async fn has_worker(services: &Registry, service: &str, name: &str) -> bool {
    let Ok(commands) = services.find(service) else { return false };
    report(&commands).await.is_ok_and(|it| it.service.workers.iter().any(|worker| worker.name == name))
}
