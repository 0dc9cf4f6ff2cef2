//! The embedded worker: a process that answers TCP with an HTTP/1.1 response and UDP with a datagram, whose body
//! names the worker, its process id and the client. It is started and told to end like any other worker.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::Type;
use tokio::io::Interest;
use tokio::net::{TcpStream, UdpSocket, UnixDatagram};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Interval;

use crate::kernel::datagram;
use crate::kernel::launch::{Embedded, inherited};
use crate::kernel::watch::readable;

/// How long a connection may take to send its next request.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long connections may take to finish once the worker is told to end.
const FINISHING: Duration = Duration::from_secs(10);

/// A worker that is told to end accepts until no connection has come for this long; at most for [`LINGERING`].
const QUIET: Duration = Duration::from_millis(100);

/// How long a worker that is told to end accepts at most, and waits for the first request of an accepted connection.
const LINGERING: Duration = Duration::from_secs(2);

/// Serves until SIGTERM; then answers queued connections and requests that have begun, and returns.
pub fn run(embedded: Embedded) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, serve(embedded))
}

async fn serve(embedded: Embedded) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let (stop, stopping) = watch::channel(false);
    let name: Rc<str> = embedded.name.into();
    let mut serving = Vec::new();
    let accepted = Rc::new(Cell::new(Instant::now()));
    for socket in inherited(embedded.sockets) {
        socket.set_nonblocking(true)?;
        let (name, stopping) = (name.clone(), stopping.clone());
        serving.push(if socket.r#type()? == Type::STREAM {
            let listener = TcpListener::from(socket);
            tokio::task::spawn_local(accept(listener, name, accepted.clone(), stopping))
        } else {
            datagram::want_destination(&socket)?;
            tokio::task::spawn_local(answer(UdpSocket::from_std(socket.into())?, name, stopping))
        });
    }
    let daemon = UnixDatagram::unbound()?;
    daemon.send_to(b"READY=1", &embedded.notify).await.context("cannot say READY=1 to the daemon")?;

    let mut pings = embedded.watchdog.map(|time| tokio::time::interval(time / 2));
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            () = next(&mut pings) => drop(daemon.try_send_to(b"WATCHDOG=1", &embedded.notify)),
        }
    }
    // SIGTERM may have come from another process than the daemon. Then connections stop coming only now, after
    // STOPPING=1, and those that have just come must get to their request. Perhaps no daemon runs just now.
    let _ = daemon.try_send_to(b"STOPPING=1", &embedded.notify);
    let begun = Instant::now();
    while begun.elapsed() < LINGERING
        && let Some(rest) = QUIET.checked_sub(accepted.get().elapsed())
    {
        tokio::time::sleep(rest).await;
    }
    stop.send(true)?;
    for task in serving {
        task.await??;
    }
    // Connections that take longer than this are cut; the daemon would send SIGKILL as well.
    drop(stopping);
    let _ = tokio::time::timeout(FINISHING, stop.closed()).await;
    Ok(())
}

async fn next(pings: &mut Option<Interval>) {
    match pings {
        Some(pings) => drop(pings.tick().await),
        None => std::future::pending().await,
    }
}

/// Accepts connections; when stopping, only those that are queued already.
async fn accept(
    listener: TcpListener,
    name: Rc<str>,
    last: Rc<Cell<Instant>>,
    mut stopping: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut listener = readable(listener)?;
    loop {
        let mut ready = tokio::select! {
            biased;
            ready = listener.readable() => ready?,
            _ = stopping.wait_for(|stop| *stop) => return Ok(()),
        };
        let hung_up = ready.ready().is_read_closed();
        match ready.try_io(|listener| listener.get_ref().accept()) {
            Ok(Ok((stream, peer))) => {
                last.set(Instant::now());
                stream.set_nonblocking(true)?;
                let stream = TcpStream::from_std(stream)?;
                tokio::task::spawn_local(converse(stream, peer, name.clone(), stopping.clone()));
            }
            // The client has closed the connection, or no descriptor is free.
            Ok(Err(error)) => {
                tracing::debug!("cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            // The listener was shut down and listens again, which tokio would never notice (KERNEL.md 51).
            Err(_) if hung_up => listener = readable(listener.into_inner())?,
            Err(_) => {}
        }
    }
}

/// Answers the requests of a connection; when stopping, those that have begun, and the first one in any case.
async fn converse(stream: TcpStream, peer: SocketAddr, name: Rc<str>, mut stopping: watch::Receiver<bool>) {
    // Without Nagle's algorithm, which would delay small answers.
    let _ = stream.set_nodelay(true);
    let (asked, mut has_asked) = watch::channel(false);
    let respond = service_fn(move |_: Request<hyper::body::Incoming>| {
        asked.send_replace(true);
        let mut response = Response::new(Full::new(Bytes::from(body(&name, peer))));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        async move { Ok::<_, Infallible>(response) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .half_close(true)
            .serve_connection(TokioIo::new(stream), respond)
    );
    let told = async {
        let _ = stopping.wait_for(|stop| *stop).await;
        let _ = tokio::time::timeout(LINGERING, has_asked.wait_for(|asked| *asked)).await;
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = told => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("{peer}: {error}");
    }
}

/// Answers datagrams; when stopping, only those that are queued already.
async fn answer(socket: UdpSocket, name: Rc<str>, mut stopping: watch::Receiver<bool>) -> io::Result<()> {
    // The content of datagrams is not used but for its beginning.
    let mut buffer = [0; 64];
    loop {
        tokio::select! {
            biased;
            received = socket.async_io(Interest::READABLE, || datagram::receive(&socket, &mut buffer)) => {
                // Answers of another worker are not answered: two of them would never stop.
                if let Ok((length, path)) = received
                    && !buffer[..length].starts_with(b"worker=")
                {
                    // If the client cannot be reached, only its answer is lost.
                    let _ = datagram::answer(&socket, &path, body(&name, path.peer).as_bytes());
                }
            }
            _ = stopping.wait_for(|stop| *stop) => return Ok(()),
        }
    }
}

fn body(name: &str, peer: SocketAddr) -> String {
    // An IPv4 client of a dual-stack socket has an IPv4-mapped address.
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    format!("worker={name}\npid={}\npeer={peer}\n", std::process::id())
}
