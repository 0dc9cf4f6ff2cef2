//! Who is let in at a socket that many may connect to: everybody, but of those that keep us waiting
//! only so many; when one more comes, the oldest of them has to go. Not: what is spoken there.
//!
//! So connections that say nothing, or half of something, cannot keep anybody out: who speaks at
//! once is not the oldest.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

/// Connections of one socket that may keep us waiting at a time.
pub const MOST: usize = 256;

/// What somebody is told who has to go.
#[must_use]
pub fn why_sent_away() -> String {
    format!("{MOST} newer connections wait as well, so this one had to go: send the request at once")
}

/// The guests of one socket.
#[derive(Clone)]
pub struct Crowd(Rc<Inner>);

struct Inner {
    most: usize,
    next: Cell<u64>,
    /// By how long they have been waiting: the longest first.
    waiting: RefCell<BTreeMap<u64, Rc<Door>>>,
}

#[derive(Default)]
struct Door {
    away: Cell<bool>,
    opened: Notify,
}

/// One connection; out of the crowd on drop.
pub struct Guest {
    crowd: Crowd,
    ticket: Cell<Option<u64>>,
    door: Rc<Door>,
}

impl Crowd {
    /// Room for `most` guests that keep us waiting.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self(Rc::new(Inner { most, next: Cell::new(0), waiting: RefCell::default() }))
    }

    /// Somebody comes, and keeps us waiting until it has said what it wants.
    #[must_use]
    pub fn enter(&self) -> Guest {
        let guest = Guest { crowd: self.clone(), ticket: Cell::new(None), door: Rc::default() };
        guest.wait();
        guest
    }
}

impl Guest {
    /// It keeps us waiting from now on: as the newest. If that is one too many, the oldest must go.
    pub fn wait(&self) {
        self.busy();
        let Inner { most, next, waiting } = &*self.crowd.0;
        let ticket = next.replace(next.get() + 1);
        self.ticket.set(Some(ticket));
        let mut waiting = waiting.borrow_mut();
        waiting.insert(ticket, self.door.clone());
        while waiting.len() > *most {
            let Some((_, oldest)) = waiting.pop_first() else { break };
            oldest.away.set(true);
            oldest.opened.notify_one();
        }
    }

    /// It is our turn: it may stay as long as it likes, even if it was just told to go.
    pub fn busy(&self) {
        self.door.away.set(false);
        if let Some(ticket) = self.ticket.take() {
            self.crowd.0.waiting.borrow_mut().remove(&ticket);
        }
    }

    /// Whether it has to go.
    #[must_use]
    pub fn is_sent_away(&self) -> bool {
        self.door.away.get()
    }

    /// Returns when it has to go.
    pub async fn sent_away(&self) {
        while !self.is_sent_away() {
            self.door.opened.notified().await;
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.busy();
    }
}

/// Lets everybody in for as long as the runtime lives, each with a task of its own; `converse` has to
/// end when its guest is sent away. `what` is the name of the socket for the log.
pub async fn serve<F: Future<Output = ()> + 'static>(
    listener: UnixListener,
    what: &str,
    converse: impl Fn(UnixStream, Guest) -> F,
) {
    let crowd = Crowd::new(MOST);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::task::spawn_local(converse(stream, crowd.enter()));
            }
            // Out of descriptors, say: the next may do, but not at once.
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

    fn away(guests: &[Guest]) -> Vec<bool> {
        guests.iter().map(Guest::is_sent_away).collect()
    }

    #[test]
    fn the_oldest_that_waits_goes() {
        let crowd = Crowd::new(2);
        let guests: Vec<Guest> = (0..4).map(|_| crowd.enter()).collect();
        assert_eq!(away(&guests), [true, true, false, false]);
    }

    #[test]
    fn who_is_served_stays() {
        let crowd = Crowd::new(2);
        let served = crowd.enter();
        served.busy();
        let guests: Vec<Guest> = (0..3).map(|_| crowd.enter()).collect();
        assert!(!served.is_sent_away());
        assert_eq!(away(&guests), [true, false, false]);
        // Just told to go, but then it was quick enough.
        guests[0].busy();
        assert!(!guests[0].is_sent_away());
    }

    #[test]
    fn who_waits_again_is_the_newest() {
        let crowd = Crowd::new(2);
        let guests = [crowd.enter(), crowd.enter()];
        guests[0].busy();
        guests[0].wait();
        let third = crowd.enter();
        assert_eq!(away(&guests), [false, true]);
        assert!(!third.is_sent_away());
    }

    #[test]
    fn who_leaves_makes_room() {
        let crowd = Crowd::new(2);
        let first = crowd.enter();
        for _ in 0..10 {
            drop(crowd.enter());
        }
        let _second = crowd.enter();
        assert!(!first.is_sent_away());
        assert_eq!(crowd.0.waiting.borrow().len(), 2);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_guest_hears_that_it_has_to_go() {
        let crowd = Crowd::new(1);
        let first = crowd.enter();
        let (mut told, mut served) = (false, false);
        tokio::join!(
            async {
                first.sent_away().await;
                told = true;
            },
            async {
                let second = crowd.enter();
                second.busy();
                let _third = crowd.enter();
                tokio::select! {
                    () = second.sent_away() => {}
                    () = tokio::time::sleep(Duration::from_millis(10)) => served = true,
                }
            }
        );
        assert!(told && served);
    }
}
