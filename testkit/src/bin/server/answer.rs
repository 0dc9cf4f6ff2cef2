//! What a server answers, one client after the other.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::flags::{Answer, Flags};

/// Longest request, and longest datagram.
const LONGEST: usize = 64 * 1024;

/// Who answers, and how.
pub(crate) struct Speaker {
    name: String,
    answer: Answer,
    pause: Option<Duration>,
    slow: Option<Duration>,
    patience: Option<Duration>,
    found: String,
}

impl Speaker {
    /// `found` is what it says with [`Answer::Found`].
    pub(crate) fn new(flags: &Flags, found: String) -> Self {
        let Flags { answer, pause, slow, patience, .. } = *flags;
        Self { name: flags.name(), answer, pause, slow, patience, found }
    }

    /// Serves a connection to its end.
    pub(crate) fn converse(&self, mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(self.patience)?;
        match self.answer {
            Answer::Found => stream.write_all(self.found.as_bytes()),
            Answer::Halves => {
                stream.write_all(b"begun ")?;
                self.rest(self.pause);
                stream.write_all(b"finished")?;
                drop(stream);
                std::process::exit(0);
            }
            _ => {
                let Some(request) = request(&mut stream)? else { return Ok(()) };
                self.rest(self.pause);
                if request.windows(5).any(|part| part == b"/slow") {
                    self.rest(self.slow);
                }
                stream.write_all(&self.response(peer, true))
            }
        }
    }

    /// The answer to a request.
    pub(crate) fn response(&self, peer: SocketAddr, closes: bool) -> Vec<u8> {
        let body = self.body(peer);
        let closes = if closes { "Connection: close\r\n" } else { "" };
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{closes}\r\n{body}", body.len()).into_bytes()
    }

    /// The answer to a datagram.
    pub(crate) fn datagram(&self, received: &[u8], peer: SocketAddr) -> Vec<u8> {
        self.rest(self.pause);
        if self.answer == Answer::Echo { received.to_vec() } else { self.body(peer).into_bytes() }
    }

    fn body(&self, peer: SocketAddr) -> String {
        format!("worker={}\npid={}\npeer={peer}\n", self.name, std::process::id())
    }

    fn rest(&self, time: Option<Duration>) {
        std::thread::sleep(time.unwrap_or_default());
    }
}

/// Until its end; `None` if the client has gone.
fn request(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let (mut request, mut part) = (Vec::new(), [0; 4096]);
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < LONGEST {
        match stream.read(&mut part)? {
            0 => return Ok(None),
            length => request.extend_from_slice(&part[..length]),
        }
    }
    Ok(Some(request))
}
