//! Answers that come line by line: how a restart goes on, and single decisions.

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::BodyExt;
use http_body_util::channel::{Channel, Sender};
use hyper::Response;
use hyper::body::{Bytes, Frame};
use reuseport_lb_client::api::{Refusal, Restart};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot};

use super::ask::has_worker;
use super::body::{Answer, Body, parse_or_default};
use crate::api::json;
use crate::daemon::services::Registry;
use crate::service::{Command, Progress, RestartOptions, TRIAL};

/// How often a silent trace checks that its reader is still there.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The writing end of an answer.
pub(super) type Lines = Sender<Bytes, Infallible>;

/// An answer that is still to be written.
pub(super) fn begin() -> (Lines, Response<Body>) {
    let (lines, body) = Channel::<Bytes, Infallible>::new(16);
    (lines, Response::new(body.boxed()))
}

/// Writes a line with its end; `false` if nobody reads any more.
pub(super) async fn write(lines: &mut Lines, line: String) -> bool {
    lines.send(Frame::data(Bytes::from(line))).await.is_ok()
}

/// One JSON object a line for every step, and one at the end.
pub(super) async fn restart(services: &Registry, service: &str, only: Option<usize>, body: &[u8]) -> Answer {
    let Restart { parallel, timeout_ms, trial_ms } = parse_or_default(body)?;
    if parallel == 0 {
        return Err(Refusal::Malformed("`parallel` must be at least 1".into()));
    }
    let (timeout, trial) = (timeout_ms.map(Duration::from_millis), trial_ms.map(Duration::from_millis));
    let (progress, mut told) = mpsc::unbounded_channel();
    let order = RestartOptions { only, parallel, timeout, trial: trial.unwrap_or(TRIAL) };
    services.find(service)?.send(Command::Restart(order, progress)).map_err(|_| Refusal::ending())?;
    let first = told.recv().await;
    if let (Some(number), Some(Progress::Done { replaced: 0, error: Some(why) })) = (only, &first)
        && !has_worker(services, service, &format!("{service}/{number}")).await
    {
        return Err(Refusal::Unknown(why.clone()));
    }
    let (mut lines, response) = begin();
    tokio::task::spawn_local(async move {
        let mut next = first;
        while let Some(progress) = next {
            if !write(&mut lines, json::line(&progress)).await {
                // What was begun goes on.
                break;
            }
            next = told.recv().await;
        }
    });
    Ok(response)
}

/// One JSON object a line for every decision, until the reader goes away; empty lines in between.
pub(super) async fn trace(services: &Registry, service: &str) -> Answer {
    let commands = services.find(service)?;
    let (send, receive) = oneshot::channel();
    commands.send(Command::Trace(send)).map_err(|_| Refusal::ending())?;
    let mut decisions = receive.await.map_err(|_| Refusal::ending())?;
    let (mut lines, response) = begin();
    tokio::task::spawn_local(async move {
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        loop {
            let line = tokio::select! {
                decision = decisions.recv() => match decision {
                    Ok(decision) => serde_json::to_string(&decision).unwrap_or_default() + "\n",
                    Err(RecvError::Lagged(missed)) => format!("{{\"missed\":{missed}}}\n"),
                    Err(RecvError::Closed) => break,
                },
                _ = heartbeat.tick() => String::from("\n"),
            };
            if !write(&mut lines, line).await {
                break;
            }
        }
        drop(decisions);
        let _ = commands.send(Command::TraceEnded);
    });
    Ok(response)
}
