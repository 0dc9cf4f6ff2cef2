//! Caps idle connections per socket at [`MOST`]; a new one evicts the oldest. Not: their protocols.
//!
//! So connections that send nothing, or half of a request, cannot keep others out: a connection that sends its request
//! at once is not the oldest.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Notify;

/// Most idle connections of one socket.
pub const MOST: usize = 256;

/// The text of the error that an evicted connection gets.
#[must_use]
pub fn why_evicted() -> String {
    format!("{MOST} newer connections wait as well, so this one had to go: send the request at once")
}

/// The connections of one socket.
#[derive(Clone)]
pub struct Limiter(Rc<Inner>);

struct Inner {
    most: usize,
    next: Cell<u64>,
    /// Idle connections in the order in which they became idle.
    idle: RefCell<BTreeMap<u64, Rc<Eviction>>>,
}

#[derive(Default)]
struct Eviction {
    evicted: Cell<bool>,
    told: Notify,
}

/// The place of one connection; on drop there is room for another.
pub struct Permit {
    limiter: Limiter,
    /// Key of the connection in `idle`.
    idle_since: Cell<Option<u64>>,
    eviction: Rc<Eviction>,
}

impl Limiter {
    /// Allows `most` idle connections.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self(Rc::new(Inner { most, next: Cell::new(0), idle: RefCell::default() }))
    }

    /// Admits a connection, which is idle until it has sent its request.
    #[must_use]
    pub fn admit(&self) -> Permit {
        let permit = Permit { limiter: self.clone(), idle_since: Cell::new(None), eviction: Rc::default() };
        permit.idle();
        permit
    }
}

impl Permit {
    /// Marks the connection as idle, as the newest one; if that is one too many, the oldest is evicted.
    pub fn idle(&self) {
        self.busy();
        let Inner { most, next, idle } = &*self.limiter.0;
        let since = next.replace(next.get() + 1);
        self.idle_since.set(Some(since));
        let mut idle = idle.borrow_mut();
        idle.insert(since, self.eviction.clone());
        while idle.len() > *most {
            evict_first(&mut idle);
        }
    }

    /// Evicts the connection of the same socket that has been idle for longest.
    pub fn evict_oldest(&self) {
        evict_first(&mut self.limiter.0.idle.borrow_mut());
    }

    /// Marks the connection as busy: it is not evicted while its request is being answered, nor if it just was.
    pub fn busy(&self) {
        self.eviction.evicted.set(false);
        if let Some(since) = self.idle_since.take() {
            self.limiter.0.idle.borrow_mut().remove(&since);
        }
    }

    #[must_use]
    /// Whether the connection is evicted.
    pub fn is_evicted(&self) -> bool {
        self.eviction.evicted.get()
    }

    /// Returns when the connection is evicted.
    pub async fn evicted(&self) {
        while !self.is_evicted() {
            self.eviction.told.notified().await;
        }
    }
}

fn evict_first(idle: &mut BTreeMap<u64, Rc<Eviction>>) {
    if let Some((_, oldest)) = idle.pop_first() {
        oldest.evicted.set(true);
        oldest.told.notify_one();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.busy();
    }
}

/// A socket that connections are accepted from.
pub trait Listen {
    /// A connection.
    type Stream;

    /// Accepts the next connection.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>>;
}

impl Listen for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Accepts connections as long as the runtime lives, each with a task of its own; `converse` has to
/// end when its connection is evicted. `what`: name of the socket for the log.
pub async fn serve<L: Listen, F: Future<Output = ()> + 'static>(
    listener: L,
    what: &str,
    converse: impl Fn(L::Stream, Permit) -> F,
) {
    let limiter = Limiter::new(MOST);
    loop {
        match listener.next().await {
            Ok(stream) => {
                tokio::task::spawn_local(converse(stream, limiter.admit()));
            }
            // For instance no descriptor is free: a pause before the next attempt.
            Err(error) => {
                tracing::warn!("cannot accept on the {what}: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evicted(permits: &[Permit]) -> Vec<bool> {
        permits.iter().map(Permit::is_evicted).collect()
    }

    #[test]
    fn the_oldest_idle_one_is_evicted() {
        let limiter = Limiter::new(2);
        let permits: Vec<Permit> = (0..4).map(|_| limiter.admit()).collect();
        assert_eq!(evicted(&permits), [true, true, false, false]);
    }

    #[test]
    fn one_that_is_served_may_evict_the_oldest() {
        let limiter = Limiter::new(9);
        let permits: Vec<Permit> = (0..3).map(|_| limiter.admit()).collect();
        permits[0].busy();
        permits[0].evict_oldest();
        assert_eq!(evicted(&permits), [false, true, false]);
        permits[0].evict_oldest();
        permits[0].evict_oldest();
        assert_eq!(evicted(&permits), [false, true, true]);
    }

    #[test]
    fn one_that_is_served_stays() {
        let limiter = Limiter::new(2);
        let served = limiter.admit();
        served.busy();
        let permits: Vec<Permit> = (0..3).map(|_| limiter.admit()).collect();
        assert!(!served.is_evicted());
        assert_eq!(evicted(&permits), [true, false, false]);
        // Just evicted, but its request has arrived meanwhile.
        permits[0].busy();
        assert!(!permits[0].is_evicted());
    }

    #[test]
    fn one_that_is_idle_again_is_the_newest() {
        let limiter = Limiter::new(2);
        let permits = [limiter.admit(), limiter.admit()];
        permits[0].busy();
        permits[0].idle();
        let third = limiter.admit();
        assert_eq!(evicted(&permits), [false, true]);
        assert!(!third.is_evicted());
    }

    #[test]
    fn one_that_leaves_makes_room() {
        let limiter = Limiter::new(2);
        let first = limiter.admit();
        for _ in 0..10 {
            drop(limiter.admit());
        }
        let _second = limiter.admit();
        assert!(!first.is_evicted());
        assert_eq!(limiter.0.idle.borrow().len(), 2);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_eviction_is_told() {
        let limiter = Limiter::new(1);
        let first = limiter.admit();
        let (mut told, mut served) = (false, false);
        tokio::join!(
            async {
                first.evicted().await;
                told = true;
            },
            async {
                let second = limiter.admit();
                second.busy();
                let _third = limiter.admit();
                tokio::select! {
                    () = second.evicted() => {}
                    () = tokio::time::sleep(Duration::from_millis(10)) => served = true,
                }
            }
        );
        assert!(told && served);
    }
}
