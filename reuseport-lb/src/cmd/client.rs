//! The commands' side of the control socket.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use crate::api::control::Failure;
use crate::config::Invalid;
use crate::daemon::Paths;
use crate::status::Status;

/// The daemon answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Speaks to the daemon of one runtime directory; a connection for each request.
pub(super) struct Client {
    path: PathBuf,
    runtime: Runtime,
}

impl Client {
    pub(super) fn new(paths: &Paths) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { path: paths.control(), runtime })
    }

    pub(super) fn status(&self, service: Option<&str>) -> Result<Status> {
        let path = service.map_or_else(|| "/v1/status".into(), |service| format!("/v1/status/{service}"));
        self.soon(async { whole(self.request("GET", &path, Bytes::new()).await?).await })
    }

    pub(super) fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let body = Bytes::from(serde_json::to_vec(body)?);
        self.soon(async { whole(self.request("POST", path, body).await?).await })
    }

    /// The same for what takes its time.
    pub(super) fn post_patiently<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let body = Bytes::from(serde_json::to_vec(body)?);
        self.runtime.block_on(async { whole(self.request("POST", path, body).await?).await })
    }

    fn soon<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        let answer = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, request).await });
        answer.with_context(|| format!("the daemon does not answer within {PATIENCE:?}; is it stopped?"))?
    }

    /// Hands each line of an endless answer to `act`, until that returns false.
    pub(super) fn lines(&self, path: &str, act: impl FnMut(&str) -> Result<bool>) -> Result<()> {
        self.stream("GET", path, Bytes::new(), act)
    }

    /// The same for what is posted.
    pub(super) fn post_lines(
        &self,
        path: &str,
        body: &impl Serialize,
        act: impl FnMut(&str) -> Result<bool>,
    ) -> Result<()> {
        self.stream("POST", path, Bytes::from(serde_json::to_vec(body)?), act)
    }

    fn stream(
        &self,
        method: &str,
        path: &str,
        body: Bytes,
        mut act: impl FnMut(&str) -> Result<bool>,
    ) -> Result<()> {
        self.runtime.block_on(async {
            let mut body = self.request(method, path, body).await?.into_body();
            let mut pending = Vec::new();
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame.context("the daemon went away")?.into_data() else { continue };
                pending.extend_from_slice(&data);
                while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = pending.drain(..=end).collect();
                    if !act(std::str::from_utf8(&line[..end])?)? {
                        return Ok(());
                    }
                }
            }
            bail!("the daemon ended")
        })
    }

    async fn request(&self, method: &str, path: &str, body: Bytes) -> Result<Response<Incoming>> {
        let stream = UnixStream::connect(&self.path).await.map_err(|error| {
            let meaning = match error.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
                    "no daemon runs there; start one with `reuseport-lb run`, or give its --runtime-dir"
                }
                std::io::ErrorKind::PermissionDenied => "only root may; run it with sudo",
                _ => "the connection failed",
            };
            anyhow!(error).context(format!("cannot reach {}: {meaning}", self.path.display()))
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Its errors show in the request itself.
        tokio::task::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        let response = sender
            .send_request(
                request.body(Full::new(body)).with_context(|| format!("{path} is not a valid path"))?,
            )
            .await
            .context("the daemon did not answer")?;
        if response.status().is_success() {
            return Ok(response);
        }
        let bytes = response.into_body().collect().await?.to_bytes();
        match serde_json::from_slice::<Failure>(&bytes) {
            Ok(Failure { error, invalid: true }) => bail!(Invalid(error)),
            Ok(failure) => bail!(failure.error),
            Err(_) => bail!("the daemon answered {:?}", String::from_utf8_lossy(&bytes)),
        }
    }
}

async fn whole<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T> {
    let bytes = response.into_body().collect().await.context("the daemon went away")?.to_bytes();
    serde_json::from_slice(&bytes).context("the daemon's answer is not what this version expects")
}
