//! What a daemon says of its services: as they are, or as they were if they are busy.

use std::time::Duration;

use reuseport_lb_client::api::{Refusal, Status};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::body::{self, Answer};
use crate::api::json;
use crate::daemon::services::{Registry, Shown};
use crate::offload;
use crate::service::{self, Command, Report};

/// A service that does not answer within this time is shown as it was before.
const BUSY: Duration = Duration::from_millis(50);

/// Everything, or only one service.
pub(super) async fn status(services: &Registry, only: Option<&str>) -> Answer {
    if let Some(only) = only {
        services.find(only)?;
    }
    let mut asked = Vec::new();
    for (_, commands, shown) in services.all().into_iter().filter(|it| only.is_none_or(|only| only == it.0)) {
        let (send, receive) = oneshot::channel();
        // One that is just ending says nothing.
        let _ = commands.send(Command::Status(send));
        asked.push((receive, shown));
    }
    let mut reports = Vec::new();
    let patience = Instant::now() + BUSY;
    for (receive, before) in asked {
        match answered(receive, &before, patience).await {
            Some(Ok(report)) => reports.push(report),
            Some(Err(error)) => return Err(failed(&error)),
            None => continue,
        }
    }
    let longest_step_ms = offload::longest().as_secs_f64() * 1000.0;
    let text = service::complete(reports, move |services| {
        json::line(&Status {
            version: env!("CARGO_PKG_VERSION").into(),
            kernel: crate::kernel::host::release(),
            pid: std::process::id(),
            longest_step_ms,
            services,
        })
    });
    Ok(body::text(text.await.map_err(|error| failed(&error))?))
}

fn failed(error: &anyhow::Error) -> Refusal {
    Refusal::Failed(format!("{error:#}"))
}

/// What a service says of itself, or what is shown of it if it is busy for too long; `None` if it ends.
async fn answered(
    mut receive: oneshot::Receiver<anyhow::Result<Report>>,
    shown: &Shown,
    mut patience: Instant,
) -> Option<anyhow::Result<Report>> {
    loop {
        match tokio::time::timeout_at(patience, &mut receive).await {
            Ok(answer) => return answer.ok(),
            Err(_) => match &*shown.borrow() {
                Some(shown) => return Some(Ok(shown.clone())),
                None => patience = Instant::now() + BUSY / 4,
            },
        }
    }
}
