//! Which slots of a group's socket array have a socket: the kernel is asked, because it empties slots by itself.

use anyhow::{Context, Result};
use aya::maps::MapError;
use socket2::{Domain, Socket, Type};

use super::{PinnedGroup, errno};

/// Fails if the slot has a socket (`BPF_NOEXIST`, linux/bpf.h).
const IF_EMPTY: u64 = 1;

impl PinnedGroup {
    /// Those of `slots` that have a socket. Changes nothing: what is offered to each slot is a socket that no array takes,
    /// which the kernel finds out after it has looked whether the slot is empty (KERNEL.md 81).
    pub fn occupied(&mut self, slots: impl IntoIterator<Item = u16>) -> Result<Vec<u16>> {
        let unbound = Socket::new(Domain::IPV4, Type::DGRAM, None).context("cannot make a socket")?;
        let mut occupied = Vec::new();
        for slot in slots {
            match self.sockets.set(slot.into(), &unbound, IF_EMPTY) {
                Err(error) if errno(&error) == Some(libc::EEXIST) => occupied.push(slot),
                Err(error) if errno(&error) == Some(libc::EINVAL) => {}
                Err(error) => return Err(asked(error, slot)),
                // A kernel that takes it is not known; the slot was empty then, and is again.
                Ok(()) => self.remove(slot)?,
            }
        }
        Ok(occupied)
    }
}

fn asked(error: MapError, slot: u16) -> anyhow::Error {
    anyhow::Error::from(error).context(format!("cannot ask whether slot {slot} of the socket array is empty"))
}
