//! `control.sock`: HTTP/1.1 and JSON for administrators (docs/CONTROL.md). Not: carrying requests out (`handle/`).
//! Requests are bounded in size, number (`connection_limit.rs`) and time; a bad one gets an error and disturbs
//! no other connection.

mod body;
mod connect;
mod explain;
mod progress;
mod rights;
mod streams;

pub use rights::Monitors;

use std::rc::Rc;

use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request};
use reuseport_lb_client::api::{Drain, HostUndrain, Refusal, Release, Requester, Scale};
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};

use crate::api::connection_limit::{self, Permit};
use crate::api::exchange::{self, Answer};
use crate::api::json;
use crate::domain::number::Number;
use crate::handle::Handle;
use crate::kernel::host;
use body::{parse, parse_or_default};
use rights::{Caller, Right};

/// Answers requests as long as the runtime lives.
pub async fn serve(listener: UnixListener, handle: Handle, monitors: Monitors) {
    let converse = |stream: UnixStream, permit| {
        let (handle, peer, monitors) = (handle.clone(), stream.peer_cred().ok(), monitors.clone());
        exchange::converse(stream, permit, "control socket", move |request, permit| {
            let (handle, monitors) = (handle.clone(), monitors.get());
            async move {
                let answer = answer(request, handle, Caller { peer, monitors }, &permit).await;
                answer.unwrap_or_else(|refusal| exchange::refused(&refusal))
            }
        })
    };
    connection_limit::serve(listener, "control socket", converse).await;
}

/// The request that a path stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route<'a> {
    /// The status of one service, or of all.
    Status(Option<&'a str>),
    /// What happened, and with the query `follow=true` what comes.
    Events(Option<&'a str>),
    Trace(&'a str),
    /// Where a client of a service would go; what is asked is in the query.
    Explain(&'a str, Option<&'a str>),
    /// Whether new traffic should be sent here: of one service, or of all.
    Health(Option<&'a str>),
    HostDrain,
    HostUndrain,
    Adopt(&'a str),
    Release(&'a str),
    Scale(&'a str),
    /// A whole service, or the worker with this number.
    Restart(&'a str, Option<&'a str>),
    Drain(&'a str, &'a str),
    Weight(&'a str, &'a str),
    /// A connection to the worker with this number; at which listener is in the query.
    Connect(&'a str, &'a str, Option<&'a str>),
    Reload,
    Stop,
}

impl<'a> Route<'a> {
    /// The route of a path; `None` for an unknown one.
    fn find(path: &'a str, query: Option<&'a str>) -> Option<Self> {
        let path: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        Some(match path.as_slice() {
            ["v1", "status"] => Self::Status(None),
            ["v1", "status", service] => Self::Status(Some(service)),
            ["v1", "health"] => Self::Health(None),
            ["v1", "health", service] => Self::Health(Some(service)),
            ["v1", "host", "drain"] => Self::HostDrain,
            ["v1", "host", "undrain"] => Self::HostUndrain,
            ["v1", "events"] => Self::Events(query),
            ["v1", "services", service, "trace"] => Self::Trace(service),
            ["v1", "services", service, "explain"] => Self::Explain(service, query),
            ["v1", "services", service, "adopt"] => Self::Adopt(service),
            ["v1", "services", service, "release"] => Self::Release(service),
            ["v1", "services", service, "scale"] => Self::Scale(service),
            ["v1", "services", service, "restart"] => Self::Restart(service, None),
            ["v1", "workers", service, number, "restart"] => Self::Restart(service, Some(number)),
            ["v1", "workers", service, number, "drain"] => Self::Drain(service, number),
            ["v1", "workers", service, number, "weight"] => Self::Weight(service, number),
            ["v1", "workers", service, number, "connect"] => Self::Connect(service, number, query),
            ["v1", "reload"] => Self::Reload,
            ["v1", "stop"] => Self::Stop,
            _ => return None,
        })
    }

    /// The HTTP method that the route takes.
    fn method(self) -> Method {
        match self {
            Self::Status(_) | Self::Health(_) | Self::Events(_) | Self::Trace(_) | Self::Explain(..) => {
                Method::GET
            }
            _ => Method::POST,
        }
    }
}

impl Route<'_> {
    /// Who may ask for it. Each route is judged here by its name.
    fn right(self) -> Right {
        match self {
            Self::Status(_) | Self::Health(_) | Self::Events(_) | Self::Explain(..) => Right::Monitor,
            // These take decisions off the fast path, and a worker may trust what comes from the loopback address.
            Self::Trace(_) | Self::Connect(..) => Right::Administer,
            Self::HostDrain
            | Self::HostUndrain
            | Self::Adopt(_)
            | Self::Release(_)
            | Self::Scale(_)
            | Self::Restart(..)
            | Self::Drain(..)
            | Self::Weight(..)
            | Self::Reload
            | Self::Stop => Right::Administer,
        }
    }
}

async fn answer(
    mut request: Request<Incoming>,
    mut handle: Handle,
    caller: Caller,
    permit: &Rc<Permit>,
) -> Answer {
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let route = Route::find(path, parts.uri.query()).ok_or_else(|| Refusal::unknown_path(path))?;
    let takes = route.method();
    if parts.method != takes {
        return Ok(exchange::wrong_method(path, &takes, &parts.method));
    }
    let administers = caller.require(route.right())?;
    let body = body::read(body).await?;
    permit.busy();
    if takes == Method::POST {
        handle = handle.asked_by(requester(caller.peer));
    }
    let answer = match (route, administers) {
        // A command may have a secret among its arguments.
        (Route::Status(only), false) => status(&handle, only, false).await,
        _ => act(route, &body, connect::Upgrade { headers: parts.headers, upgrade }, &handle, permit).await,
    };
    // A connection with a trace or with progress is not idle: its answer goes on.
    let goes_on = answer.as_ref().is_ok_and(|answer| !answer.headers().contains_key(CONTENT_TYPE));
    if !goes_on || matches!(route, Route::Restart(..)) {
        // From here on the daemon waits for the peer: until it has read the answer, and for its next request.
        permit.idle();
    }
    answer
}

async fn status(handle: &Handle, only: Option<&str>, settings: bool) -> Answer {
    let text = handle.status(only, move |mut status| {
        if !settings {
            status.services.iter_mut().for_each(|service| service.settings.clear());
        }
        json::line(&status)
    });
    Ok(exchange::json_text(text.await?))
}

/// Who asks, for those who watch the daemon.
fn requester(peer: Option<UCred>) -> Requester {
    let pid = peer.and_then(|peer| peer.pid()).unwrap_or_default();
    let uid = peer.map(|peer| peer.uid()).unwrap_or_default();
    Requester::Process { pid, uid, command: host::program_of(pid) }
}

/// Carries a request out.
async fn act(
    route: Route<'_>,
    body: &Bytes,
    upgrade: connect::Upgrade,
    handle: &Handle,
    permit: &Rc<Permit>,
) -> Answer {
    match route {
        Route::Status(only) => status(handle, only, true).await,
        Route::Events(query) => match query {
            None | Some("" | "follow=false") => Ok(streams::events(handle, false)),
            Some("follow=true") => Ok(streams::events(handle, true)),
            Some(other) => Err(Refusal::Malformed(format!("/v1/events takes ?follow=true, not ?{other}"))),
        },
        Route::Explain(service, query) => {
            let (what, listen) = explain::question(query)?;
            Ok(exchange::json(&handle.explain(service, what, listen).await?))
        }
        Route::Trace(service) => streams::trace(handle, service).await,
        Route::Health(only) => Ok(exchange::json(&handle.health(only).await?)),
        Route::HostDrain => Ok(exchange::json(&handle.host_drain(parse_or_default(body)?).await?)),
        Route::HostUndrain => {
            let HostUndrain {} = parse_or_default(body)?;
            Ok(exchange::json(&handle.host_undrain().await?))
        }
        Route::Adopt(service) => Ok(exchange::json(&handle.adopt(service, parse(body)?).await?)),
        Route::Release(service) => {
            let Release {} = parse_or_default(body)?;
            Ok(exchange::json(&handle.release(service).await?))
        }
        Route::Scale(service) => {
            let scale: Scale = parse(body)?;
            if scale.progress {
                return progress::scale(handle, service, &scale, permit).await;
            }
            Ok(exchange::json(&handle.scale(service, &scale).await?))
        }
        Route::Restart(service, None) => streams::restart(handle, service, None, body).await,
        Route::Restart(service, Some(only)) => {
            let only = number(service, only)?;
            if only.part > 0 {
                return Err(Refusal::Impossible(format!(
                    "{service}/{only} is a socket of {service}/{}, and restarted with it",
                    only.worker
                )));
            }
            streams::restart(handle, service, Some(only.worker), body).await
        }
        Route::Drain(service, worker) => {
            let number = number(service, worker)?;
            let drain: Drain = parse_or_default(body)?;
            if drain.progress {
                return progress::drain(handle, service, number, drain, permit).await;
            }
            Ok(exchange::json(&handle.drain(service, number, drain).await?))
        }
        Route::Weight(service, worker) => {
            let number = number(service, worker)?;
            Ok(exchange::json(&handle.weight(service, number, parse(body)?).await?))
        }
        Route::Connect(service, worker, query) => {
            let number = number(service, worker)?;
            connect::connect(handle, (service, number), query, upgrade, permit).await
        }
        Route::Reload => Ok(exchange::json(&handle.reload(parse_or_default(body)?).await?)),
        Route::Stop => Ok(exchange::json(&handle.stop(parse_or_default(body)?)?)),
    }
}

/// Parses the number of a worker in a path.
fn number(service: &str, worker: &str) -> Result<Number, Refusal> {
    worker.parse().map_err(|_| Refusal::Unknown(format!("there is no worker {service}/{worker}")))
}

#[cfg(test)]
mod tests;
