//! An address that is served: the next one is opened before a configuration is applied, so that one that cannot be opened
//! changes nothing. Not: what is opened, nor what is answered there.

use std::cell::RefCell;

use anyhow::Result;
use tokio::task::JoinHandle;

/// The address that is served now, if any, with what is kept as long as it is.
pub(super) struct Served<A, K> {
    now: RefCell<Option<Serving<A, K>>>,
}

struct Serving<A, K> {
    address: A,
    task: JoinHandle<()>,
    _kept: K,
}

impl<A, K> Drop for Serving<A, K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A change of the address, of which everything that can fail is done.
pub(super) enum Change<A, L> {
    /// It stays.
    None,
    /// To no address.
    Close,
    /// To this one, where this listens.
    Open(A, L),
}

impl<A: PartialEq, L> Change<A, L> {
    /// Opens `wanted`, unless it is the address `now`, which `open` is told as well.
    pub(super) fn prepare(
        wanted: Option<A>,
        now: Option<&A>,
        open: impl FnOnce(&A, Option<&A>) -> Result<L>,
    ) -> Result<Self> {
        match wanted {
            None => Ok(Self::Close),
            Some(address) if now == Some(&address) => Ok(Self::None),
            Some(address) => open(&address, now).map(|listening| Self::Open(address, listening)),
        }
    }
}

impl<A, K> Default for Served<A, K> {
    fn default() -> Self {
        Self { now: RefCell::default() }
    }
}

impl<A: PartialEq, K> Served<A, K> {
    /// Opens `wanted`, unless it is served already.
    pub(super) fn prepare<L>(
        &self,
        wanted: Option<A>,
        open: impl FnOnce(&A, Option<&A>) -> Result<L>,
    ) -> Result<Change<A, L>> {
        Change::prepare(wanted, self.now.borrow().as_ref().map(|now| &now.address), open)
    }

    /// Serves another address from now on.
    pub(super) fn apply<L>(&self, change: Change<A, L>, serve: impl FnOnce(&A, L) -> (JoinHandle<()>, K)) {
        match change {
            Change::None => {}
            Change::Close => drop(self.now.take()),
            Change::Open(address, listening) => {
                let (task, kept) = serve(&address, listening);
                self.now.replace(Some(Serving { address, task, _kept: kept }));
            }
        }
    }
}
