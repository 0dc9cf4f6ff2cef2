//! `control.sock`: HTTP/1.1 and JSON for administrators (docs/CONTROL.md). Not: what a request does.
//! Requests are bounded in size, number (`connection_limit.rs`) and time; a bad one gets an error and disturbs
//! nobody.

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, channel::Channel};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::api::connection_limit::{self, Permit};
use crate::config::plain;
use crate::daemon::services::{End, Order, Registry, Shown};
use crate::domain::refusal::Refusal;
use crate::offload;
use crate::printable;
use crate::service::{self, Command, Report, TRIAL, Target};
use crate::status::Status;

/// Longest body of a request.
const LONGEST_BODY: usize = 64 << 10;

/// Longest request line and headers together.
const LONGEST_HEAD: usize = 16 << 10;

/// How long a request may take to arrive.
const PATIENCE: Duration = Duration::from_secs(5);

/// A service that does not answer within this time is shown as it was before.
const BUSY: Duration = Duration::from_millis(50);

/// How often a silent trace checks that its reader is still there.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Body of `POST /v1/services/NAME/scale`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// How many workers; this or `add`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<usize>,
    /// How many more than are wanted now; negative: how many fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add: Option<i64>,
}

impl Scale {
    fn target(&self) -> Result<Target, String> {
        match (self.workers, self.add) {
            (Some(workers), None) => Ok(Target::Exactly(workers)),
            (None, Some(add)) => Ok(Target::More(add)),
            (Some(_), Some(_)) => Err("`workers` and `add` exclude each other".into()),
            (None, None) => Err("missing field `workers`, or `add`".into()),
        }
    }
}

/// Body of `POST /v1/workers/NAME/weight`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weight {
    /// From 0 (no new flows) to 1,000,000.
    pub weight: u32,
}

/// Body of `POST /v1/workers/NAME/drain`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// Until SIGTERM, and again until SIGKILL; without it the service's `drain_timeout`.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// Body of `POST /v1/services/NAME/restart` and `POST /v1/workers/NAME/restart`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Restart {
    /// So many at a time.
    pub parallel: usize,
    /// How long a new process may take to become ready; without it the service's `start_timeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// How long the first one must have been ready before it takes over.
    pub trial_ms: u64,
}

impl Default for Restart {
    fn default() -> Self {
        Self { parallel: 1, timeout_ms: None, trial_ms: TRIAL.as_millis() as u64 }
    }
}

/// Body of `POST /v1/stop`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Stop {
    /// Workers, sockets and buckets stay for the next daemon.
    pub keep: bool,
}

/// Answer to `POST /v1/reload`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reloaded {
    /// What changed, one line a service.
    pub changes: String,
}

/// Answer to `POST /v1/stop`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Stopping {
    /// The daemon's process id.
    pub pid: u32,
}

/// Body of every answer that is not 200.
#[derive(Debug, Serialize, Deserialize)]
pub struct Failure {
    /// What was wrong and how to mend it.
    pub error: String,
    /// The configuration is wrong, as a file.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub invalid: bool,
}

impl From<String> for Failure {
    fn from(error: String) -> Self {
        Self { error, invalid: false }
    }
}

type Body = BoxBody<Bytes, Infallible>;
type Answer = Result<Response<Body>, (StatusCode, String)>;

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
            Ok::<_, Infallible>(answer.unwrap_or_else(|(code, error)| failure(code, error)))
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
    let body =
        serde_json::to_string(&Failure::from(connection_limit::why_evicted())).unwrap_or_default() + "\n";
    let length = body.len();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}

/// The method that a path takes; none if there is no such path.
fn method(path: &[&str]) -> Option<Method> {
    match path {
        ["v1", "status"] | ["v1", "status", _] | ["v1", "services", _, "trace"] => Some(Method::GET),
        ["v1", "stop" | "reload"]
        | ["v1", "services", _, "scale" | "restart"]
        | ["v1", "workers", _, _, "weight" | "drain" | "restart"] => Some(Method::POST),
        _ => None,
    }
}

async fn answer(request: Request<Incoming>, services: &Registry, permit: &Permit) -> Answer {
    let (parts, body) = request.into_parts();
    let path: Vec<&str> = parts.uri.path().trim_start_matches('/').split('/').collect();
    let Some(allowed) = method(&path) else { return Err(no_such_path(&parts)) };
    if parts.method != allowed {
        let error = format!("{} takes {allowed}, not {}", parts.uri.path(), parts.method);
        let mut response = failure(StatusCode::METHOD_NOT_ALLOWED, error);
        let allowed = HeaderValue::from_str(allowed.as_str());
        response.headers_mut().extend(allowed.map(|allowed| (ALLOW, allowed)));
        return Ok(response);
    }
    let body = read(body).await?;
    permit.busy();
    let answer = match path.as_slice() {
        ["v1", "status"] => status(services, None).await,
        ["v1", "status", service] => status(services, Some(service)).await,
        ["v1", "services", service, "trace"] => match trace(services, service).await {
            // It goes on for as long as somebody reads it, which is in nobody's way.
            Ok(stream) => return Ok(stream),
            refused => refused,
        },
        ["v1", "services", service, "scale"] => {
            let target = parse::<Scale>(&body)?.target().map_err(bad)?;
            let scaled = ask(services, service, |answer| Command::Scale(target, answer)).await?;
            Ok(json(&scaled))
        }
        ["v1", "services", service, "restart"] => restart(services, service, None, &body),
        ["v1", "workers", service, number, what] => match (number.parse(), *what) {
            (Err(_), _) => Err((StatusCode::NOT_FOUND, format!("there is no worker {service}/{number}"))),
            (Ok(number), "restart") => restart(services, service, Some(number), &body),
            (Ok(number), "drain") => {
                let Drain { timeout_ms } = parse_or_default(&body)?;
                let patience = timeout_ms.map(Duration::from_millis);
                let drained = ask(services, service, |answer| Command::Drain(number, patience, answer));
                Ok(json(&drained.await?))
            }
            (Ok(number), _) => {
                let Weight { weight } = parse(&body)?;
                ask(services, service, |answer| Command::Weight(number, weight, answer)).await?;
                Ok(json(&Weight { weight }))
            }
        },
        ["v1", "reload"] => {
            let (answer, receive) = oneshot::channel();
            // A daemon that is ending drops the order.
            let _ = services.orders.send(Order::Reload(answer));
            match receive.await {
                Ok(Ok(changes)) => Ok(json(&Reloaded { changes })),
                Ok(Err(why)) => {
                    let mut response = json(&why);
                    *response.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
                    Ok(response)
                }
                Err(_) => Err(ended()),
            }
        }
        ["v1", "stop"] => {
            let Stop { keep } = parse_or_default(&body)?;
            let _ = services.orders.send(Order::End(if keep { End::Keep } else { End::InOrder }));
            Ok(json(&Stopping { pid: std::process::id() }))
        }
        _ => Err(no_such_path(&parts)),
    };
    // From here on it keeps us waiting: until it has read the answer, and for its next request.
    permit.idle();
    answer
}

fn no_such_path(parts: &Parts) -> (StatusCode, String) {
    let path = parts.uri.path();
    (StatusCode::NOT_FOUND, format!("there is no {path}; docs/CONTROL.md lists what there is"))
}

fn failure(code: StatusCode, error: String) -> Response<Body> {
    let mut response = json(&Failure::from(error));
    *response.status_mut() = code;
    response
}

fn find(services: &Registry, name: &str) -> Result<mpsc::UnboundedSender<Command>, (StatusCode, String)> {
    services.find(name).map_err(|error| (StatusCode::NOT_FOUND, error))
}

/// Asks a service for something and waits for what it says.
async fn ask<T>(
    services: &Registry,
    service: &str,
    command: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Command,
) -> Result<T, (StatusCode, String)> {
    let (send, receive) = oneshot::channel();
    find(services, service)?.send(command(send)).map_err(|_| ended())?;
    done(receive).await
}

async fn status(services: &Registry, only: Option<&str>) -> Answer {
    if let Some(only) = only {
        find(services, only)?;
    }
    let mut asked = Vec::new();
    for (_, commands, shown) in services.all().into_iter().filter(|it| only.is_none_or(|only| it.0 == only)) {
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
            Some(Err(error)) => return Err((StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}"))),
            None => continue,
        }
    }
    let longest_step_ms = offload::longest().as_secs_f64() * 1000.0;
    let text = service::complete(reports, move |services| {
        text(&Status {
            version: env!("CARGO_PKG_VERSION").into(),
            kernel: crate::kernel::host::release(),
            pid: std::process::id(),
            longest_step_ms,
            services,
        })
    });
    let text = text.await.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")))?;
    Ok(response(text))
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

/// One JSON object a line for every step, and one at the end.
fn restart(services: &Registry, service: &str, only: Option<usize>, body: &[u8]) -> Answer {
    let Restart { parallel, timeout_ms, trial_ms } = parse_or_default(body)?;
    if parallel == 0 {
        return Err(bad("`parallel` must be at least 1".into()));
    }
    let (timeout, trial) = (timeout_ms.map(Duration::from_millis), Duration::from_millis(trial_ms));
    let (progress, told) = mpsc::unbounded_channel();
    let order = service::RestartOptions { only, parallel, timeout, trial };
    find(services, service)?.send(Command::Restart(order, progress)).map_err(|_| ended())?;
    Ok(lines(told))
}

/// What comes, one JSON object a line, to its end.
fn lines<T: Serialize + 'static>(mut told: mpsc::UnboundedReceiver<T>) -> Response<Body> {
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(16);
    tokio::task::spawn_local(async move {
        while let Some(one) = told.recv().await {
            if sender.send(Frame::data(Bytes::from(text(&one)))).await.is_err() {
                // Nobody reads any more; what was begun goes on.
                break;
            }
        }
    });
    Response::new(body.boxed())
}

/// One JSON object a line for every decision, until the reader goes away; empty lines in between.
async fn trace(services: &Registry, service: &str) -> Answer {
    let commands = find(services, service)?;
    let (send, receive) = oneshot::channel();
    commands.send(Command::Trace(send)).map_err(|_| ended())?;
    let mut decisions = receive.await.map_err(|_| ended())?;
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(16);
    tokio::task::spawn_local(async move {
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        loop {
            let line = tokio::select! {
                decision = decisions.recv() => match decision {
                    Ok(decision) => serde_json::to_string(&decision).unwrap_or_default(),
                    Err(RecvError::Lagged(missed)) => format!("{{\"missed\":{missed}}}"),
                    Err(RecvError::Closed) => break,
                },
                _ = heartbeat.tick() => String::new(),
            };
            if sender.send(Frame::data(Bytes::from(line + "\n"))).await.is_err() {
                break;
            }
        }
        drop(decisions);
        let _ = commands.send(Command::TraceEnded);
    });
    Ok(Response::new(body.boxed()))
}

async fn done<T>(receive: oneshot::Receiver<Result<T, Refusal>>) -> Result<T, (StatusCode, String)> {
    receive.await.map_err(|_| ended())?.map_err(|refusal| {
        let code =
            if refusal.is_unknown() { StatusCode::NOT_FOUND } else { StatusCode::UNPROCESSABLE_ENTITY };
        (code, refusal.to_string())
    })
}

fn ended() -> (StatusCode, String) {
    (StatusCode::SERVICE_UNAVAILABLE, "the service is ending".into())
}

async fn read(body: Incoming) -> Result<Bytes, (StatusCode, String)> {
    let whole = tokio::time::timeout(PATIENCE, Limited::new(body, LONGEST_BODY).collect())
        .await
        .map_err(|_| (StatusCode::REQUEST_TIMEOUT, format!("the body did not arrive within {PATIENCE:?}")))?
        .map_err(|error| bad(format!("cannot read the body (at most {LONGEST_BODY} bytes): {error}")))?;
    Ok(whole.to_bytes())
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, (StatusCode, String)> {
    object(body).map_err(|error| {
        bad(format!("the body is not the JSON that is expected: {}", plain(&error.to_string())))
    })
}

/// Reads a JSON object. A list of its values would do for serde as well: `[]` wherever all parts have
/// defaults.
pub(crate) fn object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> serde_json::Result<T> {
    if text.trim_ascii_start().starts_with(b"[") {
        return Err(serde::de::Error::custom("a list, where an object belongs"));
    }
    serde_json::from_slice(text)
}

/// Where every part has a default, nothing at all will do.
fn parse_or_default<'a, T: Deserialize<'a> + Default>(body: &'a [u8]) -> Result<T, (StatusCode, String)> {
    if body.trim_ascii().is_empty() || body.trim_ascii() == b"null" { Ok(T::default()) } else { parse(body) }
}

fn bad(error: String) -> (StatusCode, String) {
    (StatusCode::BAD_REQUEST, error)
}

fn json(value: &impl Serialize) -> Response<Body> {
    response(text(value))
}

fn text(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).unwrap_or_default();
    printable::json(&text).into_owned() + "\n"
}

fn response(text: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream};

    /// Serves nothing but errors, at an abstract address, while `clients` run in a thread.
    fn with_server(name: &str, clients: impl FnOnce(&dyn Fn() -> StdStream) + Send + 'static) {
        let name = format!("reuseport-lb-{name}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let listener = StdListener::bind_addr(&address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let listener = UnixListener::from_std(listener).unwrap();
            let services = Registry::new(mpsc::unbounded_channel().0);
            tokio::task::spawn_local(serve(listener, services));
            tokio::task::spawn_blocking(move || clients(&|| StdStream::connect_addr(&address).unwrap()))
                .await
                .unwrap();
        });
    }

    fn ask(mut stream: StdStream, request: &str) -> String {
        write!(stream, "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn a_wrong_method_is_told_the_right_one() {
        with_server("method", |connect| {
            for (request, allowed) in
                [("GET /v1/stop", "POST"), ("DELETE /v1/status", "GET"), ("POST /v1/services/x/trace", "GET")]
            {
                let answer = ask(connect(), request);
                let allow = format!("\r\nallow: {allowed}\r\n");
                assert!(answer.starts_with("HTTP/1.1 405") && answer.contains(&allow), "{answer}");
            }
        });
    }

    #[test]
    fn nothing_is_not_everything() {
        with_server("nothing", |connect| {
            assert!(ask(connect(), "GET /v1/status").starts_with("HTTP/1.1 200"));
            for path in ["/v1/status/", "/v1/status/x", "/v1/", "/"] {
                assert!(ask(connect(), &format!("GET {path}")).starts_with("HTTP/1.1 404"), "{path}");
            }
        });
    }

    #[test]
    fn a_list_is_no_object() {
        assert_eq!(parse::<Scale>(b" {\"workers\":9}").unwrap().workers, Some(9));
        for body in ["[9]", " [9]", "[]", "9", "\"9\""] {
            let (code, error) = parse::<Scale>(body.as_bytes()).unwrap_err();
            assert!(code == StatusCode::BAD_REQUEST && error.contains("JSON"), "{body}: {error}");
        }
        assert!(parse_or_default::<Drain>(b"").is_ok() && parse_or_default::<Drain>(b" null\n").is_ok());
        assert!(parse_or_default::<Drain>(b"[]").unwrap_err().1.contains("a list"));
    }

    #[test]
    fn silent_connections_keep_nobody_out() {
        with_server("silent", |connect| {
            let mut silent: Vec<StdStream> = (0..connection_limit::MOST + 50).map(|_| connect()).collect();
            for stream in silent.iter_mut().rev().take(10) {
                stream.write_all(b"GET /v1/status HT").unwrap();
            }
            assert!(ask(connect(), "GET /v1/status").starts_with("HTTP/1.1 200"));
            let mut answer = String::new();
            silent[0].read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("had to go"), "{answer}");
        });
    }
}
