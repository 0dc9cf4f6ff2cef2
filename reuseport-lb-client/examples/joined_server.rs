//! A server that joins a running daemon by itself, with nothing in front of it: answers each TCP
//! connection with its worker's name, and leaves in order on SIGTERM.
//!
//! ```text
//! reuseport-lb run --config web.toml
//! cargo run -p reuseport-lb-client --example joined_server -- web
//! ```

use std::error::Error;
use std::time::Duration;

use reuseport_lb_client::worker::{JoinOptions, JoinedWorker};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

/// How long a leaving worker accepts queued connections.
const LAST_CALL: Duration = Duration::from_secs(1);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut options =
        JoinOptions::new(&arguments.next().ok_or("usage: joined_server SERVICE [RUNTIME_DIR]")?);
    if let Some(directory) = arguments.next() {
        options.runtime_dir = directory.into();
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut worker = JoinedWorker::join(&options)?;
    let listeners = worker.take_tcp();
    let name: &'static str = worker.name().to_owned().leak();
    let mut accepting = JoinSet::new();
    for (_, listener) in listeners {
        listener.set_nonblocking(true)?;
        accepting.spawn(accept(TcpListener::from_std(listener)?, name));
    }
    worker.ready()?;
    println!("{name} serves");

    // Without a watchdog the daemon ignores pings.
    let every = worker.watchdog_interval().unwrap_or(Duration::from_secs(60));
    let mut pulse = tokio::time::interval(every / 2);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            // If a ping is not sent, the next one may be.
            _ = pulse.tick() => drop(worker.watchdog()),
        }
    }
    worker.leave()?;
    let all = async { while accepting.join_next().await.is_some() {} };
    // Connections that come later are handed to other workers by the daemon.
    let _ = tokio::time::timeout(LAST_CALL, all).await;
    println!("{name} leaves");
    Ok(())
}

/// Serves until the listener is shut down.
async fn accept(listener: TcpListener, name: &'static str) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(answer(stream, name))),
            // EINVAL: the daemon has shut it down, since this worker has left.
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => return,
            // The client has closed the connection, or no descriptor is free.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn answer(mut stream: TcpStream, name: &str) -> std::io::Result<()> {
    stream.write_all(format!("worker={name}\n").as_bytes()).await
}
