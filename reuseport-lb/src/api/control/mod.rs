//! `control.sock`: HTTP/1.1 and JSON for administrators (docs/CONTROL.md). Not: what a request does.
//! Requests are bounded in size, number (`connection_limit.rs`) and time; a bad one gets an error and disturbs
//! nobody.

mod ask;
mod body;
mod progress;
mod status;
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
use reuseport_lb_client::api::{Drain, Refusal, Reloaded, Scale, Stop, Stopping, Weight};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;

use crate::api::connection_limit::{self, Permit};
use crate::api::json;
use crate::daemon::services::{End, Order, Registry};
use crate::service::{Command, Target};
use ask::ask;
use body::{Answer, parse, parse_or_default};

/// Longest request line and headers together.
const LONGEST_HEAD: usize = 16 << 10;

/// How long the head of a request may take to arrive.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers requests for as long as the runtime lives.
pub async fn serve(listener: UnixListener, services: Rc<Registry>) {
    connection_limit::serve(listener, "control socket", |stream, permit| {
        converse(stream, permit, services.clone())
    })
    .await;
}

async fn converse(stream: UnixStream, permit: Permit, services: Rc<Registry>) {
    let permit = Rc::new(permit);
    let answered = Rc::new(Cell::new(false));
    let (visitor, seen) = (permit.clone(), answered.clone());
    let respond = service_fn(move |request| {
        let (services, permit, answered) = (services.clone(), visitor.clone(), seen.clone());
        async move {
            let answer = answer(request, &services, &permit).await;
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
            // Where an answer may have begun, another one in it would only confuse.
            if !answered.get() {
                // What there is no room for, nobody is waiting for.
                let _ = connection.into_parts().io.inner().try_write(crowded().as_bytes());
            }
        }
    }
}

/// What a connection is told that has to go, as it stands on the wire.
fn crowded() -> String {
    let body = json::line(&Refusal::Unavailable(connection_limit::why_evicted()).body());
    let length = body.len();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}

/// What a path stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route<'a> {
    /// Of one service, or of all.
    Status(Option<&'a str>),
    Trace(&'a str),
    Scale(&'a str),
    /// A service, or with its number one of its workers.
    Restart(&'a str, Option<&'a str>),
    Drain(&'a str, &'a str),
    Weight(&'a str, &'a str),
    Reload,
    Stop,
}

impl<'a> Route<'a> {
    /// All paths that there are.
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

    /// The method that it takes.
    fn method(self) -> Method {
        if matches!(self, Self::Status(_) | Self::Trace(_)) { Method::GET } else { Method::POST }
    }
}

async fn answer(request: Request<Incoming>, services: &Registry, permit: &Rc<Permit>) -> Answer {
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
    let answer = act(route, &body, services, permit).await;
    // A trace goes on for as long as somebody reads it, and progress until there is no more: in nobody's way.
    let goes_on = answer.as_ref().is_ok_and(|answer| !answer.headers().contains_key(CONTENT_TYPE));
    if !goes_on || matches!(route, Route::Restart(..)) {
        // From here on it keeps us waiting: until it has read the answer, and for its next request.
        permit.idle();
    }
    answer
}

/// Does what is asked for.
async fn act(route: Route<'_>, body: &Bytes, services: &Registry, permit: &Rc<Permit>) -> Answer {
    match route {
        Route::Status(only) => status::status(services, only).await,
        Route::Trace(service) => streams::trace(services, service).await,
        Route::Scale(service) => {
            let scale: Scale = parse(body)?;
            let target = target(&scale)?;
            if scale.progress {
                return progress::scale(services, service, target, permit).await;
            }
            Ok(body::one(&ask(services, service, |answer| Command::Scale(target, answer)).await?))
        }
        Route::Restart(service, None) => streams::restart(services, service, None, body).await,
        Route::Restart(service, Some(only)) => {
            streams::restart(services, service, Some(number(service, only)?), body).await
        }
        Route::Drain(service, worker) => {
            let number = number(service, worker)?;
            let Drain { timeout_ms, progress } = parse_or_default(body)?;
            let patience = timeout_ms.map(Duration::from_millis);
            if progress {
                return progress::drain(services, service, number, patience, permit).await;
            }
            let drained = ask(services, service, |answer| Command::Drain(number, patience, answer));
            Ok(body::one(&drained.await?))
        }
        Route::Weight(service, worker) => {
            let number = number(service, worker)?;
            let Weight { weight } = parse(body)?;
            ask(services, service, |answer| Command::Weight(number, weight, answer)).await?;
            Ok(body::one(&Weight { weight }))
        }
        Route::Reload => {
            let (answer, receive) = oneshot::channel();
            // A daemon that is ending drops the order.
            let _ = services.orders.send(Order::Reload(answer));
            let changes = receive.await.map_err(|_| Refusal::ending())??;
            Ok(body::one(&Reloaded { changes }))
        }
        Route::Stop => {
            let Stop { keep } = parse_or_default(body)?;
            let _ = services.orders.send(Order::End(if keep { End::Keep } else { End::InOrder }));
            Ok(body::one(&Stopping { pid: std::process::id() }))
        }
    }
}

fn target(scale: &Scale) -> Result<Target, Refusal> {
    match (scale.workers, scale.add) {
        (Some(workers), None) => Ok(Target::Exactly(workers)),
        (None, Some(add)) => Ok(Target::More(add)),
        (Some(_), Some(_)) => Err(Refusal::Malformed("`workers` and `add` exclude each other".into())),
        (None, None) => Err(Refusal::Malformed("missing field `workers`, or `add`".into())),
    }
}

/// The number of a worker, as it stands in a path.
fn number(service: &str, worker: &str) -> Result<usize, Refusal> {
    worker.parse().map_err(|_| Refusal::Unknown(format!("there is no worker {service}/{worker}")))
}

#[cfg(test)]
mod tests;
