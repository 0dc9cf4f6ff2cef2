//! Where the daemon answers agent checks. Not: what is answered (`api/agent.rs`).

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tracing::info;

use super::served;
use crate::api::agent;
use crate::handle::Handle;

pub(super) type Served = served::Served<SocketAddr, ()>;
pub(super) type Change = served::Change<SocketAddr, TcpListener>;

/// Listens there.
pub(super) fn open(address: &SocketAddr, _: Option<&SocketAddr>) -> Result<TcpListener> {
    let listen = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    listen().with_context(|| format!("cannot answer agent checks at {address}"))
}

/// Answers there.
pub(super) fn serve(address: &SocketAddr, listener: TcpListener, handle: Handle) -> (JoinHandle<()>, ()) {
    info!("answers agent checks at {address}");
    (tokio::task::spawn_local(agent::serve(listener, handle)), ())
}
