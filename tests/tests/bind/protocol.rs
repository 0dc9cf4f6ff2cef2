//! Questions to servers, in the protocol that each of them speaks.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use testkit::dns::{query, resolved};
use testkit::patience::at_most;

/// Where all servers of these tests listen.
pub(crate) fn to() -> SocketAddr {
    "127.0.0.1:3000".parse().unwrap()
}

/// What a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// GET, answered with 200.
    Http,
    /// Nothing: it answers by itself.
    Greeting,
    /// PING, answered with PONG.
    Redis,
    /// The address of `www.test`, over TCP.
    DnsOverTcp,
    /// The address of `www.test`, over UDP.
    Dns,
}

/// A question that was sent.
#[derive(Debug)]
pub(crate) struct Asked {
    protocol: Protocol,
    socket: Connected,
}

#[derive(Debug)]
enum Connected {
    Stream(TcpStream),
    Datagrams(UdpSocket),
}

/// The address of `www.test`.
fn question() -> Vec<u8> {
    query(4711, "www.test")
}

impl Protocol {
    /// The listener that it needs.
    pub(crate) fn url(self) -> String {
        format!("{}://{}", if self == Self::Dns { "udp" } else { "tcp" }, to())
    }

    /// Asks on a connection of its own.
    pub(crate) fn send(self) -> Result<Asked, String> {
        let patience = Some(at_most(Duration::from_secs(10)));
        if self == Self::Dns {
            let socket = UdpSocket::bind("127.0.0.1:0").map_err(|error| format!("bind: {error}"))?;
            let sent = socket.connect(to()).and_then(|()| socket.send(&question()));
            sent.and_then(|_| socket.set_read_timeout(patience)).map_err(|error| format!("send: {error}"))?;
            return Ok(Asked { protocol: self, socket: Connected::Datagrams(socket) });
        }
        let mut stream = TcpStream::connect(to()).map_err(|error| format!("connect: {error}"))?;
        let question: &[u8] = match self {
            Self::Http => b"GET / HTTP/1.0\r\nHost: test\r\n\r\n",
            Self::Redis => b"PING\r\n",
            Self::DnsOverTcp => &[&[0, question().len() as u8], &*question()].concat(),
            Self::Greeting | Self::Dns => b"",
        };
        let sent = stream.set_read_timeout(patience).and_then(|()| stream.write_all(question));
        sent.map_err(|error| format!("send: {error}"))?;
        Ok(Asked { protocol: self, socket: Connected::Stream(stream) })
    }

    /// Asks, and waits for the answer.
    pub(crate) fn ask(self) -> Result<String, String> {
        self.send()?.answer()
    }
}

impl Asked {
    /// Waits for the answer: its text, of DNS nothing.
    pub(crate) fn answer(self) -> Result<String, String> {
        let failed = |error: std::io::Error| format!("answer: {error}");
        match self.socket {
            Connected::Datagrams(socket) => {
                let mut answer = [0; 512];
                let length = socket.recv(&mut answer).map_err(failed)?;
                resolved(&question(), &answer[..length]).map(|()| String::new())
            }
            Connected::Stream(mut stream) => match self.protocol {
                Protocol::DnsOverTcp => {
                    let mut length = [0; 2];
                    stream.read_exact(&mut length).map_err(failed)?;
                    let mut answer = vec![0; u16::from_be_bytes(length).into()];
                    stream.read_exact(&mut answer).map_err(failed)?;
                    resolved(&question(), &answer).map(|()| String::new())
                }
                Protocol::Redis => {
                    let mut answer = [0; 7];
                    stream.read_exact(&mut answer).map_err(failed)?;
                    let pong = &answer == b"+PONG\r\n";
                    pong.then(String::new).ok_or_else(|| format!("answer: not PONG: {answer:?}"))
                }
                Protocol::Http | Protocol::Greeting | Protocol::Dns => {
                    let mut answer = String::new();
                    stream.read_to_string(&mut answer).map_err(failed)?;
                    let right = match self.protocol {
                        Protocol::Http => answer.starts_with("HTTP/1.") && answer.contains(" 200 "),
                        _ => !answer.is_empty(),
                    };
                    if right { Ok(answer) } else { Err(format!("answer: unexpected: {answer:?}")) }
                }
            },
        }
    }
}

/// Asks so often on connections of their own, in turn by each protocol; what went wrong.
pub(crate) fn ask_all(protocols: &[Protocol], times: usize) -> Vec<String> {
    let all = protocols.iter().flat_map(|protocol| std::iter::repeat_n(*protocol, times));
    all.filter_map(|protocol| protocol.ask().err().map(|error| format!("{protocol:?}: {error}"))).collect()
}
