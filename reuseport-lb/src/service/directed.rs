//! Connections of the daemon's own, each to one worker whatever the table says, through the listener that everyone uses.
//! Not: what is said on them.
//!
//! The program knows them by their port of the loopback address, which the daemon has bound, so that nobody else in this
//! network namespace has it; and what comes from elsewhere with that address the kernel drops (KERNEL.md 95). It looks for them in marked buckets only. Which one
//! a port comes to is not known before it has come: until then all are marked. After that it is, as long as the machine
//! runs, where keys are made of addresses; so ports are used again.

use std::io;

use reuseport_lb_client::api::Refusal;
use socket2::Socket;

use super::Service;
use super::direction::{Directed, DirectedAt};
use super::groups::ListenerGroup;
use crate::config::Affinity;
use crate::domain::listener::{Listener, Protocol};
use crate::domain::number::Number;
use crate::domain::pool::Worker;
use crate::domain::ports::ListenerId;
use crate::kernel::loopback;

/// How many ports whose buckets are known are kept for the next connections.
const KNOWN: usize = 16;

/// How many free ports are looked at for one that has room in the group.
const TRIES: usize = 64;

impl Service {
    /// Begins a connection to the worker with this number, at `listen` or at its first listener.
    pub(super) fn direct(&mut self, number: Number, listen: Option<Listener>) -> Result<Directed, Refusal> {
        let worker = self.engine.pool().require(number).map_err(Refusal::from)?;
        let (name, slot, holds) = (worker.name.clone(), worker.slot, worker.holds_slot());
        let (id, listener) = self.reached(worker, listen)?;
        if !holds {
            return Err(Refusal::Impossible(format!("{name} has left the table, and gets nothing new")));
        }
        let failed =
            |error: io::Error| Refusal::Failed(format!("cannot connect to {name} at {listener}: {error}"));
        let Some(group) = self.engine.ports().0.group_mut(id) else { return Err(Refusal::ending()) };
        let Some((socket, port)) = begin(group, &listener, slot).map_err(failed)? else {
            return Err(Refusal::Unavailable(format!(
                "too many connections of the daemon's own are under way at {listener}: try again"
            )));
        };
        let at = DirectedAt { id, port };
        if let Err(error) = loopback::connect(&socket, &listener) {
            self.undirect(at);
            return Err(failed(error));
        }
        // On the loopback device it has come by now, unless the CPU has too much to do.
        self.has_met(at);
        Ok(Directed { socket, worker: name, listener, at })
    }

    /// Whether the program has sent a connection to its worker; `None` if it has not, or the service's groups were made
    /// anew meanwhile. `Some(false)`: the next packet may come to any bucket, so all of them are marked still.
    pub(super) fn has_met(&mut self, at: DirectedAt) -> Option<bool> {
        let same = matches!(self.config().affinity, Affinity::Flow | Affinity::Source);
        let group = self.engine.ports().0.group_mut(at.id)?;
        let ListenerGroup { buckets, group, ports, .. } = group;
        let bucket = buckets.directed(group.memory(), at.port, same)?;
        if let Some(bucket) = bucket
            && ports.len() < KNOWN
            && !ports.contains(&(at.port, bucket))
        {
            ports.push((at.port, bucket));
        }
        Some(bucket.is_some())
    }

    /// What comes from the port goes where the table says from now on.
    pub(super) fn undirect(&mut self, at: DirectedAt) {
        if let Some(ListenerGroup { buckets, group, .. }) = self.engine.ports().0.group_mut(at.id) {
            buckets.undirect(group.memory(), at.port);
        }
    }

    /// The listener of a worker that is meant: this one, as the configuration says or with the port that the kernel chose,
    /// or the first one, of TCP if there is one.
    fn reached(&self, worker: &Worker, listen: Option<Listener>) -> Result<(ListenerId, Listener), Refusal> {
        let group = |id| self.engine.dataplane().get(id).map(|it| (id, *it.group.listener(), it.asked));
        let mut all: Vec<_> = worker.sockets.iter().filter_map(|socket| group(socket.listener)).collect();
        all.sort_by_key(|(id, bound, _)| (bound.protocol == Protocol::Udp, id.0));
        let is_meant = |(_, bound, asked): &&(ListenerId, Listener, Listener)| {
            listen.is_none_or(|listen| listen == *bound || listen == *asked)
        };
        if let Some((id, bound, _)) = all.iter().find(is_meant) {
            return Ok((*id, *bound));
        }
        let has: Vec<String> = all.iter().map(|(_, bound, _)| bound.to_string()).collect();
        Err(Refusal::Impossible(match listen {
            _ if has.is_empty() => format!("{} has no socket yet", worker.name),
            Some(listen) => format!("{} has no socket at {listen}; it has {}", worker.name, has.join(", ")),
            None => format!("{} has no socket", worker.name),
        }))
    }
}

/// A bound socket, and its port, from which everything goes to `slot`; `None` if there is no room for more.
fn begin(group: &mut ListenerGroup, listener: &Listener, slot: u16) -> io::Result<Option<(Socket, u16)>> {
    let ListenerGroup { buckets, group, ports, .. } = group;
    for (port, bucket) in ports.iter().copied() {
        // One whose last connection the kernel still remembers is not free.
        if let Ok((socket, port)) = loopback::bound(listener, port)
            && buckets.direct(group.memory(), port, slot, Some(bucket))
        {
            return Ok(Some((socket, port)));
        }
    }
    let mut others = Vec::new();
    while others.len() < TRIES {
        let (socket, port) = loopback::bound(listener, 0)?;
        if buckets.direct(group.memory(), port, slot, None) {
            return Ok(Some((socket, port)));
        }
        // Kept until then, so that the kernel chooses another one.
        others.push(socket);
    }
    Ok(None)
}
