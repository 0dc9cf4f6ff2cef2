//! Tests of both sides of the join socket, without a daemon: requests, answers and refusals.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream};

use socket2::Socket;

use super::*;
use reuseport_lb_client::api::RefusalBody;
use reuseport_lb_client::worker::{JoinError, JoinOptions, JoinedWorker};

#[test]
fn requests_are_read_as_documented() {
    let ask = |service: &str, worker: Option<&str>, weight| Ask {
        service: service.into(),
        worker: worker.map(Into::into),
        weight,
        calls: None,
    };
    for (line, right, number) in [
        (r#"{"service":"web"}"#, ask("web", None, 1), None),
        (r#"{"service":"web","worker":null,"weight":0}"#, ask("web", None, 0), None),
        (
            r#"{"service":"web","worker":"web/7","weight":1000000}"#,
            ask("web", Some("web/7"), 1_000_000),
            Some(7),
        ),
        (r#" {"worker":"web/0", "service":"web"} "#, ask("web", Some("web/0"), 1), Some(0)),
    ] {
        assert_eq!(parse(line.as_bytes()).unwrap(), (right, number), "{line}");
    }
    for (line, says) in [
        ("", "docs/JOIN.md"),
        ("\0\u{ff}", "docs/JOIN.md"),
        ("{}", "missing field `service`"),
        (r#"{"service":7}"#, "invalid type"),
        (r#"["web",null,1]"#, "a list"),
        (r#"{"service":"web","pid":1}"#, "unknown field `pid`"),
        (r#"{"service":"web"} x"#, "trailing characters"),
        (r#"{"service":"web","weight":1000001}"#, "the most is 1000000"),
        (r#"{"service":"web","weight":-1}"#, "invalid value"),
        (r#"{"service":"web","worker":"web"}"#, "write it like web/7"),
        (r#"{"service":"web","worker":"api/1"}"#, "write it like web/7"),
        (r#"{"service":"web","worker":"web/+1"}"#, "write it like web/7"),
        (r#"{"service":"web","worker":"web/01"}"#, "write it like web/7"),
        (r#"{"service":"web","worker":"web/99999999999999999999"}"#, "write it like web/7"),
    ] {
        let error = parse(line.as_bytes()).unwrap_err();
        assert!(error.contains(says), "{line}: {error}");
    }
    assert!(parse(b"{\"service\":\"\xff\"}").is_err());
}

/// Serves at an abstract address and hands requests to `decide`, while `clients` run in a thread.
fn with_server<T: Send + 'static>(
    name: &str,
    mut decide: impl FnMut(Request) + 'static,
    clients: impl FnOnce(&dyn Fn() -> StdStream) -> T + Send + 'static,
) -> T {
    let name = format!("reuseport-lb-join-{name}-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let listener = StdListener::bind_addr(&address).unwrap();
    listener.set_nonblocking(true).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (send, mut receive) = mpsc::unbounded_channel();
        tokio::task::spawn_local(serve(UnixListener::from_std(listener).unwrap(), send));
        tokio::task::spawn_local(async move {
            while let Some(request) = receive.recv().await {
                decide(request);
            }
        });
        let connect = move || StdStream::connect_addr(&address).unwrap();
        tokio::task::spawn_blocking(move || clients(&connect)).await.unwrap()
    })
}

fn place(sockets: Vec<Socket>) -> Ticket {
    let names = (0..sockets.len()).map(|number| format!("tcp-127.0.0.1-{number}")).collect();
    let watchdog = Some(Duration::from_millis(1500));
    Ticket {
        worker: "web/7".into(),
        notify: "/run/x/notify/12".into(),
        names,
        sockets,
        watchdog,
        env: Default::default(),
    }
}

fn refuse(request: Request) {
    request.answer.send(Err(format!("there is no service {:?}", request.service))).unwrap();
}

#[track_caller]
fn refused(mut stream: StdStream, request: &[u8], says: &str) {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // The daemon may close the connection before it has read all.
    let _ = stream.write_all(request);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    let error = serde_json::from_str::<RefusalBody>(&answer).expect(&answer).error;
    assert!(error.contains(says) && answer.ends_with("}\n"), "{says:?} is not in: {error}");
}

#[test]
fn a_worker_gets_what_the_daemon_gives() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut sockets = Some(vec![Socket::from(listener), Socket::from(udp)]);
    let (tell, told) = std::sync::mpsc::channel();
    let decide = move |request: Request| {
        assert_eq!((request.service.as_str(), request.number, request.weight), ("web", Some(7), 3));
        assert_eq!(request.peer.pid, std::process::id() as i32);
        request.answer.send(Ok(place(sockets.take().unwrap()))).unwrap();
        let tell = tell.clone();
        tokio::task::spawn_local(async move { tell.send(request.delivered.await.is_ok()) });
    };
    let mut worker = with_server("gets", decide, move |connect| {
        let options = JoinOptions { worker: Some("web/7".into()), weight: 3, ..JoinOptions::new("web") };
        let worker = JoinedWorker::join_over(&connect(), &options).unwrap();
        // The receiver learns that the answer was delivered.
        assert!(told.recv_timeout(Duration::from_secs(10)).unwrap());
        worker
    });
    assert_eq!((worker.name(), worker.notify()), ("web/7", Path::new("/run/x/notify/12")));
    assert_eq!(worker.watchdog_interval(), Some(Duration::from_millis(1500)));
    let names: Vec<&str> = worker.listeners().map(|(name, _)| name).collect();
    assert_eq!(names, ["tcp-127.0.0.1-0", "tcp-127.0.0.1-1"]);
    let (_, listener) = worker.take_tcp().remove(0);
    // The listener is in blocking mode, although it was not before.
    let client = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        TcpStream::connect(address).unwrap()
    });
    listener.accept().unwrap();
    client.join().unwrap();
    assert_eq!(worker.take_udp().len(), 1);
}

#[test]
fn what_is_refused_is_told() {
    with_server("refused", refuse, |connect| {
        let error = JoinedWorker::join_over(&connect(), &JoinOptions::new("api")).unwrap_err();
        assert!(matches!(&error, JoinError::Refused(text) if text.contains("no service \"api\"")), "{error}");
        refused(connect(), b"{\"service\":\"web\"}", "no newline");
        refused(connect(), b"\n", "docs/JOIN.md");
        refused(connect(), b"{\"service\":\"web\",\"calls\":0}\n", "is not one by which calls are answered");
        refused(connect(), b"{\"service\":\"web\",\"calls\":-1}\n", "cannot take its descriptor -1");
        refused(connect(), b"{\"service\":\"web\"}\n{\"service\":\"web\"}\n", "one request");
        refused(connect(), &[b' '; 10 * LONGEST_REQUEST], "longer than 4096");
        let mut longest = vec![b' '; LONGEST_REQUEST];
        longest[..17].copy_from_slice(b"{\"service\":\"web\"}");
        longest[LONGEST_REQUEST - 1] = b'\n';
        refused(connect(), &longest, "no service \"web\"");
        let options = JoinOptions::new(&"x".repeat(LONGEST_REQUEST));
        assert!(JoinedWorker::join_over(&connect(), &options).unwrap_err().to_string().contains("too long"));
    });
}

#[test]
fn a_receiver_without_an_answer_is_an_ending_daemon() {
    with_server("ending", drop, |connect| refused(connect(), b"{\"service\":\"web\"}\n", "is ending"));
}

#[test]
fn a_client_that_is_gone_leaves_an_undelivered_place() {
    let (tell, told) = std::sync::mpsc::channel();
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let decide = move |request: Request| {
        // The client closes the connection first.
        gone.recv().unwrap();
        request.answer.send(Ok(place(Vec::new()))).unwrap();
        let tell = tell.clone();
        tokio::task::spawn_local(async move { tell.send(request.delivered.await.is_ok()) });
    };
    with_server("gone", decide, move |connect| {
        let mut stream = connect();
        stream.write_all(b"{\"service\":\"web\"}\n").unwrap();
        drop(stream);
        go.send(()).unwrap();
        assert!(!told.recv_timeout(Duration::from_secs(10)).unwrap());
    });
}

#[test]
fn silent_connections_keep_nobody_out() {
    with_server("silent", refuse, |connect| {
        let mut silent: Vec<StdStream> = (0..connection_limit::MOST + 50).map(|_| connect()).collect();
        for stream in silent.iter_mut().rev().take(10) {
            stream.write_all(b"{\"service").unwrap();
        }
        refused(connect(), b"{\"service\":\"web\"}\n", "no service");
        refused(silent.remove(0), b"", "had to go");
        // The newest connection may still send its request.
        let mut newest = silent.pop().unwrap();
        newest.write_all(b"\":\"web\"}").unwrap();
        refused(newest, b"\n", "no service");
    });
}
