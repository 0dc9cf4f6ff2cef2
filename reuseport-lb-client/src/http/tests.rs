//! Tests of answers in all framings, received at once or byte by byte, and of broken ones.

use std::io::{self, Read, Write};

use super::{Response, send};

/// A server that records a request and answers with `says`, `step` bytes at a time.
struct Fake<'a> {
    heard: &'a mut Vec<u8>,
    says: &'a [u8],
    step: usize,
}

impl Read for Fake<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.says.len().min(self.step).min(buffer.len());
        let (now, later) = self.says.split_at(length);
        buffer[..length].copy_from_slice(now);
        self.says = later;
        Ok(length)
    }
}

impl Write for Fake<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.heard.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn answer(says: &str, step: usize) -> io::Result<(u16, String)> {
    let mut heard = Vec::new();
    let Response { status, body } =
        send(Fake { heard: &mut heard, says: says.as_bytes(), step }, "GET", "/v1/status", b"")?;
    Ok((status, String::from_utf8(body.whole()?).unwrap()))
}

#[test]
fn a_request_is_sent_as_one() {
    let mut heard = Vec::new();
    let says = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    send(Fake { heard: &mut heard, says, step: 999 }, "POST", "/v1/stop", b"{}").unwrap();
    let heard = String::from_utf8(heard).unwrap();
    assert!(
        heard.starts_with("POST /v1/stop HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"),
        "{heard}"
    );
    assert!(heard.ends_with("\r\ncontent-length: 2\r\n\r\n{}"), "{heard}");
}

#[test]
fn an_answer_is_read_to_its_end_however_that_is_marked() {
    for step in [1, 2, 3, 7, 1000] {
        for (says, status, body) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhellomore", 200, "hello"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nmore", 200, ""),
            ("HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\n\r\nuntil closed", 404, "until closed"),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA;x=y\r\n, everyone\r\n0\r\n\r\n",
                200,
                "hello, everyone",
            ),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 200, ""),
        ] {
            assert_eq!(answer(says, step).unwrap(), (status, body.into()), "{says:?} by {step}");
        }
    }
}

#[test]
fn what_breaks_off_is_no_answer() {
    use io::ErrorKind::{InvalidData, UnexpectedEof};
    let long = format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(80_000));
    for (says, kind) in [
        ("", UnexpectedEof),
        ("HTTP/1.1 200 OK\r\ncontent-le", UnexpectedEof),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell", UnexpectedEof),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", UnexpectedEof),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel", UnexpectedEof),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n", InvalidData),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n", InvalidData),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nx", InvalidData),
        ("HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\nx", InvalidData),
        ("220 mail.example.org ESMTP\r\n", InvalidData),
        (&long, InvalidData),
    ] {
        let error = answer(says, 100).unwrap_err();
        assert_eq!(error.kind(), kind, "{:?}: {error}", &says[..says.len().min(90)]);
    }
}
