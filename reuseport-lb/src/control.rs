//! `control.sock`: HTTP/1.1 and JSON for administrators (docs/CONTROL.md). Not: what a request does.
//! Requests are bounded in size, number and time; a bad one gets an error and disturbs nobody.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, channel::Channel};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::service::Command;
use crate::status::Status;

/// Longest body of a request.
const LONGEST_BODY: usize = 64 << 10;

/// Longest request line and headers together.
const LONGEST_HEAD: usize = 16 << 10;

/// How long a request may take to arrive.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connections at a time; others wait.
const CONNECTIONS: usize = 64;

/// How often a silent trace checks that its reader is still there.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The services of a daemon, and how to end it.
pub struct Services {
    /// By name, in the order of the configuration.
    pub all: Vec<(String, mpsc::UnboundedSender<Command>)>,
    /// Ends the daemon.
    pub stop: mpsc::UnboundedSender<()>,
}

/// Body of `POST /v1/services/NAME/scale`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// How many workers.
    pub workers: usize,
}

/// Body of `POST /v1/workers/NAME/weight`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weight {
    /// From 0 (no new flows) to 1,000,000.
    pub weight: u32,
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
}

type Body = BoxBody<Bytes, Infallible>;
type Answer = Result<Response<Body>, (StatusCode, String)>;

/// Answers requests for as long as the runtime lives.
pub async fn serve(listener: UnixListener, services: Rc<Services>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let services = services.clone();
                tokio::task::spawn_local(async move {
                    converse(stream, services).await;
                    drop(permit);
                });
            }
            // Out of descriptors, say: the next may do, but not at once.
            Err(error) => {
                tracing::warn!("cannot accept on the control socket: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, services: Rc<Services>) {
    let respond = service_fn(move |request| {
        let services = services.clone();
        async move {
            Ok::<_, Infallible>(answer(request, &services).await.unwrap_or_else(|(code, error)| {
                let mut response = json(&Failure { error });
                *response.status_mut() = code;
                if code == StatusCode::METHOD_NOT_ALLOWED {
                    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST"));
                }
                response
            }))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(LONGEST_HEAD)
        .serve_connection(TokioIo::new(stream), respond);
    if let Err(error) = connection.await {
        tracing::debug!("control socket: {error}");
    }
}

async fn answer(request: Request<Incoming>, services: &Services) -> Answer {
    let (parts, body) = request.into_parts();
    let path: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
    let wrong_method = |allowed: &str| {
        Err((
            StatusCode::METHOD_NOT_ALLOWED,
            format!("{} takes {allowed}, not {}", parts.uri.path(), parts.method),
        ))
    };
    match (path.as_slice(), &parts.method) {
        (["v1", "status"], &Method::GET) => services.status(None).await,
        (["v1", "status", service], &Method::GET) => services.status(Some(service)).await,
        (["v1", "services", service, "trace"], &Method::GET) => services.trace(service).await,
        (["v1", "services", service, "scale"], &Method::POST) => {
            let Scale { workers } = read(body).await?;
            let (send, receive) = oneshot::channel();
            services.ask(service, Command::Scale(workers, send))?;
            Ok(json(&done(receive).await?))
        }
        (["v1", "workers", service, number, "weight"], &Method::POST) => {
            let Ok(number) = number.parse() else {
                return Err((StatusCode::NOT_FOUND, format!("there is no worker {service}/{number}")));
            };
            let Weight { weight } = read(body).await?;
            let (send, receive) = oneshot::channel();
            services.ask(service, Command::Weight(number, weight, send))?;
            done(receive).await?;
            Ok(json(&Weight { weight }))
        }
        (["v1", "stop"], &Method::POST) => {
            let _ = services.stop.send(());
            Ok(json(&Stopping { pid: std::process::id() }))
        }
        (["v1", "status"] | ["v1", "status", _] | ["v1", "services", _, "trace"], _) => wrong_method("GET"),
        (["v1", "stop"] | ["v1", "services", _, "scale"] | ["v1", "workers", _, _, "weight"], _) => {
            wrong_method("POST")
        }
        _ => Err((
            StatusCode::NOT_FOUND,
            format!("there is no {}; docs/CONTROL.md lists what there is", parts.uri.path()),
        )),
    }
}

impl Services {
    fn find(&self, name: &str) -> Result<&mpsc::UnboundedSender<Command>, (StatusCode, String)> {
        let known = || self.all.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        match self.all.iter().find(|(candidate, _)| candidate == name) {
            Some((_, commands)) => Ok(commands),
            None => {
                Err((StatusCode::NOT_FOUND, format!("there is no service {name:?}; there is {}", known())))
            }
        }
    }

    fn ask(&self, service: &str, command: Command) -> Result<(), (StatusCode, String)> {
        self.find(service)?.send(command).map_err(|_| ended())
    }

    async fn status(&self, only: Option<&str>) -> Answer {
        let mut services = Vec::new();
        let wanted = self.all.iter().filter(|(name, _)| only.is_none_or(|only| only == name));
        if let Some(only) = only {
            self.find(only)?;
        }
        for (name, _) in wanted {
            let (send, receive) = oneshot::channel();
            self.ask(name, Command::Status(send))?;
            let status = receive.await.map_err(|_| ended())?;
            services.push(status.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")))?);
        }
        Ok(json(&Status {
            version: env!("CARGO_PKG_VERSION").into(),
            kernel: crate::kernel::host::release(),
            pid: std::process::id(),
            services,
        }))
    }

    /// One JSON object a line for every decision, until the reader goes away; empty lines in between.
    async fn trace(&self, service: &str) -> Answer {
        let commands = self.find(service)?.clone();
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
}

async fn done<T>(receive: oneshot::Receiver<Result<T, String>>) -> Result<T, (StatusCode, String)> {
    receive.await.map_err(|_| ended())?.map_err(|error| (StatusCode::UNPROCESSABLE_ENTITY, error))
}

fn ended() -> (StatusCode, String) {
    (StatusCode::SERVICE_UNAVAILABLE, "the service is ending".into())
}

async fn read<T: for<'a> Deserialize<'a>>(body: Incoming) -> Result<T, (StatusCode, String)> {
    let bad = |error: String| (StatusCode::BAD_REQUEST, error);
    let whole = tokio::time::timeout(PATIENCE, Limited::new(body, LONGEST_BODY).collect())
        .await
        .map_err(|_| (StatusCode::REQUEST_TIMEOUT, format!("the body did not arrive within {PATIENCE:?}")))?
        .map_err(|error| bad(format!("cannot read the body (at most {LONGEST_BODY} bytes): {error}")))?;
    serde_json::from_slice(&whole.to_bytes())
        .map_err(|error| bad(format!("the body is not the JSON that is expected: {error}")))
}

fn json(value: &impl Serialize) -> Response<Body> {
    let text = serde_json::to_string(value).unwrap_or_default() + "\n";
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
