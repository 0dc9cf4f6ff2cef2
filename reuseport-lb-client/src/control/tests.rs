//! Tests of requests as they arrive at a socket, and of the results of answers.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

use tempfile::TempDir;

use super::*;

/// Answers one connection with each text; the thread returns the requests.
fn serve<const N: usize>(says: [&str; N]) -> (TempDir, ControlClient, JoinHandle<Vec<String>>) {
    let directory = tempfile::tempdir().unwrap();
    let client = ControlClient::new(directory.path().join("control.sock"));
    let listener = UnixListener::bind(client.path()).unwrap();
    let says = says.map(str::to_owned);
    let served = std::thread::spawn(move || {
        let answer = |says: &str| {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
            while !is_whole(&heard) {
                let length = stream.read(&mut buffer).unwrap();
                assert!(length > 0, "{}", String::from_utf8_lossy(&heard));
                heard.extend_from_slice(&buffer[..length]);
            }
            stream.write_all(says.as_bytes()).unwrap();
            let heard = String::from_utf8(heard).unwrap();
            let (head, body) = heard.split_once("\r\n\r\n").unwrap();
            format!("{} {body}", head.lines().next().unwrap().trim_end_matches(" HTTP/1.1"))
        };
        says.iter().map(|says| answer(says)).collect()
    });
    (directory, client, served)
}

fn is_whole(heard: &[u8]) -> bool {
    let text = String::from_utf8_lossy(heard);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    body.len() >= length.parse().unwrap()
}

const SCALED: &str = "HTTP/1.1 200 OK\r\ncontent-length: 24\r\n\r\n{\"before\":3,\"after\":4}\n ";
const NOTHING: &str =
    "HTTP/1.1 404 Not Found\r\n\r\n{\"error\":\"there is no worker web/9; there is web/0\"}";
const INVALID: &str = "HTTP/1.1 422 Unprocessable Entity\r\n\r\n{\"error\":\"line 1\",\"invalid\":true}";

/// An answer in these chunks, without the empty last one: it breaks off.
fn chunked(chunks: &[&str]) -> String {
    let chunks = chunks.iter().map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len()));
    format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}", chunks.collect::<String>())
}

#[test]
fn a_request_goes_where_it_belongs() {
    let (_directory, client, served) = serve([SCALED, NOTHING, INVALID, SCALED]);
    assert_eq!(client.scale("web", &Scale::to(4)).unwrap(), Scaled { before: 3, after: 4 });
    let error = client.drain("web/9", &Drain::default()).unwrap_err();
    assert!(
        matches!(&error, ControlError::Refused(Refusal::Unknown(text)) if text.contains("web/9")),
        "{error:?}"
    );
    assert_eq!(error.to_string(), "there is no worker web/9; there is web/0");
    let error = client.reload(&Reload::default()).unwrap_err();
    assert!(matches!(error, ControlError::Refused(Refusal::InvalidConfiguration(_))), "{error:?}");
    let error = client.stop(&Stop { keep: true, announce_ms: None }).unwrap_err();
    assert!(matches!(error, ControlError::Unexpected(_)), "{error:?}");
    assert_eq!(
        served.join().unwrap(),
        [
            "POST /v1/services/web/scale {\"workers\":4}",
            "POST /v1/workers/web/9/drain {\"timeout_ms\":null}",
            "POST /v1/reload {\"dry_run\":false}",
            "POST /v1/stop {\"keep\":true}",
        ]
    );
}

#[test]
fn lines_are_events_wherever_their_chunks_end() {
    let restart = chunked(&[
        "{\"event\":\"ready\",\"worker\":\"web/0\"}\n{\"event\":\"do",
        "ne\",\"replaced\":1,\"error\":null}\n",
        "",
    ]);
    let (_directory, client, served) = serve([&restart, &chunked(&["\n", "{\"missed\":7}\n", "\n"])]);
    let lines: Vec<Line<Progress>> =
        client.restart("web/0", &Restart::default()).unwrap().map(Result::unwrap).collect();
    assert_eq!(lines[0].value, Progress::Ready { worker: "web/0".into() });
    assert_eq!(lines[1].value, Progress::Done { replaced: 1, error: None });
    assert_eq!((lines.len(), &*lines[1].text), (2, r#"{"event":"done","replaced":1,"error":null}"#));
    let mut traced = client.trace("web").unwrap();
    assert_eq!(traced.next().unwrap().unwrap().value, Traced::Missed { missed: 7 });
    // The answer breaks off without the last chunk.
    assert!(matches!(traced.next(), Some(Err(ControlError::Gone(_)))));
    assert!(traced.next().is_none());
    assert_eq!(
        served.join().unwrap(),
        ["POST /v1/workers/web/0/restart {\"parallel\":1}", "GET /v1/services/web/trace "]
    );
}

#[test]
fn an_answer_without_end_is_ended_by_another_thread_while_this_one_waits() {
    let directory = tempfile::tempdir().unwrap();
    let client = ControlClient::new(directory.path().join("control.sock"));
    let listener = UnixListener::bind(client.path()).unwrap();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(chunked(&["\n"]).as_bytes()).unwrap();
        let (mut heard, mut all) = ([0; 4096], 0);
        // Until the other end is gone.
        while let Ok(length @ 1..) = stream.read(&mut heard) {
            all += length;
        }
        all
    });
    let mut lines = client.trace("web").unwrap();
    let hang_up = lines.hang_up().unwrap();
    let ending = std::thread::spawn(move || drop(hang_up));
    assert!(matches!(lines.next(), Some(Err(ControlError::Gone(_)))));
    assert!(lines.next().is_none());
    assert!(matches!(lines.hang_up(), Err(ControlError::Gone(_))));
    ending.join().unwrap();
    assert!(answering.join().unwrap() > 0);
}

#[test]
fn without_a_daemon_it_says_so() {
    let error = ControlClient::new("/no/such/directory/control.sock").status().unwrap_err();
    assert!(matches!(error, ControlError::NoDaemon { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with("cannot reach /no/such/directory/control.sock: no daemon runs there"), "{text}");
}

#[test]
fn what_is_no_name_is_not_asked_for() {
    let client = ControlClient::new("/no/such/directory/control.sock");
    for wrong in ["", "a b", "a?x", "a/b", "a#", "a\r\nx", "%2e", "ü"] {
        assert!(matches!(client.status_of(wrong), Err(ControlError::NotAName(_))), "{wrong:?}");
    }
    for wrong in ["web", "web/", "/1", "web/1/2", "web/1?x"] {
        assert!(
            matches!(client.drain(wrong, &Drain::default()), Err(ControlError::NotAName(_))),
            "{wrong:?}"
        );
    }
}
