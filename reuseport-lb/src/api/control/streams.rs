//! Answers that come line by line: how a restart goes on, and single decisions.

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::BodyExt;
use http_body_util::channel::{Channel, Sender};
use hyper::Response;
use hyper::body::{Bytes, Frame};

use super::body::{Answer, Body, parse_or_default};
use crate::api::json;
use crate::handle::Handle;

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
pub(super) async fn restart(handle: &Handle, service: &str, only: Option<usize>, body: &[u8]) -> Answer {
    let mut progress = handle.restart(service, only, &parse_or_default(body)?).await?;
    let (mut lines, response) = begin();
    tokio::task::spawn_local(async move {
        while let Some(step) = progress.recv().await {
            if !write(&mut lines, json::line(&step)).await {
                // What was begun goes on.
                break;
            }
        }
    });
    Ok(response)
}

/// One JSON object a line for every decision, until the reader goes away; empty lines in between.
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
