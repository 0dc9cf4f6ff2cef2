//! `connect`: a control connection becomes one to a worker. Not: how that gets there (`handle/directed.rs`).

use std::io;
use std::rc::Rc;

use http_body_util::{BodyExt, Empty};
use hyper::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use reuseport_lb_client::api::Refusal;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::UdpSocket;

use crate::api::connection_limit::Permit;
use crate::api::exchange::Answer;
use crate::domain::listener::Listener;
use crate::domain::number::Number;
use crate::handle::{Connected, Handle, Transport};

/// Bytes of the longest datagram.
const LONGEST_DATAGRAM: usize = 65_535;

/// A request to become a connection to a worker.
pub(super) struct Upgrade {
    pub(super) headers: HeaderMap,
    pub(super) upgrade: OnUpgrade,
}

/// Connects to a worker; the control connection goes on as that one.
pub(super) async fn connect(
    handle: &Handle,
    (service, number): (&str, Number),
    query: Option<&str>,
    request: Upgrade,
    permit: &Rc<Permit>,
) -> Answer {
    let listen = listen(query)?;
    if !wants(&request.headers) {
        return Err(Refusal::Malformed(
            "a connection to a worker takes the place of this one: ask with `connection: upgrade` and \
             `upgrade: tcp` (or udp)"
                .into(),
        ));
    }
    let connected = handle.connect(service, number, listen).await?;
    let mut response = Response::new(Empty::new().boxed());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(connected.listener.protocol.name()));
    let permit = permit.clone();
    tokio::task::spawn_local(async move {
        let _permit = permit;
        if let Ok(upgraded) = request.upgrade.await
            && let Err(error) = join(TokioIo::new(upgraded), connected).await
        {
            tracing::debug!("connect: {error}");
        }
    });
    Ok(response)
}

/// The listener that a query names; none: any.
fn listen(query: Option<&str>) -> Result<Option<Listener>, Refusal> {
    let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(None) };
    let malformed = |why: String| Refusal::Malformed(format!("?{query}: {why}"));
    let listen =
        query.strip_prefix("listen=").ok_or_else(|| malformed("connect takes ?listen=URL".into()))?;
    listen.parse().map(Some).map_err(malformed)
}

fn wants(headers: &HeaderMap) -> bool {
    let says = |name, what: &[&str]| {
        let values = headers.get_all(name).iter().filter_map(|value: &HeaderValue| value.to_str().ok());
        let mut words =
            values.flat_map(|value| value.split(',')).map(|word| word.trim().to_ascii_lowercase());
        words.any(|word| what.contains(&&*word))
    };
    says(CONNECTION, &["upgrade"]) && says(UPGRADE, &["tcp", "udp"])
}

/// Carries bytes both ways until both ends are closed, or of UDP until the client's is.
async fn join(mut client: impl AsyncRead + AsyncWrite + Unpin, mut connected: Connected) -> io::Result<()> {
    match &mut connected.transport {
        Transport::Tcp(worker) => copy_bidirectional(&mut client, worker).await.map(drop),
        Transport::Udp(_) => exchange(client, &connected).await,
    }
}

/// Sends what the client writes at once as a datagram, and writes what comes.
async fn exchange(mut client: impl AsyncRead + AsyncWrite + Unpin, connected: &Connected) -> io::Result<()> {
    let Transport::Udp(worker) = &connected.transport else { return Ok(()) };
    let (mut there, mut back) = (vec![0; LONGEST_DATAGRAM], vec![0; LONGEST_DATAGRAM]);
    let mut sent = false;
    loop {
        tokio::select! {
            length = client.read(&mut there) => {
                let length = length?;
                if length == 0 {
                    return Ok(());
                }
                send(worker, &there[..length]).await?;
                if !std::mem::replace(&mut sent, true) {
                    connected.sent().await;
                }
            }
            length = worker.recv(&mut back) => client.write_all(&back[..length?]).await?,
        }
    }
}

async fn send(worker: &UdpSocket, datagram: &[u8]) -> io::Result<()> {
    worker.send(datagram).await.map(drop)
}
