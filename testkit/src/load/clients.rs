//! The two kinds of clients.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep, timeout};

use super::report::{Ended, Ending, Failure, Stage};
use super::{Plan, Record};
use crate::client::{self, Answer, REQUEST, Response};

/// Pause after a failure, so that a dead server does not fill the report.
const BREATH: Duration = Duration::from_millis(10);

/// How far a request has got.
struct Progress {
    started: Instant,
    stage: Stage,
    local: Option<SocketAddr>,
    /// Bytes of the answer.
    received: usize,
}

impl Progress {
    fn begin() -> Self {
        Self { started: Instant::now(), stage: Stage::Connect, local: None, received: 0 }
    }

    fn failure(&self, error: &io::Error, kept: Option<&Answer>) -> Failure {
        Failure {
            started: self.started,
            at: Instant::now(),
            stage: self.stage,
            kind: error.kind(),
            text: error.to_string(),
            local: self.local,
            kept: kept.map(|answer| (answer.worker.clone(), answer.pid)),
        }
    }
}

/// A client with a new connection for each request.
pub(super) async fn come_and_go(plan: Plan, record: Arc<Record>, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        let answered = first(plan.to, &record).await.is_some();
        let pause = if answered { plan.pause } else { plan.pause.max(BREATH) };
        if !pause.is_zero() {
            rest(pause, &mut stop).await;
        }
    }
}

/// A kept connection, and another one when it ends. Drops `opened` after its first answer.
pub(super) async fn stay(
    plan: Plan,
    nth: usize,
    record: Arc<Record>,
    mut stop: watch::Receiver<bool>,
    opened: mpsc::Sender<()>,
) {
    // Their requests shall not come all at once.
    rest(plan.every.mul_f64(nth as f64 / plan.kept as f64), &mut stop).await;
    let mut opened = Some(opened);
    let mut pace = interval(plan.every);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !*stop.borrow() {
        let connected = first(plan.to, &record).await;
        drop(opened.take());
        match connected {
            Some((stream, Response { answer, closes: true })) => {
                drop(stream);
                record.lock().ended.push(ended(answer, Ending::Said, Duration::ZERO));
            }
            Some((stream, Response { answer, closes: false })) => {
                pace.reset();
                if !talk(stream, answer, &mut pace, &record, &mut stop).await {
                    rest(BREATH, &mut stop).await;
                }
            }
            None => rest(BREATH, &mut stop).await,
        }
    }
}

/// One request on a new connection.
async fn first(to: SocketAddr, record: &Record) -> Option<(TcpStream, Response)> {
    let mut progress = Progress::begin();
    let asked = async {
        let mut stream = connect(to, &mut progress).await?;
        let response = ask(&mut stream, &mut progress).await?;
        Ok((stream, response))
    };
    match within(asked).await {
        Ok((stream, response)) => {
            record.lock().answered(&response.answer, progress.local, progress.started.elapsed());
            Some((stream, response))
        }
        Err(error) => {
            record.lock().refused(progress.failure(&error, None));
            None
        }
    }
}

/// Requests on a connection that has had its first answer, until it ends or the load does; whether
/// it ended in order.
async fn talk(
    mut stream: TcpStream,
    met: Answer,
    pace: &mut Interval,
    record: &Record,
    stop: &mut watch::Receiver<bool>,
) -> bool {
    let local = stream.local_addr().ok();
    let stopped = stop.wait_for(|stop| *stop);
    tokio::pin!(stopped);
    loop {
        let mut progress = Progress { stage: Stage::Send, local, ..Progress::begin() };
        tokio::select! {
            biased;
            _ = &mut stopped => return true,
            end = silence(&stream) => {
                let mut record = record.lock();
                match end {
                    Ok(how) => record.ended.push(ended(met, how, Duration::ZERO)),
                    Err(error) => {
                        progress.stage = Stage::Wrong;
                        record.failed.push(progress.failure(&error, Some(&met)));
                        return false;
                    }
                }
                return true;
            }
            _ = pace.tick() => {}
        }
        progress.started = Instant::now();
        let answered = within(ask(&mut stream, &mut progress)).await;
        let took = progress.started.elapsed();
        let mut record = record.lock();
        match answered {
            Ok(response) if response.answer.pid != met.pid => {
                progress.stage = Stage::Wrong;
                let Answer { worker, pid, .. } = response.answer;
                let error = io::Error::other(format!("another one answered: {worker} with pid {pid}"));
                record.failed.push(progress.failure(&error, Some(&met)));
                return false;
            }
            Ok(response) => {
                record.kept_messages += 1;
                record.kept_latencies.add(took);
                if response.closes {
                    record.ended.push(ended(met, Ending::Said, Duration::ZERO));
                    return true;
                }
            }
            Err(error) if progress.received == 0 && is_close(&error) => {
                record.ended.push(ended(met, Ending::Raced, took));
                return true;
            }
            Err(error) => {
                record.failed.push(progress.failure(&error, Some(&met)));
                return false;
            }
        }
    }
}

async fn connect(to: SocketAddr, progress: &mut Progress) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), None)?;
    // Closing resets: no port stays in TIME_WAIT.
    socket.set_linger(Some(Duration::ZERO))?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    progress.local = socket.local_addr()?.as_socket();
    let stream = TcpStream::from_std(socket.into())?;
    stream.writable().await?;
    stream.take_error()?.map_or(Ok(stream), Err)
}

async fn ask(stream: &mut TcpStream, progress: &mut Progress) -> io::Result<Response> {
    progress.stage = Stage::Send;
    stream.write_all(REQUEST).await?;
    progress.stage = Stage::Answer;
    let mut response = [0; 4096];
    loop {
        let length = stream.read(&mut response[progress.received..]).await?;
        if length == 0 {
            // The buffer is full, or the server closed.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        progress.received += length;
        match Response::parse(&response[..progress.received]) {
            Ok(None) => {}
            Ok(Some(response)) => return Ok(response),
            Err(error) => {
                progress.stage = Stage::Wrong;
                return Err(error);
            }
        }
    }
}

/// Waits on an idle connection until the server ends it, or says what nobody asked for.
async fn silence(stream: &TcpStream) -> io::Result<Ending> {
    loop {
        stream.readable().await?;
        return match stream.try_read(&mut [0; 64]) {
            Ok(0) => Ok(Ending::Idle),
            Ok(_) => Err(io::Error::other("bytes that nobody asked for")),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => Ok(Ending::Reset),
        };
    }
}

fn is_close(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

fn ended(met: Answer, how: Ending, waited: Duration) -> Ended {
    Ended { worker: met.worker, pid: met.pid, at: Instant::now(), how, waited }
}

async fn within<T>(asked: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let limit = client::timeout();
    timeout(limit, asked).await.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("timed out after {limit:?}")))
    })
}

async fn rest(pause: Duration, stop: &mut watch::Receiver<bool>) {
    tokio::select! {
        () = sleep(pause) => {} // sleep: the pace of the load
        _ = stop.wait_for(|stop| *stop) => {}
    }
}
