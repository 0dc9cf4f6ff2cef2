//! Requests that must not be granted, and what comes of each.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use reuseport_lb::kernel::fd_passing;

/// Bytes by chance (xorshift64), always the same.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        (0..1 + self.next() % most).map(|_| self.next() as u8).collect()
    }

    /// What is left of `whole` when the rest is cut off: not all of it.
    fn cut(&mut self, whole: &[u8]) -> Vec<u8> {
        whole[..1 + (self.next() % (whole.len() as u64 - 1)) as usize].to_vec()
    }

    fn one_of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[(self.next() % all.len() as u64) as usize]
    }
}

/// A valid request to join.
pub(crate) const JOIN: &str = "{\"service\":\"web\",\"worker\":\"web/7\",\"weight\":3}\n";

fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// A request to `join.sock` that must not be granted.
pub(crate) fn bad_join(chance: &mut Chance, kind: usize) -> Vec<u8> {
    match kind {
        0 => chance.bytes(600),
        1 => chance.cut(JOIN.as_bytes()),
        2 => [&chance.bytes(60)[..], JOIN.as_bytes()].concat(),
        3 => vec![b'x'; 64 << 10],
        4 => format!("{{\"service\":\"{}\"}}\n", "w".repeat(5_000)).into_bytes(),
        5 => JOIN.repeat(2).into_bytes(),
        6 => post("/v1/services/web/scale", "{\"workers\":9}").into_bytes(),
        _ => chance
            .one_of(&[
                "\n",
                "null\n",
                "[]\n",
                "{}\n",
                "{\"service\":7}\n",
                "{\"service\":null}\n",
                "{\"service\":\"web\",\"weight\":\"1\"}\n",
                "{\"service\":\"web\",\"weight\":-1}\n",
                "{\"service\":\"web\",\"weight\":1e99}\n",
                "{\"service\":\"web\",\"weight\":1000001}\n",
                "{\"service\":\"web\",\"worker\":7}\n",
                "{\"service\":\"web\",\"worker\":\"web/\"}\n",
                "{\"service\":\"web\",\"worker\":\"web/99999999999999999999\"}\n",
                "{\"service\":\"web\",\"worker\":\"web/5000\"}\n",
                "{\"service\":\"web\",\"worker\":\"web/0\"}\n",
                "{\"service\":\"\"}\n",
                "{\"service\":\"../web\"}\n",
                "{\"service\":\"web\",\"service\":\"web\"}\n",
                "[\"web\",null,1]\n",
                "{\"service\":\"web\"} {\"service\":\"web\"}\n",
            ])
            .into(),
    }
}

/// A request to `control.sock` that must not be granted.
pub(crate) fn bad_control(chance: &mut Chance, kind: usize) -> Vec<u8> {
    let good = post("/v1/services/web/scale", "{\"workers\":9}");
    match kind {
        0 => chance.bytes(600),
        1 => chance.cut(good.as_bytes()),
        2 => [&chance.bytes(60)[..], good.as_bytes()].concat(),
        3 => vec![b'x'; 64 << 10],
        4 => post("/v1/services/web/scale", &"7".repeat(70_000)).into_bytes(),
        5 => good.replace("POST", &"P".repeat(20_000)).into_bytes(),
        6 => good.replace("Host: x", &format!("Host: {}", "x".repeat(20_000))).into_bytes(),
        _ => {
            let path = chance.one_of(&[
                "/v1/services/web/scale",
                "/v1/workers/web/0/weight",
                "/v1/workers/web/0/drain",
            ]);
            let body = chance.one_of(&[
                "[]",
                "[9]",
                "{",
                "{\"workers\":\"2\"}",
                "{\"workers\":-1}",
                "{\"workers\":1e99}",
                "{\"workers\":5000}",
                "{\"weight\":{}}",
                "{\"weight\":-1}",
                "{\"weight\":1000001}",
                "{\"timeout_ms\":\"soon\"}",
                "{\"workers\":2,\"x\":1}",
                "\u{0}",
            ]);
            post(path, body).into_bytes()
        }
    }
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// The daemon says what is wrong.
    Explained,
    /// It says that something is wrong.
    Refused,
    /// It just closes.
    Closed,
    /// The kernel refuses to send descriptors to it (from Linux 6.16 on).
    Unsent,
}

/// Sends `bytes` and with the first of them `fds`, and nothing more.
pub(crate) fn ask(path: &Path, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> End {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(8))).unwrap();
    // The daemon may close in the middle.
    let sent = fd_passing::send(&stream, bytes, fds);
    if !fds.is_empty() && sent.as_ref().is_err_and(|error| error.kind() == ErrorKind::PermissionDenied) {
        return End::Unsent;
    }
    let _ = sent.and_then(|sent| stream.write_all(&bytes[sent..]));
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{:?}", String::from_utf8_lossy(bytes));
    }
    let answer = String::from_utf8_lossy(&answer);
    let granted = answer.contains("\"notify\"") || answer.contains(" 200 OK");
    assert!(!granted, "{:?} was granted: {answer}", String::from_utf8_lossy(bytes));
    match &*answer {
        "" => End::Closed,
        answer if answer.contains("{\"error\":\"") => End::Explained,
        answer => {
            assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
            End::Refused
        }
    }
}
