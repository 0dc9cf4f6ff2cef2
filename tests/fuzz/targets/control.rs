//! Bytes → control socket: nothing stops the daemon, whatever comes is answered or hung up on at once,
//! and the first answer is HTTP with a status that is documented.
#![no_main]

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream};
use std::rc::Rc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use reuseport_lb::api::control;
use reuseport_lb::handle::{Handle, Order, Services};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

/// Far longer than any answer takes, and shorter than the patience of the daemon.
const LIMIT: Duration = Duration::from_secs(3);

/// docs/CONTROL.md, and what hyper says to what is no HTTP.
const STATUS: [&str; 11] = ["100", "200", "400", "403", "404", "405", "414", "422", "431", "500", "503"];

struct Daemon {
    runtime: Runtime,
    local: LocalSet,
    address: SocketAddr,
}

impl Daemon {
    fn new() -> Self {
        let name = format!("reuseport-lb-fuzz-control-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).expect("an address");
        let listener = StdListener::bind_addr(&address).expect("a listener");
        listener.set_nonblocking(true).expect("a listener that does not block");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let local = LocalSet::new();
        local.block_on(&runtime, async {
            let (orders, mut ordered) = mpsc::unbounded_channel();
            let listener = UnixListener::from_std(listener).expect("a listener of the runtime");
            let handle = Handle::new(Services::default(), orders, Rc::default());
            tokio::task::spawn_local(control::serve(listener, handle, control::Monitors::default()));
            tokio::task::spawn_local(async move {
                while let Some(order) = ordered.recv().await {
                    if let Order::Reload(answer, _) | Order::DryRun(answer) = order {
                        let _ = answer.send(Err("nothing to reload".to_owned().into()));
                    }
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
                let (mut reader, mut to) = stream.split();
                let write = async {
                    // It may hang up in the middle.
                    let _ = to.write_all_buf(&mut writer).await;
                    let _ = to.shutdown().await;
                };
                let read = async {
                    let _ = reader.read_to_end(&mut answer).await;
                };
                tokio::join!(write, read);
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
    if answer.is_empty() {
        return;
    }
    let text = String::from_utf8_lossy(&answer);
    let status = text.strip_prefix("HTTP/1.1 ").or_else(|| text.strip_prefix("HTTP/1.0 "));
    let status = status.unwrap_or_else(|| panic!("no HTTP: {text}"));
    assert!(STATUS.iter().any(|known| status.starts_with(known)), "{text}");
});
