//! The listeners of a service, PURE: their order, which of them new workers get sockets of, and how workers do at each.

use super::health::Health;
use super::listener::{Listener, Protocol};
use super::ports::{ListenerId, WorkerId};

/// One listener.
pub struct ListenerState {
    /// Which.
    pub id: ListenerId,
    /// As the configuration says, perhaps with port 0.
    pub asked: Listener,
    /// Whether workers that are started from now on get a socket of it.
    pub wanted: bool,
    /// Of TCP workers here.
    pub health: Health<WorkerId>,
    /// Decisions for each slot when something last waited.
    pub selected: Box<[u64]>,
}

impl ListenerState {
    /// Nobody is known there.
    #[must_use]
    pub fn new(id: ListenerId, asked: Listener, wanted: bool) -> Self {
        Self { id, asked, wanted, health: Health::default(), selected: Box::default() }
    }

    /// Whether connections are to be accepted here.
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        self.asked.protocol == Protocol::Tcp
    }
}

/// All of them: in the order of the configuration, and then those that are not wanted any more.
#[derive(Default)]
pub struct Listeners(Vec<ListenerState>);

impl Listeners {
    /// All.
    pub fn iter(&self) -> std::slice::Iter<'_, ListenerState> {
        self.0.iter()
    }

    /// All, to change.
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, ListenerState> {
        self.0.iter_mut()
    }

    /// The one with this index.
    #[must_use]
    pub fn at(&self, at: usize) -> Option<&ListenerState> {
        self.0.get(at)
    }

    /// The one with this index, to change.
    pub fn at_mut(&mut self, at: usize) -> Option<&mut ListenerState> {
        self.0.get_mut(at)
    }

    /// One of them; most often it is the one with index `at`.
    #[must_use]
    pub fn near(&self, at: usize, id: ListenerId) -> Option<&ListenerState> {
        let is = |listener: &&ListenerState| listener.id == id;
        self.0.get(at).filter(is).or_else(|| self.0.iter().find(is))
    }

    /// The ids of all.
    #[must_use]
    pub fn ids(&self) -> Vec<ListenerId> {
        self.0.iter().map(|listener| listener.id).collect()
    }

    /// The ids of those that new workers get sockets of.
    #[must_use]
    pub fn wanted(&self) -> Vec<ListenerId> {
        self.0.iter().filter(|listener| listener.wanted).map(|listener| listener.id).collect()
    }

    /// The ids of those whose flows are more than one decision.
    #[must_use]
    pub fn tracked(&self) -> Vec<ListenerId> {
        self.0.iter().filter(|listener| !listener.is_tcp()).map(|listener| listener.id).collect()
    }

    /// Whether there is any such.
    #[must_use]
    pub fn has_tracked(&self) -> bool {
        self.0.iter().any(|listener| !listener.is_tcp())
    }

    /// Another one.
    pub fn push(&mut self, listener: ListenerState) {
        self.0.push(listener);
    }

    /// Marks which of them workers get sockets of from now on, and puts them in that order.
    pub fn want(&mut self, listen: &[Listener]) {
        let mut left = std::mem::take(&mut self.0);
        for listener in listen {
            if let Some(at) = left.iter().position(|known| known.asked == *listener) {
                let mut found = left.remove(at);
                found.wanted = true;
                self.0.push(found);
            }
        }
        left.iter_mut().for_each(|listener| listener.wanted = false);
        self.0.append(&mut left);
    }

    /// Takes those out that are not wanted and of which nobody has a socket.
    pub fn prune(&mut self, used: impl Fn(ListenerId) -> bool) -> Vec<ListenerId> {
        let gone: Vec<ListenerId> =
            self.0.iter().filter(|it| !it.wanted && !used(it.id)).map(|it| it.id).collect();
        self.0.retain(|it| !gone.contains(&it.id));
        gone
    }
}
