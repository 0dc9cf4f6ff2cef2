//! Clients: connections and datagrams from any address, to the embedded worker.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::background::Background;
use crate::patience::at_most;

/// A request fails that takes longer.
#[must_use]
pub fn timeout() -> Duration {
    at_most(Duration::from_secs(5))
}

/// What a client sends.
pub(crate) const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n";

/// What an embedded worker says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// `worker=`
    pub worker: String,
    /// `pid=`
    pub pid: i32,
    /// `peer=`
    pub peer: SocketAddr,
}

impl Answer {
    pub(crate) fn parse(text: &str) -> io::Result<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let parsed =
            || Some((field("worker=")?, field("pid=")?.parse().ok()?, field("peer=")?.parse().ok()?));
        match parsed() {
            Some((worker, pid, peer)) => Ok(Self { worker: worker.into(), pid, peer }),
            None => Err(io::Error::other(format!("not an answer: {text:?}"))),
        }
    }
}

/// A whole HTTP response.
pub(crate) struct Response {
    pub(crate) answer: Answer,
    /// Whether the server closes the connection after it.
    pub(crate) closes: bool,
}

impl Response {
    /// Nothing while a part of it is missing.
    pub(crate) fn parse(received: &[u8]) -> io::Result<Option<Self>> {
        let text = String::from_utf8_lossy(received);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(None) };
        let header = |name: &str| {
            let mut headers = head.lines().filter_map(|line| line.split_once(": "));
            headers.find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        };
        if header("content-length").is_none_or(|length| length.parse() != Ok(body.len())) {
            return Ok(None);
        }
        let closes = header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        Answer::parse(body).map(|answer| Some(Self { answer, closes }))
    }
}

/// A connection that is kept.
pub struct Connection(TcpStream);

impl Connection {
    /// Connects, from `from` if that is given.
    pub fn open(to: SocketAddr, from: Option<IpAddr>) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        if let Some(from) = from {
            // The port is chosen at connect, so that ports do not run out.
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::IpBindAddressNoPort, &true)?;
            socket.bind(&SocketAddr::new(from, 0).into())?;
        }
        socket.connect_timeout(&to.into(), timeout())?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(timeout()))?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    /// One request on it.
    pub fn ask(&mut self) -> io::Result<Answer> {
        self.send()?;
        self.answer()
    }

    /// The first half of that.
    pub fn send(&mut self) -> io::Result<()> {
        self.0.write_all(REQUEST)
    }

    /// The second half: the answer to what was sent.
    pub fn answer(&mut self) -> io::Result<Answer> {
        let mut response = Vec::new();
        let mut chunk = [0; 1024];
        loop {
            let length = self.0.read(&mut chunk)?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            response.extend_from_slice(&chunk[..length]);
            if let Some(response) = Response::parse(&response)? {
                return Ok(response.answer);
            }
        }
    }

    /// Whether it is neither closed nor answered for `time`.
    pub fn stays_silent(&mut self, time: Duration) -> io::Result<bool> {
        self.0.set_read_timeout(Some(time))?;
        let silent = self.0.read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        self.0.set_read_timeout(Some(timeout()))?;
        Ok(silent)
    }

    /// The client's own address.
    ///
    /// # Panics
    /// If the kernel does not tell.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.0.local_addr().expect("a connected socket has an address")
    }

    /// Sends no more; the other side may.
    ///
    /// # Errors
    /// If the connection is gone already.
    pub fn half_close(&self) -> io::Result<()> {
        self.0.shutdown(std::net::Shutdown::Write)
    }

    /// Closes with a reset, so that no port is left in TIME_WAIT.
    pub fn reset(self) {
        // The worst that can happen is an ordinary close.
        let _ = Socket::from(self.0).set_linger(Some(Duration::ZERO));
    }
}

/// One connection with one request.
pub fn ask(to: SocketAddr) -> io::Result<Answer> {
    ask_from(to, None)
}

/// One connection with one request, from a given address.
pub fn ask_from(to: SocketAddr, from: Option<IpAddr>) -> io::Result<Answer> {
    let mut connection = Connection::open(to, from)?;
    let answer = connection.ask();
    connection.reset();
    answer
}

/// What an HTTP server answered.
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    pub body: String,
}

/// A request over HTTP on a connection of its own, and its answer. HTTP/1.0: the body comes as it is, not in chunks.
pub fn http(mut stream: impl Read + Write, method: &str, path: &str) -> io::Result<HttpAnswer> {
    write!(stream, "{method} {path} HTTP/1.0\r\nhost: test\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let parts = answer.split_once("\r\n\r\n");
    let parsed = parts.and_then(|(head, body)| Some((head.split(' ').nth(1)?.parse().ok()?, head, body)));
    match parsed {
        Some((status, head, body)) => Ok(HttpAnswer { status, head: head.into(), body: body.into() }),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, answer)),
    }
}

/// One datagram and its answer, from `from` or any address.
pub fn ask_udp(to: SocketAddr, from: Option<IpAddr>) -> io::Result<Answer> {
    ask_udp_with(to, from, b"?")
}

/// As [`ask_udp`], with this datagram.
pub fn ask_udp_with(to: SocketAddr, from: Option<IpAddr>, datagram: &[u8]) -> io::Result<Answer> {
    let any = if to.is_ipv4() { IpAddr::from([0, 0, 0, 0]) } else { IpAddr::from([0u16; 8]) };
    let socket = UdpSocket::bind((from.unwrap_or(any), 0))?;
    socket.connect(to)?;
    ask_udp_on(&socket, datagram)
}

/// One datagram and its answer, on a socket that is connected.
pub fn ask_udp_on(socket: &UdpSocket, datagram: &[u8]) -> io::Result<Answer> {
    socket.set_read_timeout(Some(timeout()))?;
    socket.send(datagram)?;
    let mut buffer = [0; 1024];
    let length = socket.recv(&mut buffer)?;
    Answer::parse(&String::from_utf8_lossy(&buffer[..length]))
}

/// How often each worker answered.
pub type Tally = BTreeMap<String, u64>;

/// Asks `count` times and counts who answered.
///
/// # Panics
/// If a request fails.
#[must_use]
pub fn tally(count: usize, mut ask: impl FnMut() -> io::Result<Answer>) -> Tally {
    let mut tally = Tally::new();
    for at in 0..count {
        let answer = ask().unwrap_or_else(|error| panic!("request {at} of {count} failed: {error}"));
        *tally.entry(answer.worker).or_default() += 1;
    }
    tally
}

/// New connections, one request each, one after the other, until it is ended.
pub struct Stream(Background<Outcome>);

/// What became of a [`Stream`].
#[derive(Debug, Default)]
pub struct Outcome {
    /// Requests that were answered, by worker.
    pub answered: Tally,
    /// What went wrong, one line for each.
    pub failed: Vec<String>,
}

impl Stream {
    /// Starts one, in this thread's namespace.
    #[must_use]
    pub fn start(to: SocketAddr) -> Self {
        Self(Background::start(move |over| {
            let mut outcome = Outcome::default();
            while !over.load(Ordering::Relaxed) {
                let asked = Connection::open(to, None).map_err(|error| format!("connect: {error}"));
                let answered = asked.and_then(|mut connection| {
                    let answer = connection.ask().map_err(|error| format!("answer: {error}"));
                    connection.reset();
                    answer
                });
                match answered {
                    Ok(answer) => *outcome.answered.entry(answer.worker).or_default() += 1,
                    Err(error) => outcome.failed.push(error),
                }
            }
            outcome
        }))
    }

    /// Ends it.
    ///
    /// # Panics
    /// If the thread panicked.
    #[must_use]
    pub fn end(self) -> Outcome {
        self.0.end()
    }
}
