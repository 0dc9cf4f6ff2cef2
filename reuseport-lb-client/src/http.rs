//! HTTP/1.1 as far as the control socket needs it: one request a connection, its answer in pieces. Not: the requests
//! (`control.rs`).

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Longest status line and headers together.
const LONGEST_HEAD: usize = 64 << 10;

/// Most headers of an answer.
const MOST_HEADERS: usize = 64;

/// An answer: the status, and a body still to be read.
#[derive(Debug)]
pub(crate) struct Response<S = UnixStream> {
    pub(crate) status: u16,
    pub(crate) body: Body<S>,
}

/// A body that is read piece by piece.
#[derive(Debug)]
pub(crate) struct Body<S> {
    stream: S,
    /// Bytes that were received and not read.
    buffer: Vec<u8>,
    framing: Framing,
}

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    /// The size of a chunk comes next.
    ChunkSize,
    /// So many bytes of a chunk, and the end of its line.
    Chunk(u64),
    /// The body ends with the connection.
    UntilClosed,
    Ended,
}

/// Sends a request; `body` is JSON.
pub(crate) fn send<S: Read + Write>(
    mut stream: S,
    method: &str,
    path: &str,
    body: &[u8],
) -> io::Result<Response<S>> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    // If the daemon has closed the connection already, its answer says why.
    let written = stream.write_all(&[head.as_bytes(), body].concat());
    match receive(stream, false) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(written.err().unwrap_or(error)),
        received => received,
    }
}

/// Asks for another protocol on the connection; the answer has status 101 if it is spoken from now on.
pub(crate) fn upgrade<S: Read + Write>(mut stream: S, path: &str, protocol: &str) -> io::Result<Response<S>> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n\
         content-length: 0\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    receive(stream, true)
}

/// `switches`: 101 is an answer, after which the body is another protocol.
fn receive<S: Read>(stream: S, switches: bool) -> io::Result<Response<S>> {
    let mut body = Body { stream, buffer: Vec::new(), framing: Framing::UntilClosed };
    loop {
        if let Some((status, length, framing)) = head(&body.buffer)? {
            // An informational answer (1xx) comes before the final one.
            let is_final = status >= 200 || (switches && status == 101);
            body.buffer.drain(..length);
            if is_final {
                body.framing = framing;
                return Ok(Response { status, body });
            }
        } else if body.buffer.len() > LONGEST_HEAD {
            return Err(broken("its head is too long"));
        } else if body.fill()? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Status, length of the head, and framing of the body; `None` if the head is not complete.
fn head(bytes: &[u8]) -> io::Result<Option<(u16, usize, Framing)>> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes).map_err(|error| broken(&error.to_string()))?;
    let (httparse::Status::Complete(length), Some(status)) = (parsed, response.code) else { return Ok(None) };
    let value = |name: &str| {
        let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        header.map(|header| String::from_utf8_lossy(header.value).trim().to_ascii_lowercase())
    };
    let framing = match (value("transfer-encoding"), value("content-length")) {
        _ if status == 204 || status == 304 => Framing::Ended,
        (Some(coding), _) if coding == "chunked" => Framing::ChunkSize,
        (Some(coding), _) => return Err(broken(&format!("its transfer-encoding is {coding}"))),
        (None, Some(length)) => match length.parse() {
            Ok(0) => Framing::Ended,
            Ok(length) => Framing::Length(length),
            Err(_) => return Err(broken(&format!("its content-length is {length}"))),
        },
        (None, None) => Framing::UntilClosed,
    };
    Ok(Some((status, length, framing)))
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the answer is not HTTP that is understood: {why}"))
}

impl<S> Body<S> {
    /// The connection, and what was received of it and not read.
    pub(crate) fn into_parts(self) -> (S, Vec<u8>) {
        (self.stream, self.buffer)
    }
}

impl<S: Read> Body<S> {
    /// Appends the next piece to `to`; `false` at the end.
    pub(crate) fn more(&mut self, to: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            match self.framing {
                Framing::Ended => return Ok(false),
                Framing::ChunkSize => match httparse::parse_chunk_size(&self.buffer) {
                    Ok(httparse::Status::Complete((length, size))) => {
                        self.buffer.drain(..length);
                        // Trailers after the last chunk are ignored.
                        self.framing = if size == 0 { Framing::Ended } else { Framing::Chunk(size) };
                    }
                    Ok(httparse::Status::Partial) => self.must_fill()?,
                    Err(_) => return Err(broken("no size of a chunk")),
                },
                Framing::Chunk(0) => match self.buffer.as_slice() {
                    [b'\r', b'\n', ..] => {
                        self.buffer.drain(..2);
                        self.framing = Framing::ChunkSize;
                    }
                    [] | [b'\r'] => self.must_fill()?,
                    _ => return Err(broken("a chunk without its end")),
                },
                Framing::Length(_) | Framing::Chunk(_) if self.buffer.is_empty() => self.must_fill()?,
                Framing::Length(left) => {
                    let left = left - self.take(left, to);
                    self.framing = if left == 0 { Framing::Ended } else { Framing::Length(left) };
                    return Ok(true);
                }
                Framing::Chunk(left) => {
                    self.framing = Framing::Chunk(left - self.take(left, to));
                    return Ok(true);
                }
                Framing::UntilClosed if self.buffer.is_empty() => {
                    if self.fill()? == 0 {
                        self.framing = Framing::Ended;
                    }
                }
                Framing::UntilClosed => {
                    to.append(&mut self.buffer);
                    return Ok(true);
                }
            }
        }
    }

    /// Reads the rest of the body.
    pub(crate) fn whole(mut self) -> io::Result<Vec<u8>> {
        let mut whole = Vec::new();
        while self.more(&mut whole)? {}
        Ok(whole)
    }

    /// The stream that it is read from.
    pub(crate) fn stream(&self) -> &S {
        &self.stream
    }

    /// Takes at most `most` of the received bytes.
    fn take(&mut self, most: u64, to: &mut Vec<u8>) -> u64 {
        let length = usize::try_from(most).unwrap_or(usize::MAX).min(self.buffer.len());
        to.extend(self.buffer.drain(..length));
        length as u64
    }

    fn must_fill(&mut self) -> io::Result<()> {
        if self.fill()? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 16 << 10];
        loop {
            match self.stream.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(length) => {
                    self.buffer.extend_from_slice(&buffer[..length]);
                    return Ok(length);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// A stream whose reads and writes fail after a deadline, however often bytes arrive.
#[derive(Debug)]
pub(crate) struct Until {
    stream: UnixStream,
    end: Option<Instant>,
}

impl Until {
    /// `end`: the deadline; `None`: there is none.
    pub(crate) fn new(stream: UnixStream, end: Option<Instant>) -> Self {
        Self { stream, end }
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        let Some(end) = self.end else { return Ok(None) };
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(Some(left)) }
    }

    /// The connection, without a deadline.
    pub(crate) fn forever(self) -> io::Result<UnixStream> {
        self.stream.set_read_timeout(None)?;
        self.stream.set_write_timeout(None)?;
        Ok(self.stream)
    }

    /// One more descriptor of the connection.
    pub(crate) fn try_clone(&self) -> io::Result<UnixStream> {
        self.stream.try_clone()
    }
}

impl Read for Until {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Until {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests;
