//! Bytes → join socket: a request that is taken is one that a service can be asked, and everything is
//! answered with one line of JSON, or hung up on at once.
#![no_main]

use std::net::UdpSocket;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use reuseport_lb::api::join;
use reuseport_lb::config::MAX_WEIGHT;
use reuseport_lb::service::joining::{Request, Ticket};
use reuseport_lb_client::join::LONGEST_REQUEST;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

/// Far longer than any answer takes, and shorter than the patience of the daemon.
const LIMIT: Duration = Duration::from_secs(3);

struct Daemon {
    runtime: Runtime,
    local: LocalSet,
    address: SocketAddr,
}

impl Daemon {
    fn new() -> Self {
        let name = format!("reuseport-lb-fuzz-join-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).expect("an address");
        let listener = StdListener::bind_addr(&address).expect("a listener");
        listener.set_nonblocking(true).expect("a listener that does not block");
        let given = UdpSocket::bind("127.0.0.1:0").expect("a socket to give away");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let local = LocalSet::new();
        local.block_on(&runtime, async {
            let (requests, mut requested) = mpsc::unbounded_channel::<Request>();
            let listener = UnixListener::from_std(listener).expect("a listener of the runtime");
            tokio::task::spawn_local(join::serve(listener, requests));
            tokio::task::spawn_local(async move {
                while let Some(Request { service, number, weight, answer, .. }) = requested.recv().await {
                    assert!(weight <= MAX_WEIGHT);
                    let place = match number {
                        None => Err(format!("there is no service {service:?}")),
                        Some(number) => Ok(Ticket {
                            worker: format!("{service}/{number}"),
                            notify: "/notify".into(),
                            names: vec![service],
                            sockets: vec![given.try_clone().expect("another descriptor").into()],
                            watchdog: Some(Duration::MAX),
                            env: Default::default(),
                        }),
                    };
                    let _ = answer.send(place);
                }
            });
        });
        Self { runtime, local, address }
    }

    fn talk(&self, bytes: &[u8]) -> Vec<u8> {
        let stream = StdStream::connect_addr(&self.address).expect("the daemon listens");
        stream.set_nonblocking(true).expect("a stream that does not block");
        self.local.block_on(&self.runtime, async {
            let mut stream = UnixStream::from_std(stream).expect("a stream of the runtime");
            let (mut answer, mut writer) = (Vec::new(), bytes);
            let talk = async {
                // It may hang up in the middle.
                let _ = stream.write_all_buf(&mut writer).await;
                let _ = stream.shutdown().await;
                let _ = stream.read_to_end(&mut answer).await;
            };
            tokio::time::timeout(LIMIT, talk).await.expect("it is answered or hung up on");
            answer
        })
    }
}

thread_local! {
    static DAEMON: Daemon = Daemon::new();
}

fuzz_target!(|bytes: &[u8]| {
    let answer = DAEMON.with(|daemon| daemon.talk(bytes));
    let Some((end, line)) = answer.split_last() else {
        // Only who says nothing, or goes on talking, may hear nothing.
        assert!(bytes.is_empty() || bytes.len() >= LONGEST_REQUEST, "no answer");
        return;
    };
    assert!(*end == b'\n' && !line.contains(&b'\n'), "not one line: {:?}", String::from_utf8_lossy(&answer));
    let answer: Value = serde_json::from_slice(line).expect("the answer is JSON");
    assert!(answer["error"].is_string() || answer["worker"].is_string(), "{answer}");
});
