//! HTTP/1.1 on one connection: bounds of size and time, eviction, and what answers are made of. Not: what is asked.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use reuseport_lb_client::api::Refusal;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::connection_limit::{self, Permit};
use super::json;

/// Bytes of the longest request line and headers together.
const LONGEST_HEAD: usize = 16 << 10;

/// How long the head of a request may take to arrive.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) type Body = BoxBody<Bytes, Infallible>;
pub(super) type Answer = Result<Response<Body>, Refusal>;

/// A connection.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Writes what there is room for.
    fn write_now(&self, bytes: &[u8]) -> io::Result<usize>;
}

impl Stream for UnixStream {
    fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        self.try_write(bytes)
    }
}

impl Stream for TcpStream {
    fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        self.try_write(bytes)
    }
}

/// Answers the requests of a connection with `respond`, until it is closed or evicted. `what`: name of the socket for
/// the log.
pub(super) async fn converse<F: Future<Output = Response<Body>>>(
    stream: impl Stream,
    permit: Permit,
    what: &str,
    respond: impl Fn(Request<Incoming>, Rc<Permit>) -> F,
) {
    let permit = Rc::new(permit);
    let answered = Rc::new(Cell::new(false));
    let respond = service_fn(|request| {
        let (answer, answered) = (respond(request, permit.clone()), answered.clone());
        async move {
            let answer = answer.await;
            answered.set(true);
            Ok::<_, Infallible>(answer)
        }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(LONGEST_HEAD)
        .serve_connection(TokioIo::new(stream), respond)
        .with_upgrades();
    tokio::select! {
        biased;
        ended = &mut connection => if let Err(error) = ended {
            tracing::debug!("{what}: {error}");
        },
        () = permit.evicted() => {
            // An error within an answer that has begun could not be understood.
            if !answered.get() {
                // If the socket has no room, the peer does not read.
                if let Some(parts) = connection.into_parts() {
                    let _ = parts.io.inner().write_now(crowded().as_bytes());
                }
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

/// Makes an answer of one JSON object.
pub(super) fn json(value: &impl Serialize) -> Response<Body> {
    json_text(json::line(value))
}

/// Makes an answer of a text that is JSON.
pub(super) fn json_text(text: impl Into<Bytes>) -> Response<Body> {
    typed("application/json", text)
}

/// Makes an answer of a text of this type.
pub(super) fn typed(content_type: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(text.into()).boxed());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Makes the answer to a refused request.
pub(super) fn refused(refusal: &Refusal) -> Response<Body> {
    let mut response = json(&refusal.body());
    *response.status_mut() =
        StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

/// Makes the answer to a request with another method than the one that `path` takes.
pub(super) fn wrong_method(path: &str, takes: &Method, method: &Method) -> Response<Body> {
    let mut response = refused(&Refusal::wrong_method(path, takes.as_str(), method.as_str()));
    let takes = HeaderValue::from_str(takes.as_str());
    response.headers_mut().extend(takes.map(|takes| (ALLOW, takes)));
    response
}
