//! Tests of the control socket without services: errors, and evictions.

use tokio::sync::mpsc;

use super::*;
use crate::handle::Services;
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream};

/// Serves a daemon without services at an abstract address, while `clients` run in a thread.
fn with_server(name: &str, clients: impl FnOnce(&dyn Fn() -> StdStream) + Send + 'static) {
    let name = format!("reuseport-lb-{name}-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let listener = StdListener::bind_addr(&address).unwrap();
    listener.set_nonblocking(true).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let listener = UnixListener::from_std(listener).unwrap();
        let handle = Handle::new(Services::default(), mpsc::unbounded_channel().0, Rc::default());
        tokio::task::spawn_local(serve(listener, handle, Monitors::default()));
        tokio::task::spawn_blocking(move || clients(&|| StdStream::connect_addr(&address).unwrap()))
            .await
            .unwrap();
    });
}

fn ask(mut stream: StdStream, request: &str) -> String {
    write!(stream, "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_wrong_method_is_told_the_right_one() {
    with_server("method", |connect| {
        for (request, allowed) in
            [("GET /v1/stop", "POST"), ("DELETE /v1/status", "GET"), ("POST /v1/services/x/trace", "GET")]
        {
            let answer = ask(connect(), request);
            let allow = format!("\r\nallow: {allowed}\r\n");
            assert!(answer.starts_with("HTTP/1.1 405") && answer.contains(&allow), "{answer}");
        }
    });
}

#[test]
fn nothing_is_not_everything() {
    with_server("nothing", |connect| {
        assert!(ask(connect(), "GET /v1/status").starts_with("HTTP/1.1 200"));
        for path in ["/v1/status/", "/v1/status/x", "/v1/", "/"] {
            assert!(ask(connect(), &format!("GET {path}")).starts_with("HTTP/1.1 404"), "{path}");
        }
    });
}

#[test]
fn silent_connections_keep_nobody_out() {
    with_server("silent", |connect| {
        let mut silent: Vec<StdStream> = (0..connection_limit::MOST + 50).map(|_| connect()).collect();
        for stream in silent.iter_mut().rev().take(10) {
            stream.write_all(b"GET /v1/status HT").unwrap();
        }
        assert!(ask(connect(), "GET /v1/status").starts_with("HTTP/1.1 200"));
        let mut answer = String::new();
        silent[0].read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("had to go"), "{answer}");
    });
}
