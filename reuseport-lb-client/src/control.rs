//! The client of `control.sock`, for the commands and any other program. Not: requests and answers (`api.rs`).

mod error;

pub use error::ControlError;

use std::io;
use std::marker::PhantomData;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::{
    Adopt, Adopted, Drain, Drained, EventLine, Explainable, Explained, HostDrain, HostHealth, HostUndrain,
    Progress, Refusal, RefusalBody, Release, Released, Reload, Reloaded, Restart, Scale, Scaled, Status,
    Stop, Stopping, Traced, Wait, Weight,
};
use crate::http::{self, Body, Response, Until};
use crate::stream;
use error::{PATIENCE, broken_off, parsed};

/// How long a connection to a worker is waited for: a little longer than the daemon does.
const CONNECTING: Duration = Duration::from_secs(15);

/// A client of the daemon with this control socket; each request has a connection of its own.
#[derive(Clone, Debug)]
pub struct ControlClient {
    path: PathBuf,
}

impl ControlClient {
    /// Makes a client for the control socket at `path`, like `/run/reuseport-lb/control.sock`. Does not connect.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Path of the control socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Status of the daemon and all services.
    pub fn status(&self) -> Result<Status, ControlError> {
        self.soon("GET", "/v1/status", &[])
    }

    /// Status of the daemon and one service.
    pub fn status_of(&self, service: &str) -> Result<Status, ControlError> {
        self.soon("GET", &format!("/v1/status/{}", name(service)?), &[])
    }

    /// Whether new traffic should be sent to the daemon's machine: of all services, or of one.
    pub fn health(&self, service: Option<&str>) -> Result<HostHealth, ControlError> {
        match service {
            None => self.soon("GET", "/v1/health", &[]),
            Some(service) => self.soon("GET", &format!("/v1/health/{}", name(service)?), &[]),
        }
    }

    /// Tells everyone who asks that the machine is to get nothing new.
    pub fn host_drain(&self, request: &HostDrain) -> Result<HostHealth, ControlError> {
        self.soon("POST", "/v1/host/drain", &json(request)?)
    }

    /// Ends [`host_drain`](Self::host_drain).
    pub fn host_undrain(&self) -> Result<HostHealth, ControlError> {
        self.soon("POST", "/v1/host/undrain", &json(&HostUndrain::default())?)
    }

    /// Changes the number of workers of a service. Answered when that has begun.
    pub fn scale(&self, service: &str, request: &Scale) -> Result<Scaled, ControlError> {
        self.soon("POST", &of_service(service, "scale")?, &json(request)?)
    }

    /// Gives a worker, like `web/2`, another weight. Answered when its buckets have moved.
    pub fn weight(&self, worker: &str, request: Weight) -> Result<Weight, ControlError> {
        self.soon("POST", &of_worker(worker, "weight")?, &json(&request)?)
    }

    /// Lets a worker, like `web/2`, leave in order. Answered when it is removed.
    pub fn drain(&self, worker: &str, request: &Drain) -> Result<Drained, ControlError> {
        self.patiently("POST", &of_worker(worker, "drain")?, &json(request)?)
    }

    /// Like [`scale`](Self::scale), with progress until new workers are ready and surplus ones are removed.
    pub fn scale_and_wait(
        &self,
        service: &str,
        request: &Scale,
    ) -> Result<Lines<Wait<Scaled>>, ControlError> {
        self.lines("POST", &of_service(service, "scale")?, &json(&Scale { progress: true, ..*request })?)
    }

    /// Like [`drain`](Self::drain), with progress until the worker is removed.
    pub fn drain_and_wait(
        &self,
        worker: &str,
        request: &Drain,
    ) -> Result<Lines<Wait<Drained>>, ControlError> {
        self.lines("POST", &of_worker(worker, "drain")?, &json(&Drain { progress: true, ..*request })?)
    }

    /// Replaces a worker, like `web/2`, or all of a service, with progress. The last line is
    /// [`Progress::Done`]; without it the daemon has ended.
    pub fn restart(&self, what: &str, request: &Restart) -> Result<Lines<Progress>, ControlError> {
        let path = if what.contains('/') { of_worker(what, "restart") } else { of_service(what, "restart") };
        self.lines("POST", &path?, &json(request)?)
    }

    /// Connects to a worker, like `web/2`, whatever its share and state are: at its first listener, of TCP if there is one, or
    /// at the one that is written like `listen`.
    pub fn connect(&self, worker: &str, listen: Option<&str>) -> Result<WorkerStream, ControlError> {
        let query = listen.map(|listen| format!("?listen={listen}")).unwrap_or_default();
        let path = of_worker(worker, &format!("connect{query}"))?;
        let stream = stream::connected(&self.path, PATIENCE).map_err(|error| self.unreachable(error))?;
        let stream = Until::new(stream, Some(Instant::now() + CONNECTING));
        let response = accepted(http::upgrade(stream, &path, "tcp").map_err(broken_off)?)?;
        let (stream, received) = response.body.into_parts();
        Ok(WorkerStream { stream: stream.forever().map_err(ControlError::Gone)?, received })
    }

    /// Makes the sockets of a server that others have started the workers of a new service. Answered when they are found.
    pub fn adopt(&self, service: &str, request: &Adopt) -> Result<Adopted, ControlError> {
        self.patiently("POST", &of_service(service, "adopt")?, &json(request)?)
    }

    /// Lets go of the sockets that a service has adopted. Answered when the service is gone.
    pub fn release(&self, service: &str) -> Result<Released, ControlError> {
        self.patiently("POST", &of_service(service, "release")?, &json(&Release::default())?)
    }

    /// Makes the daemon read its configuration again. Answered when that is applied.
    pub fn reload(&self, request: &Reload) -> Result<Reloaded, ControlError> {
        self.patiently("POST", "/v1/reload", &json(request)?)
    }

    /// Ends the daemon. Answered at once, before its process ends.
    pub fn stop(&self, request: &Stop) -> Result<Stopping, ControlError> {
        self.soon("POST", "/v1/stop", &json(request)?)
    }

    /// Decisions of a service as they are made, without end.
    pub fn trace(&self, service: &str) -> Result<Lines<Traced>, ControlError> {
        self.lines("GET", &of_service(service, "trace")?, &[])
    }

    /// What happened, of all services: what the daemon still knows, then, with `follow`, what comes, without end.
    pub fn events(&self, follow: bool) -> Result<Lines<EventLine>, ControlError> {
        self.lines("GET", if follow { "/v1/events?follow=true" } else { "/v1/events" }, &[])
    }

    /// Where the next connection or datagram of a client, or with a key, would go now, for all listeners of the service that it
    /// could come to, or for the one that is written like `listen`.
    pub fn explain(
        &self,
        service: &str,
        what: impl Into<Explainable>,
        listen: Option<&str>,
    ) -> Result<Explained, ControlError> {
        let what = match what.into() {
            Explainable::Client(client) => format!("client={client}"),
            Explainable::Key(key) => format!("key={key:08x}"),
        };
        let listen = listen.map(|listen| format!("&listen={listen}")).unwrap_or_default();
        self.soon("GET", &of_service(service, &format!("explain?{what}{listen}"))?, &[])
    }

    fn soon<T: DeserializeOwned>(&self, method: &str, path: &str, body: &[u8]) -> Result<T, ControlError> {
        let end = Instant::now() + PATIENCE;
        parsed(&self.ask(method, path, body, Some(end))?.body.whole().map_err(broken_off)?)
    }

    fn patiently<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> Result<T, ControlError> {
        parsed(&self.ask(method, path, body, None)?.body.whole().map_err(broken_off)?)
    }

    fn lines<T>(&self, method: &str, path: &str, body: &[u8]) -> Result<Lines<T>, ControlError> {
        let Response { body, .. } = self.ask(method, path, body, None)?;
        Ok(Lines { body: Some(body), pending: Vec::new(), kind: PhantomData })
    }

    /// Sends a request; a refusal becomes an error.
    fn ask(
        &self,
        method: &str,
        path: &str,
        body: &[u8],
        end: Option<Instant>,
    ) -> Result<Response<Until>, ControlError> {
        let stream = stream::connected(&self.path, PATIENCE).map_err(|error| self.unreachable(error))?;
        accepted(http::send(Until::new(stream, end), method, path, body).map_err(broken_off)?)
    }

    fn unreachable(&self, source: io::Error) -> ControlError {
        let path = self.path.clone();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ControlError::NoDaemon { path, source }
            }
            io::ErrorKind::PermissionDenied => ControlError::NotPermitted { path, source },
            io::ErrorKind::WouldBlock => ControlError::Silent { patience: PATIENCE },
            _ => ControlError::Unreachable { path, source },
        }
    }
}

/// A connection to one worker, which the daemon carries on. Of UDP each write is a datagram, and those that come are not
/// told apart.
#[derive(Debug)]
pub struct WorkerStream {
    /// The connection.
    pub stream: UnixStream,
    /// What the worker has said already.
    pub received: Vec<u8>,
}

/// The answer, if it is no refusal; that becomes an error.
fn accepted(response: Response<Until>) -> Result<Response<Until>, ControlError> {
    let status = response.status;
    if (200..300).contains(&status) || status == 101 {
        return Ok(response);
    }
    let said = response.body.whole().map_err(broken_off)?;
    let body = serde_json::from_slice::<RefusalBody>(&said).map_err(|_| {
        let said = String::from_utf8_lossy(&said);
        ControlError::Unexpected(io::Error::other(format!("status {status} and {said:?}")))
    })?;
    Err(Refusal::from_wire(status, body).into())
}

/// An answer that comes line by line, until it ends or this value is dropped.
#[derive(Debug)]
pub struct Lines<T> {
    /// `None` when the answer has ended.
    body: Option<Body<Until>>,
    /// The received part of the next line.
    pending: Vec<u8>,
    kind: PhantomData<fn() -> T>,
}

/// Ends an answer of [`Lines`] on drop.
#[derive(Debug)]
pub struct HangUp(UnixStream);

impl Drop for HangUp {
    fn drop(&mut self) {
        // One that has ended needs no end.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// One line of [`Lines`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<T> {
    /// The line as received, without its end.
    pub text: String,
    /// The parsed line.
    pub value: T,
}

impl<T: DeserializeOwned> Iterator for Lines<T> {
    type Item = Result<Line<T>, ControlError>;

    /// Waits for the next line that is not empty.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.line()? {
                Ok(line) if line.is_empty() => {}
                Ok(line) => {
                    let next = parsed(&line)
                        .map(|value| Line { text: String::from_utf8_lossy(&line).into_owned(), value });
                    return Some(next);
                }
                Err(error) => {
                    self.body = None;
                    return Some(Err(broken_off(error)));
                }
            }
        }
    }
}

impl<T> Lines<T> {
    /// Lets another thread end the answer, also while this one waits for a line.
    pub fn hang_up(&self) -> Result<HangUp, ControlError> {
        let ended = || ControlError::Gone(io::ErrorKind::NotConnected.into());
        let stream = self.body.as_ref().ok_or_else(ended)?.stream().try_clone();
        Ok(HangUp(stream.map_err(ControlError::Gone)?))
    }

    /// The next line, without its end.
    fn line(&mut self) -> Option<io::Result<Vec<u8>>> {
        let mut looked_at = 0;
        loop {
            if let Some(end) = self.pending[looked_at..].iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.pending.drain(..=looked_at + end).collect();
                line.pop();
                return Some(Ok(line));
            }
            looked_at = self.pending.len();
            match self.body.as_mut()?.more(&mut self.pending) {
                Ok(true) => {}
                Ok(false) => {
                    self.body = None;
                    let rest = std::mem::take(&mut self.pending);
                    return (!rest.is_empty()).then_some(Ok(rest));
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn json(body: &impl Serialize) -> Result<Vec<u8>, ControlError> {
    serde_json::to_vec(body).map_err(|error| ControlError::Unexpected(error.into()))
}

fn of_service(service: &str, what: &str) -> Result<String, ControlError> {
    Ok(format!("/v1/services/{}/{what}", name(service)?))
}

fn of_worker(worker: &str, what: &str) -> Result<String, ControlError> {
    let Some((service, number)) = worker.split_once('/') else {
        return Err(ControlError::NotAName(worker.into()));
    };
    Ok(format!("/v1/workers/{}/{}/{what}", name(service)?, name(number)?))
}

/// Checks that a name can be a part of a path; whether a service or worker has it, the daemon finds out.
fn name(text: &str) -> Result<&str, ControlError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    match !text.is_empty() && text.bytes().all(is_plain) {
        true => Ok(text),
        false => Err(ControlError::NotAName(text.into())),
    }
}

#[cfg(test)]
mod tests;
