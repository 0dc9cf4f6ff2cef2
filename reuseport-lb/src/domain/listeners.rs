//! The listeners of a service, PURE: their order, which of them new workers get sockets of, and the health of workers
//! at each.

use std::collections::BTreeSet;
use std::time::Duration;

use super::apart::Apart;
use super::health::Health;
use super::listener::{Listener, Protocol};
use super::ports::{Cookie, ListenerId, WorkerId};
use crate::config::{ListenerConfig, ServiceConfig};

/// One listener.
pub struct ListenerState {
    /// Identifies the listener within its service.
    pub id: ListenerId,
    /// Address as the configuration says, perhaps with port 0.
    pub asked: Listener,
    /// Whether new workers get a socket of this listener.
    pub wanted: bool,
    /// What its sockets are called, if not by its address.
    pub name: Option<String>,
    /// Health of workers at this listener.
    pub health: Health<WorkerId>,
    /// Its buckets, if they are not those of the service (UDP only).
    pub apart: Option<Apart>,
    /// Decisions for each slot, as read when a queue was last not empty.
    pub selected: Box<[u64]>,
    /// Sockets of others that have left: they are open, and not adopted again.
    pub left: BTreeSet<Cookie>,
    /// Why a socket of others that was found there is not adopted.
    pub refused: Option<String>,
}

impl ListenerState {
    /// A listener whose workers are not known yet.
    #[must_use]
    pub fn new(id: ListenerId, asked: Listener, wanted: bool) -> Self {
        let (health, selected, left) = Default::default();
        Self { id, asked, wanted, name: None, health, apart: None, selected, left, refused: None }
    }

    /// Pause until the next look at its queues; `None`: no look is needed.
    #[must_use]
    pub fn pause(&self, policy: &ServiceConfig) -> Option<Duration> {
        if self.is_tcp() { self.health.pause(policy) } else { self.health.datagram_pause(policy) }
    }

    /// Whether this is a TCP listener.
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        self.asked.protocol == Protocol::Tcp
    }
}

/// All listeners: in the order of the configuration, and then those that are not wanted any more.
#[derive(Default)]
pub struct Listeners(Vec<ListenerState>);

impl Listeners {
    /// All listeners in their order.
    pub fn iter(&self) -> std::slice::Iter<'_, ListenerState> {
        self.0.iter()
    }

    /// All listeners in their order, to change them.
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, ListenerState> {
        self.0.iter_mut()
    }

    /// The listener with index `at`.
    #[must_use]
    pub fn at(&self, at: usize) -> Option<&ListenerState> {
        self.0.get(at)
    }

    /// The listener with index `at`, to change it.
    pub fn at_mut(&mut self, at: usize) -> Option<&mut ListenerState> {
        self.0.get_mut(at)
    }

    /// The listener with this id, which most often has index `at`: looks there first.
    #[must_use]
    pub fn near(&self, at: usize, id: ListenerId) -> Option<&ListenerState> {
        let is = |listener: &&ListenerState| listener.id == id;
        self.0.get(at).filter(is).or_else(|| self.0.iter().find(is))
    }

    /// Ids of all listeners.
    #[must_use]
    pub fn ids(&self) -> Vec<ListenerId> {
        self.0.iter().map(|listener| listener.id).collect()
    }

    /// Ids of the listeners that new workers get sockets of.
    #[must_use]
    pub fn wanted(&self) -> Vec<ListenerId> {
        self.0.iter().filter(|listener| listener.wanted).map(|listener| listener.id).collect()
    }

    /// Whether a socket of others has left.
    #[must_use]
    pub fn has_left(&self, id: ListenerId, socket: Cookie) -> bool {
        self.near(0, id).is_some_and(|listener| listener.left.contains(&socket))
    }

    /// Notes that a socket of others has left.
    pub fn note_left(&mut self, id: ListenerId, socket: Cookie) {
        self.0.iter_mut().filter(|it| it.id == id).for_each(|it| {
            it.left.insert(socket);
        });
    }

    /// Forgets sockets that have left and are not `open` any more; returns them.
    pub fn forget_left(&mut self, open: &BTreeSet<Cookie>) -> Vec<Cookie> {
        let gone = self.0.iter_mut().flat_map(|it| it.left.extract_if(.., |socket| !open.contains(socket)));
        gone.collect()
    }

    /// Notes why a socket of others is not adopted, or that one was; returns whether that was not noted before.
    pub fn note_refused(&mut self, id: ListenerId, why: Option<String>) -> bool {
        let Some(listener) = self.0.iter_mut().find(|it| it.id == id) else { return false };
        let same = listener.refused == why;
        listener.refused = why;
        !same
    }

    /// Adds a listener at the end.
    pub fn push(&mut self, listener: ListenerState) {
        self.0.push(listener);
    }

    /// Gives those listeners their names that `listen` has, and returns whether each is to be bound freely.
    pub fn describe(&mut self, listen: &[ListenerConfig]) -> Vec<(ListenerId, bool)> {
        let mut known: Vec<&mut ListenerState> = self.0.iter_mut().collect();
        let mut freebind = Vec::new();
        for configured in listen {
            // Listeners with port 0 may be written alike.
            let Some(at) = known.iter().position(|it| it.asked == configured.listener) else { continue };
            let found = known.remove(at);
            found.name.clone_from(&configured.name);
            freebind.push((found.id, configured.freebind));
        }
        freebind
    }

    /// Marks the listeners of `listen` as wanted, all others as not, and puts the wanted ones to the front, in order.
    pub fn want(&mut self, listen: &[ListenerConfig]) {
        let mut left = std::mem::take(&mut self.0);
        for ListenerConfig { listener, .. } in listen {
            if let Some(at) = left.iter().position(|known| known.asked == *listener) {
                let mut found = left.remove(at);
                found.wanted = true;
                self.0.push(found);
            }
        }
        left.iter_mut().for_each(|listener| listener.wanted = false);
        self.0.append(&mut left);
    }

    /// Takes out the listeners that are not wanted and not `used` by a worker; returns their ids.
    pub fn prune(&mut self, used: impl Fn(ListenerId) -> bool) -> Vec<ListenerId> {
        let gone: Vec<ListenerId> =
            self.0.iter().filter(|it| !it.wanted && !used(it.id)).map(|it| it.id).collect();
        self.0.retain(|it| !gone.contains(&it.id));
        gone
    }
}
