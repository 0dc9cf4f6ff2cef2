//! Requests to the servers of these tests, long ones and short ones.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use testkit::fault::times;
use testkit::patience::lasts;

pub(super) fn to() -> SocketAddr {
    "127.0.0.1:3000".parse().unwrap()
}

/// How long a long request takes, and a slow start: well beyond `stall_timeout`; a whole run has more patience.
pub(super) fn long() -> Duration {
    Duration::from_secs(times(5).clamp(5, 60) as u64)
}

/// A short request takes no longer than this, even if everything else does.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// One request on a connection of its own; the answer, or what went wrong.
pub(super) fn get(path: &str, patience: Duration) -> Result<String, String> {
    get_from(to(), path, patience)
}

/// One request to this address.
pub(super) fn get_from(to: SocketAddr, path: &str, patience: Duration) -> Result<String, String> {
    let mut stream = TcpStream::connect(to).map_err(|error| format!("connect: {error}"))?;
    stream.set_read_timeout(Some(patience)).map_err(|error| error.to_string())?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|error| format!("send: {error}"))?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .map_err(|error| format!("{path}: {error} after {:?}", answer.len()))?;
    if answer.starts_with("HTTP/1.1 200") && is_whole(&answer) {
        Ok(answer)
    } else {
        Err(format!("{path}: {} bytes, {:?}", answer.len(), answer.lines().next()))
    }
}

/// Whether an answer is as long as its head says, if it says so.
fn is_whole(answer: &str) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
    let lengths = head.lines().filter_map(|line| line.split_once(": "));
    let mut lengths = lengths.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    lengths.all(|(_, length)| length == body.len().to_string())
}

/// Short requests, 50 a second, until `done`; how many were answered within their patience, and what became of the
/// others.
pub(super) fn short_ones(done: &AtomicBool, patience: Duration) -> (usize, Vec<String>) {
    std::thread::scope(|scope| {
        let mut all = Vec::new();
        while !done.load(Ordering::Relaxed) {
            all.push(scope.spawn(|| get("/", patience)));
            lasts("the time between two of 50 requests a second", Duration::from_millis(20));
        }
        let (mut answered, mut failed) = (0, Vec::new());
        for one in all {
            match one.join().unwrap() {
                Ok(_) => answered += 1,
                Err(error) => failed.push(error),
            }
        }
        (answered, failed)
    })
}
