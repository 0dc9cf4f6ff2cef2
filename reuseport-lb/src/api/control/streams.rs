//! Answers that come line by line: progress of a restart, events, and single decisions.

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::BodyExt;
use http_body_util::channel::{Channel, Sender};
use hyper::Response;
use hyper::body::{Bytes, Frame};

use super::body::parse_or_default;
use crate::api::exchange::{Answer, Body};
use crate::api::json;
use crate::handle::Handle;

/// Interval of empty lines in a silent trace, by which a closed connection is noticed.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The writing end of an answer.
pub(super) type Lines = Sender<Bytes, Infallible>;

/// Makes an answer whose lines are still to be written.
pub(super) fn begin() -> (Lines, Response<Body>) {
    let (lines, body) = Channel::<Bytes, Infallible>::new(16);
    (lines, Response::new(body.boxed()))
}

/// Writes a line with its end; `false` if the connection is closed.
pub(super) async fn write(lines: &mut Lines, line: String) -> bool {
    lines.send(Frame::data(Bytes::from(line))).await.is_ok()
}

/// Restarts workers; answers with one JSON object a line for every step, and one at the end.
pub(super) async fn restart(handle: &Handle, service: &str, only: Option<usize>, body: &[u8]) -> Answer {
    let mut progress = handle.restart(service, only, &parse_or_default(body)?).await?;
    let (mut lines, response) = begin();
    tokio::task::spawn_local(async move {
        while let Some(step) = progress.recv().await {
            if !write(&mut lines, json::line(&step)).await {
                // The connection was closed; the restart goes on.
                break;
            }
        }
    });
    Ok(response)
}

/// Answers with one JSON object a line for everything that happened, and, if the reader is to `follow`, that happens until
/// the connection is closed; empty lines in between.
pub(super) fn events(handle: &Handle, follow: bool) -> Response<Body> {
    let mut reader = handle.events();
    let (mut lines, response) = begin();
    tokio::task::spawn_local(async move {
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        loop {
            while let Some(event) = reader.read() {
                if !write(&mut lines, json::line(&event)).await {
                    return;
                }
            }
            if !follow {
                return;
            }
            tokio::select! {
                () = reader.wait() => {}
                _ = heartbeat.tick() => if !write(&mut lines, String::from("\n")).await {
                    return;
                },
            }
        }
    });
    response
}

/// Answers with one JSON object a line for every decision, until the connection is closed; empty lines in between.
pub(super) async fn trace(handle: &Handle, service: &str) -> Answer {
    let mut trace = handle.trace(service).await?;
    let (mut lines, response) = begin();
    tokio::task::spawn_local(async move {
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        loop {
            let line = tokio::select! {
                decision = trace.next() => match decision {
                    Some(decision) => json::line(&decision),
                    None => break,
                },
                _ = heartbeat.tick() => String::from("\n"),
            };
            if !write(&mut lines, line).await {
                break;
            }
        }
    });
    Ok(response)
}
