//! The daemon's answers over HTTP for whoever may connect, mostly programs that watch it (docs/HTTP.md): what is, and
//! nothing that changes it. Answers wait for no service that is busy. Not: what administrators ask (`control/`).

mod live;
mod metrics;
mod page;
mod shared;

use std::cell::Cell;
use std::rc::Rc;

use hyper::body::Incoming;
use hyper::header::{ACCEPT, HeaderMap};
use hyper::{Method, Request, Response, StatusCode};
use reuseport_lb_client::api::Refusal;
use tokio::net::{TcpListener, UnixListener};

use super::connection_limit::{self, Listen, Permit};
use super::exchange::{self, Answer, Body, Stream};
use crate::config::MetricsConfig;
use crate::handle::Handle;
use metrics::Format;
use shared::{Shared, Text};

/// What can be asked.
const PATHS: &[&str] = &[
    "/",
    "/livez",
    "/readyz",
    "/weight",
    "/metrics",
    "/status.json",
    "/events",
    "/buckets",
    "/page.js",
    "/page.css",
    "/icon.svg",
];

/// What can be asked of one service.
const OF_ONE: &[&str] = &["/readyz", "/weight", "/buckets"];

/// A socket that is answered at.
pub enum Listening {
    /// Of a TCP address.
    Tcp(TcpListener),
    /// Of a file.
    Unix(UnixListener),
}

/// Answers requests as long as the task lives; `metrics` may change meanwhile.
pub async fn serve(listening: Listening, handle: Handle, metrics: Rc<Cell<MetricsConfig>>) {
    let all = Rc::new(Shared::new(handle, metrics));
    match listening {
        Listening::Tcp(listener) => serve_at(listener, all).await,
        Listening::Unix(listener) => serve_at(listener, all).await,
    }
}

async fn serve_at<L: Listen<Stream: Stream + 'static>>(listener: L, all: Rc<Shared>) {
    const NAME: &str = "HTTP socket";
    connection_limit::serve(listener, NAME, |stream, permit| {
        let all = all.clone();
        exchange::converse(stream, permit, NAME, move |request, permit| {
            let all = all.clone();
            async move {
                let answer = respond(request, &all, &permit).await;
                answer.unwrap_or_else(|refusal| exchange::refused(&refusal))
            }
        })
    })
    .await;
}

async fn respond(request: Request<Incoming>, all: &Rc<Shared>, permit: &Permit) -> Answer {
    let (path, query) = (request.uri().path(), request.uri().query());
    if !PATHS.contains(&path) {
        return Err(Refusal::Unknown(format!("there is no {path} here; / lists what there is")));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(exchange::wrong_method(path, &Method::GET, request.method()));
    }
    let service = service(path, query)?;
    permit.busy();
    let answer = answer(path, service.as_deref(), request.headers(), all).await;
    if all.keeps_many_texts() {
        permit.evict_oldest();
    }
    // From here on the daemon waits for the peer.
    permit.idle();
    answer
}

async fn answer(path: &str, service: Option<&str>, headers: &HeaderMap, all: &Rc<Shared>) -> Answer {
    Ok(match path {
        "/livez" => text("ok\n"),
        "/readyz" => match all.judged(service).await?.reasons() {
            [] => text("ready\n"),
            reasons => unavailable(reasons.join("\n") + "\n"),
        },
        "/weight" => text(format!("{}\n", all.judged(service).await?.weight())),
        "/metrics" => {
            let format = Format::accepted(headers.get_all(ACCEPT).iter().filter_map(|it| it.to_str().ok()));
            exchange::typed(format.content_type(), all.text(Text::Metrics(format)).await?)
        }
        "/status.json" => exchange::json_text(all.text(Text::Json).await?),
        "/events" => live::answer(all),
        "/buckets" => {
            let name = service.ok_or_else(|| Refusal::Malformed("/buckets takes ?service=NAME".into()))?;
            exchange::typed("application/octet-stream", all.buckets(name).await?)
        }
        "/page.js" => exchange::typed("text/javascript; charset=utf-8", page::SCRIPT),
        "/page.css" => exchange::typed("text/css; charset=utf-8", page::STYLE),
        "/icon.svg" => exchange::typed("image/svg+xml", page::ICON),
        _ => page::answer(all.text(Text::Page).await?),
    })
}

/// The service that a query asks for; `None`: all.
fn service(path: &str, query: Option<&str>) -> Result<Option<String>, Refusal> {
    let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(None) };
    match query.strip_prefix("service=").filter(|_| OF_ONE.contains(&path)) {
        Some(name) => Ok(Some(name.to_owned())),
        None => Err(Refusal::Malformed(match path {
            path if OF_ONE.contains(&path) => format!("{path} takes ?service=NAME, not ?{query}"),
            _ => format!("{path} takes no query, and there is ?{query}"),
        })),
    }
}

fn text(text: impl Into<hyper::body::Bytes>) -> Response<Body> {
    exchange::typed("text/plain; charset=utf-8", text)
}

fn unavailable(why: String) -> Response<Body> {
    let mut response = text(why);
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_for_one_service() {
        assert_eq!(service("/readyz", None).unwrap(), None);
        assert_eq!(service("/readyz", Some("service=web")).unwrap().as_deref(), Some("web"));
        for (path, query, says) in [
            ("/weight", "servce=web", "/weight takes ?service=NAME, not ?servce=web"),
            ("/metrics", "service=web", "/metrics takes no query"),
        ] {
            assert!(service(path, Some(query)).unwrap_err().to_string().contains(says));
        }
    }
}
