//! Requests over HTTP to servers that people run, one after the other or steadily.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::patience::lasts;

/// One request on a connection of its own; the whole answer, or what went wrong.
///
/// # Errors
/// If there is no answer within so long, or one that is not 200, or a part of one.
pub fn get(to: SocketAddr, path: &str, patience: Duration) -> Result<String, String> {
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
    let headers = || head.lines().filter_map(|line| line.split_once(": "));
    let value =
        |wanted: &str| headers().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, it)| it);
    let in_chunks = value("transfer-encoding").is_some_and(|it| it.eq_ignore_ascii_case("chunked"));
    let length = value("content-length");
    length.is_none_or(|length| length == body.len().to_string())
        && (!in_chunks || body.ends_with("0\r\n\r\n"))
}

/// Asks every so often, each time in a thread of its own, until `over`; what came of each.
///
/// # Panics
/// If one of them does.
pub fn steadily<T: Send>(over: &AtomicBool, every: Duration, ask: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let ask = &ask;
    std::thread::scope(|scope| {
        let mut all = Vec::new();
        while !over.load(Ordering::Relaxed) {
            let number = all.len();
            all.push(scope.spawn(move || ask(number)));
            lasts("the time between two requests", every);
        }
        all.into_iter().map(|one| one.join().expect("a request panicked")).collect()
    })
}
