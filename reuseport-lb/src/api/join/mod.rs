//! `join.sock`: processes that the daemon did not start become workers (docs/JOIN.md). Not: which may, and what
//! follows, which the receiver of [`Request`] decides; nor the client's side (the client package).
//! Requests are bounded in size, number (`connection_limit.rs`) and time; a bad one gets an error.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use reuseport_lb_client::join::{Answer, Ask, LONGEST_REQUEST, number};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::api::connection_limit::{self, Permit};
use crate::api::json;
use crate::config;
use crate::kernel::fd_passing::{self, Peer};
use crate::kernel::{calls, closing, host};
use crate::service::joining::{Request, Ticket};

/// How long a request may take to arrive, and an answer to be read.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes the socket, which processes of every user may connect; each request is then checked for its user.
pub fn listen(path: &Path) -> Result<UnixListener> {
    let listener = host::with_umask(0o111, || UnixListener::bind(path))
        .with_context(|| format!("cannot make the join socket {}", path.display()))?;
    closing::refuse_descriptors(&listener);
    Ok(listener)
}

/// Hands each valid request on, as long as the runtime lives.
pub async fn serve(listener: UnixListener, requests: mpsc::UnboundedSender<Request>) {
    connection_limit::serve(listener, "join socket", |stream, permit| {
        converse(stream, permit, requests.clone())
    })
    .await;
}

async fn converse(stream: UnixStream, permit: Permit, requests: mpsc::UnboundedSender<Request>) {
    answer(&stream, permit, requests).await;
    // The stream may still have descriptors that were sent and not read (before Linux 6.16).
    if let Ok(stream) = stream.into_std() {
        closing::close(vec![stream.into()]);
    }
}

async fn answer(stream: &UnixStream, permit: Permit, requests: mpsc::UnboundedSender<Request>) {
    // At once, as `Peer::of` requires.
    let peer = Peer::of(stream);
    let asked = tokio::select! {
        biased;
        asked = hear(stream) => asked,
        () = permit.evicted() => Err(connection_limit::why_evicted()),
        () = tokio::time::sleep(PATIENCE) => Err(format!("the request did not arrive within {PATIENCE:?}")),
    };
    let outcome = match (asked, peer) {
        // The connection was closed without a request.
        (Ok(None), _) => return,
        (Ok(Some(_)), Err(error)) => Err(format!("cannot tell which process asks: {error}")),
        (Ok(Some(asked)), Ok(peer)) => {
            permit.busy();
            settle(asked, peer, &requests).await
        }
        (Err(error), _) => Err(error),
    };
    // An evicted connection must not evict another one.
    if !permit.is_evicted() {
        permit.idle();
    }
    let telling = async {
        let error = match outcome {
            Ok((place, delivered)) => match hand_over(stream, place).await {
                Ok(()) => {
                    let _ = delivered.send(());
                    return;
                }
                Err(error) => format!("cannot hand the sockets over: {error}"),
            },
            Err(error) => error,
        };
        let answer = Answer::Refused { error };
        if let Err(error) = tell(stream, &answer, &[]).await {
            tracing::debug!("join socket: cannot answer: {error}");
        }
    };
    tokio::select! {
        biased;
        () = telling => {}
        () = permit.evicted() => {}
        () = tokio::time::sleep(PATIENCE) => {}
    }
}

/// Reads the one line of a request; `None` if the connection was closed before.
async fn hear(stream: &UnixStream) -> Result<Option<(Ask, Option<usize>)>, String> {
    let mut buffer = [0; LONGEST_REQUEST];
    let mut length = 0;
    loop {
        let room = &mut buffer[length..];
        let (more, unwanted) =
            match stream.async_io(Interest::READABLE, || fd_passing::receive(stream, room)).await {
                Ok((0, _)) if length > 0 => return Err("the request has no newline at its end".into()),
                Ok((0, _)) | Err(_) => return Ok(None),
                Ok(received) => received,
            };
        closing::close(unwanted);
        let end = buffer[length..length + more].iter().position(|byte| *byte == b'\n');
        match end.map(|end| length + end) {
            Some(end) if end + 1 < length + more => {
                return Err("there is more behind the newline: one request for each connection".into());
            }
            Some(end) => return parse(&buffer[..end]).map(Some),
            None => length += more,
        }
        if length == buffer.len() {
            return Err(format!("the request is longer than {LONGEST_REQUEST} bytes"));
        }
    }
}

/// The descriptor by which calls of a process are answered that opens its sockets itself, taken from it.
fn calls_of(peer: &Peer, fd: RawFd) -> Result<OwnedFd, String> {
    let taken = peer
        .descriptor(fd)
        .map_err(|error| format!("cannot take its descriptor {fd} (pidfd_getfd): {error}"))?;
    if calls::is_notifier(&taken) {
        return Ok(taken);
    }
    closing::close(vec![taken]);
    Err(format!(
        "its descriptor {fd} (\"calls\") is not one by which calls are answered (SECCOMP_FILTER_FLAG_NEW_LISTENER): \
         `reuseport-lb exec --sockets bind` makes one"
    ))
}

fn parse(line: &[u8]) -> Result<(Ask, Option<usize>), String> {
    let ask: Ask = json::object(line).map_err(|error| {
        format!(
            "the request is not the JSON that docs/JOIN.md describes, like {{\"service\":\"web\"}}: {error}"
        )
    })?;
    let number = ask.worker.as_deref().map(|worker| number(&ask.service, worker)).transpose()?;
    config::check_weight(ask.weight)?;
    Ok((ask, number))
}

/// Hands a request on and waits for the answer.
async fn settle(
    (ask, number): (Ask, Option<usize>),
    peer: Peer,
    requests: &mpsc::UnboundedSender<Request>,
) -> Result<(Ticket, oneshot::Sender<()>), String> {
    let ending = || String::from("the daemon is ending: join the next one");
    let (answer, answered) = oneshot::channel();
    let (deliver, delivered) = oneshot::channel();
    let Ask { service, weight, calls, .. } = ask;
    let calls = calls.map(|fd| calls_of(&peer, fd)).transpose()?;
    let request = Request { service, number, weight, peer, calls, answer, delivered };
    requests.send(request).map_err(|_| ending())?;
    let place = answered.await.map_err(|_| ending())??;
    Ok((place, deliver))
}

async fn hand_over(stream: &UnixStream, place: Ticket) -> io::Result<()> {
    let Ticket { worker, notify, names, sockets, watchdog, env } = place;
    let watchdog_usec = watchdog.map(|watchdog| u64::try_from(watchdog.as_micros()).unwrap_or(u64::MAX));
    let fds: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
    tell(stream, &Answer::Joined { worker, notify, names, watchdog_usec, env }, &fds).await
}

/// Writes one line, with `fds` attached to its first byte.
async fn tell(stream: &UnixStream, answer: &Answer, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let line = json::line(answer);
    let mut left = line.as_bytes();
    while !left.is_empty() {
        let fds = if left.len() == line.len() { fds } else { &[] };
        let sent = stream.async_io(Interest::WRITABLE, || fd_passing::send(stream, left, fds)).await?;
        left = &left[sent..];
    }
    Ok(())
}

#[cfg(test)]
mod tests;
