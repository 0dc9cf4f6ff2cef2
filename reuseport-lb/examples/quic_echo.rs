//! An echo server over QUIC (quinn), as a worker like any other: it takes its sockets as systemd hands
//! them over, and answers each stream with what it got and who it is.
//!
//! ```text
//! [[service]]
//! name = "echo"
//! listen = ["udp://0.0.0.0:4433"]
//! workers = 4
//! command = ["quic_echo", "certificate.pem", "key.pem"]
//! ```
//!
//! A connection lives as long as its datagrams reach the worker that has its keys; whether they do is
//! not this program's business. It only makes the end short for clients whose worker is gone; and with `quic = "quic-lb"`
//! in the service, its connection ids say whose they are, so that clients may change their address and port.

use std::error::Error;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;

use listenfd::ListenFd;
use quinn::rustls::pki_types::pem::PemObject;
use quinn::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use quinn::{Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime};
use quinn_proto::HashedConnectionIdGenerator;
use reuseport_lb_quic::Ids;
use ring::hmac;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

/// How long connections may go on after SIGTERM. Under reuseport-lb it comes when they are quiet, or
/// when what their clients send goes to others already.
const GRACE: Duration = Duration::from_millis(500);

/// The longest message.
const LONGEST: usize = 64 * 1024;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let files = arguments.next().zip(arguments.next());
    let (certificate, key) = files.ok_or("usage: quic_echo CERTIFICATE KEY, two PEM files")?;
    let certificates = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let config = of_all_workers(&key)?;
    let server = ServerConfig::with_single_cert(certificates, key)?;

    let mut terminate = signal(SignalKind::terminate())?;
    let mut sockets = ListenFd::from_env();
    let mut endpoints = Vec::new();
    for index in 0..sockets.len() {
        let Some(socket) = sockets.take_udp_socket(index)? else { continue };
        socket.set_nonblocking(true)?;
        let runtime = Arc::new(TokioRuntime);
        endpoints.push(Endpoint::new(config.clone(), Some(server.clone()), socket, runtime)?);
    }
    if endpoints.is_empty() {
        return Err("no socket was handed over: LISTEN_FDS and LISTEN_PID say none".into());
    }
    let who = std::env::var("REUSEPORT_LB_WORKER").unwrap_or_default();
    let signature: &'static str = format!("worker={who}\npid={}\n", std::process::id()).leak();
    for endpoint in endpoints.clone() {
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                tokio::spawn(serve(incoming, signature));
            }
        });
    }
    notify("READY=1")?;

    terminate.recv().await;
    notify("STOPPING=1")?;
    for endpoint in &endpoints {
        // Takes no new connections from here on.
        endpoint.set_server_config(None);
    }
    let quiet = async {
        for endpoint in &endpoints {
            endpoint.wait_idle().await;
        }
    };
    if timeout(GRACE, quiet).await.is_err() {
        for endpoint in &endpoints {
            endpoint.close(0u32.into(), b"the server ends");
            // Who does not answer any more is not waited for.
            let _ = timeout(GRACE, endpoint.wait_idle()).await;
        }
    }
    Ok(())
}

/// A worker that gets a datagram of a connection that it does not know answers with a stateless reset (RFC
/// 9000, 10.3), which tells the client at once that its worker is gone. For that, all workers must know
/// each other's connection ids, and derive the same reset from each.
fn of_all_workers(key: &PrivateKeyDer<'_>) -> Result<EndpointConfig, reuseport_lb_quic::Error> {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, key.secret_der());
    let resets = hmac::sign(&secret, b"stateless resets");
    let ids = hmac::sign(&secret, b"connection ids");
    let ids = ids.as_ref().iter().take(8).fold(0, |ids, byte| ids << 8 | u64::from(*byte));
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, resets.as_ref())));
    // A worker that crashes leaves many clients, and all shall be told. An answer is always shorter than
    // what it answers, so nobody gains by asking for them.
    config.min_reset_interval(Duration::ZERO);
    match Ids::from_env()? {
        Some(ids) => config.cid_generator(move || Box::new(ids.clone())),
        None => config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids))),
    };
    Ok(config)
}

/// One connection; its streams one after the other. It ends when the client ends it, or is lost: there is
/// nobody to tell.
async fn serve(incoming: Incoming, signature: &str) -> Option<()> {
    let connection = incoming.await.ok()?;
    loop {
        let (mut answer, mut question) = connection.accept_bi().await.ok()?;
        let mut message = question.read_to_end(LONGEST).await.ok()?;
        message.push(b'\n');
        message.extend_from_slice(signature.as_bytes());
        answer.write_all(&message).await.ok()?;
        answer.finish().ok()?;
    }
}

/// Tells the supervisor (sd_notify(3)), if there is one.
fn notify(word: &str) -> std::io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    UnixDatagram::unbound()?.send_to(word.as_bytes(), path).map(drop)
}
