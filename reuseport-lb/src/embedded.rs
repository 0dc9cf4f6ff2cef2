//! The embedded worker: a process of its own that answers TCP with an HTTP/1.1 response and UDP with
//! a datagram, whose body says who answered whom. It speaks the same protocols as any other worker.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use socket2::Type;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixDatagram};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::kernel::datagram;
use crate::kernel::launch::{Embedded, inherited};

/// How long a connection may take to send its next request.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long connections may take to finish once the worker is told to end.
const FINISHING: Duration = Duration::from_secs(10);

/// Serves until SIGTERM; then answers what is queued and what has begun, and returns.
pub fn run(embedded: Embedded) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, serve(embedded))
}

async fn serve(embedded: Embedded) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let (stop, stopping) = watch::channel(false);
    let name: Rc<str> = embedded.name.into();
    let graceful = Rc::new(GracefulShutdown::new());
    let mut serving = Vec::new();
    for socket in inherited(embedded.sockets) {
        socket.set_nonblocking(true)?;
        let (name, stopping) = (name.clone(), stopping.clone());
        serving.push(if socket.r#type()? == Type::STREAM {
            let listener = TcpListener::from_std(socket.into())?;
            tokio::task::spawn_local(accept(listener, name, graceful.clone(), stopping))
        } else {
            datagram::want_destination(&socket)?;
            tokio::task::spawn_local(answer(UdpSocket::from_std(socket.into())?, name, stopping))
        });
    }
    let ready = UnixDatagram::unbound()?;
    ready.send_to(b"READY=1", &embedded.notify).await.context("cannot say READY=1 to the daemon")?;

    terminate.recv().await;
    stop.send(true)?;
    for task in serving {
        task.await??;
    }
    if let Some(graceful) = Rc::into_inner(graceful) {
        // Connections that take longer than this are cut; the daemon's patience would end as well.
        let _ = tokio::time::timeout(FINISHING, graceful.shutdown()).await;
    }
    Ok(())
}

/// Accepts connections; when stopping, those that are queued already and then no more.
async fn accept(
    listener: TcpListener,
    name: Rc<str>,
    graceful: Rc<GracefulShutdown>,
    mut stopping: watch::Receiver<bool>,
) -> io::Result<()> {
    loop {
        tokio::select! {
            biased;
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => converse(stream, peer, name.clone(), &graceful),
                // The client went away again, or there is no room: the next one may do.
                Err(error) => {
                    tracing::debug!("cannot accept: {error}");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            },
            _ = stopping.wait_for(|stop| *stop) => return Ok(()),
        }
    }
}

fn converse(stream: TcpStream, peer: SocketAddr, name: Rc<str>, graceful: &GracefulShutdown) {
    // Small answers shall not wait for each other (Nagle).
    let _ = stream.set_nodelay(true);
    let respond = service_fn(move |_: Request<hyper::body::Incoming>| {
        let mut response = Response::new(Full::new(Bytes::from(body(&name, peer))));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), respond);
    let watched = graceful.watch(connection);
    tokio::task::spawn_local(async move {
        if let Err(error) = watched.await {
            tracing::debug!("{peer}: {error}");
        }
    });
}

/// Answers datagrams; when stopping, those that are queued already and then no more.
async fn answer(socket: UdpSocket, name: Rc<str>, mut stopping: watch::Receiver<bool>) -> io::Result<()> {
    // Their content does not matter, so what is cut off is not missed.
    let mut buffer = [0; 64];
    loop {
        tokio::select! {
            biased;
            received = socket.async_io(Interest::READABLE, || datagram::receive(&socket, &mut buffer)) => {
                // Answers of another worker are not answered: two of them would never stop.
                if let Ok((length, path)) = received
                    && !buffer[..length].starts_with(b"worker=")
                {
                    // A client that cannot be reached is its own problem; nothing else is lost.
                    let _ = datagram::answer(&socket, &path, body(&name, path.peer).as_bytes());
                }
            }
            _ = stopping.wait_for(|stop| *stop) => return Ok(()),
        }
    }
}

fn body(name: &str, peer: SocketAddr) -> String {
    format!("worker={name}\npid={}\npeer={peer}\n", std::process::id())
}
