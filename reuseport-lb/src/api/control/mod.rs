//! `control.sock`: HTTP/1.1 and JSON for administrators (docs/CONTROL.md). Not: carrying requests out (`handle/`).
//! Requests are bounded in size, number (`connection_limit.rs`) and time; a bad one gets an error and disturbs
//! no other connection.

mod body;
mod progress;
mod streams;

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request};
use hyper_util::rt::{TokioIo, TokioTimer};
use reuseport_lb_client::api::{Drain, Refusal, Scale};
use tokio::net::{UnixListener, UnixStream};

use crate::api::connection_limit::{self, Permit};
use crate::api::json;
use crate::handle::Handle;
use body::{Answer, parse, parse_or_default};

/// Bytes of the longest request line and headers together.
const LONGEST_HEAD: usize = 16 << 10;

/// How long the head of a request may take to arrive.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers requests as long as the runtime lives.
pub async fn serve(listener: UnixListener, handle: Handle) {
    connection_limit::serve(listener, "control socket", |stream, permit| {
        converse(stream, permit, handle.clone())
    })
    .await;
}

async fn converse(stream: UnixStream, permit: Permit, handle: Handle) {
    let permit = Rc::new(permit);
    let answered = Rc::new(Cell::new(false));
    let (visitor, seen) = (permit.clone(), answered.clone());
    let respond = service_fn(move |request| {
        let (handle, permit, answered) = (handle.clone(), visitor.clone(), seen.clone());
        async move {
            let answer = answer(request, &handle, &permit).await;
            answered.set(true);
            Ok::<_, Infallible>(answer.unwrap_or_else(|refusal| body::refused(&refusal)))
        }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(LONGEST_HEAD)
        .serve_connection(TokioIo::new(stream), respond);
    tokio::select! {
        biased;
        ended = &mut connection => if let Err(error) = ended {
            tracing::debug!("control socket: {error}");
        },
        () = permit.evicted() => {
            // An error within an answer that has begun could not be understood.
            if !answered.get() {
                // If the socket has no room, the peer does not read.
                let _ = connection.into_parts().io.inner().try_write(crowded().as_bytes());
            }
        }
    }
}

/// The HTTP answer to an evicted connection.
fn crowded() -> String {
    let body = json::line(&Refusal::Unavailable(connection_limit::why_evicted()).body());
    let length = body.len();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}

/// The request that a path stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route<'a> {
    /// The status of one service, or of all.
    Status(Option<&'a str>),
    Trace(&'a str),
    Scale(&'a str),
    /// A whole service, or the worker with this number.
    Restart(&'a str, Option<&'a str>),
    Drain(&'a str, &'a str),
    Weight(&'a str, &'a str),
    Reload,
    Stop,
}

impl<'a> Route<'a> {
    /// The route of a path; `None` for an unknown one.
    fn find(path: &'a str) -> Option<Self> {
        let path: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        Some(match path.as_slice() {
            ["v1", "status"] => Self::Status(None),
            ["v1", "status", service] => Self::Status(Some(service)),
            ["v1", "services", service, "trace"] => Self::Trace(service),
            ["v1", "services", service, "scale"] => Self::Scale(service),
            ["v1", "services", service, "restart"] => Self::Restart(service, None),
            ["v1", "workers", service, number, "restart"] => Self::Restart(service, Some(number)),
            ["v1", "workers", service, number, "drain"] => Self::Drain(service, number),
            ["v1", "workers", service, number, "weight"] => Self::Weight(service, number),
            ["v1", "reload"] => Self::Reload,
            ["v1", "stop"] => Self::Stop,
            _ => return None,
        })
    }

    /// The HTTP method that the route takes.
    fn method(self) -> Method {
        if matches!(self, Self::Status(_) | Self::Trace(_)) { Method::GET } else { Method::POST }
    }
}

async fn answer(request: Request<Incoming>, handle: &Handle, permit: &Rc<Permit>) -> Answer {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let route = Route::find(path).ok_or_else(|| Refusal::unknown_path(path))?;
    let takes = route.method();
    if parts.method != takes {
        let refusal = Refusal::wrong_method(path, takes.as_str(), parts.method.as_str());
        let mut response = body::refused(&refusal);
        let takes = HeaderValue::from_str(takes.as_str());
        response.headers_mut().extend(takes.map(|takes| (ALLOW, takes)));
        return Ok(response);
    }
    let body = body::read(body).await?;
    permit.busy();
    let answer = act(route, &body, handle, permit).await;
    // A connection with a trace or with progress is not idle: its answer goes on.
    let goes_on = answer.as_ref().is_ok_and(|answer| !answer.headers().contains_key(CONTENT_TYPE));
    if !goes_on || matches!(route, Route::Restart(..)) {
        // From here on the daemon waits for the peer: until it has read the answer, and for its next request.
        permit.idle();
    }
    answer
}

/// Carries a request out.
async fn act(route: Route<'_>, body: &Bytes, handle: &Handle, permit: &Rc<Permit>) -> Answer {
    match route {
        Route::Status(only) => Ok(body::text(handle.status(only, |status| json::line(&status)).await?)),
        Route::Trace(service) => streams::trace(handle, service).await,
        Route::Scale(service) => {
            let scale: Scale = parse(body)?;
            if scale.progress {
                return progress::scale(handle, service, &scale, permit).await;
            }
            Ok(body::one(&handle.scale(service, &scale).await?))
        }
        Route::Restart(service, None) => streams::restart(handle, service, None, body).await,
        Route::Restart(service, Some(only)) => {
            streams::restart(handle, service, Some(number(service, only)?), body).await
        }
        Route::Drain(service, worker) => {
            let number = number(service, worker)?;
            let drain: Drain = parse_or_default(body)?;
            if drain.progress {
                return progress::drain(handle, service, number, drain, permit).await;
            }
            Ok(body::one(&handle.drain(service, number, drain).await?))
        }
        Route::Weight(service, worker) => {
            let number = number(service, worker)?;
            Ok(body::one(&handle.weight(service, number, parse(body)?).await?))
        }
        Route::Reload => Ok(body::one(&handle.reload().await?)),
        Route::Stop => Ok(body::one(&handle.stop(parse_or_default(body)?))),
    }
}

/// Parses the number of a worker in a path.
fn number(service: &str, worker: &str) -> Result<usize, Refusal> {
    worker.parse().map_err(|_| Refusal::Unknown(format!("there is no worker {service}/{worker}")))
}

#[cfg(test)]
mod tests;
