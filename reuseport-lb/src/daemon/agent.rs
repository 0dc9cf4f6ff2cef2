//! Where the daemon answers agent checks: opened before a configuration is applied. Not: what is answered (`api/agent.rs`).

use std::cell::RefCell;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tracing::info;

use crate::api::agent;
use crate::handle::Handle;

/// The address that is served now, if any.
pub(super) struct AgentServer {
    handle: Handle,
    now: RefCell<Option<Serving>>,
}

struct Serving {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A change of the address, of which everything that can fail is done.
pub(super) enum Change {
    /// It stays.
    None,
    /// To no address.
    Close,
    /// To this one.
    Open(SocketAddr, TcpListener),
}

impl AgentServer {
    pub(super) fn new(handle: Handle) -> Self {
        Self { handle, now: RefCell::default() }
    }

    /// Opens `wanted`, unless it is served already.
    pub(super) fn prepare(&self, wanted: Option<SocketAddr>) -> Result<Change> {
        open(wanted, self.now.borrow().as_ref().map(|now| now.address))
    }

    /// Answers at another address from now on.
    pub(super) fn apply(&self, change: Change) {
        match change {
            Change::None => {}
            Change::Close => drop(self.now.take()),
            Change::Open(address, listener) => {
                info!("answers agent checks at {address}");
                let task = tokio::task::spawn_local(agent::serve(listener, self.handle.clone()));
                self.now.replace(Some(Serving { address, task }));
            }
        }
    }
}

/// Opens `wanted`, unless it is the address `now`.
pub(super) fn open(wanted: Option<SocketAddr>, now: Option<SocketAddr>) -> Result<Change> {
    let Some(address) = wanted else { return Ok(Change::Close) };
    if now == Some(address) {
        return Ok(Change::None);
    }
    let listen = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    let listener = listen().with_context(|| format!("cannot answer agent checks at {address}"))?;
    Ok(Change::Open(address, listener))
}
