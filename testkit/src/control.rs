//! Questions to a daemon at its control socket, as any program may ask them.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::patience::at_most;

/// The body of the answer to `GET` of `path` on the socket `control`.
///
/// # Errors
/// If nobody answers in time, or the answer is not a good one, or only a part of it.
pub fn get(control: &Path, path: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(control)?;
    stream.set_read_timeout(Some(at_most(Duration::from_secs(10))))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let whole = |head: &str, body: &str| {
        let mut lines = head.lines();
        lines.next().is_some_and(|line| line.starts_with("HTTP/1.1 200"))
            && lines.filter_map(|line| line.split_once(": ")).all(|(name, value)| {
                !name.eq_ignore_ascii_case("content-length") || value.parse() == Ok(body.len())
            })
    };
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if whole(head, body) => Ok(body.to_owned()),
        _ => Err(io::Error::other(format!("not an answer: {answer:.300}"))),
    }
}
