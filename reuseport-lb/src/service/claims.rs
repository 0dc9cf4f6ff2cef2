//! Which service decides for an address. While a listener moves from one service to another, both have sockets in its
//! group, and the program of one of them decides: that of the new service as soon as its workers are ready.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use crate::domain::listener::Listener;
use crate::kernel::group::Decides;
use crate::kernel::host;

/// The claims of all services of a daemon.
#[derive(Default)]
pub struct Claims {
    all: RefCell<Vec<Claim>>,
    /// The services that decided when an earlier daemon ended, until all services are taken over.
    before: RefCell<HashMap<Listener, String>>,
    /// The daemon ends: no listener moves from one service to another any more.
    frozen: Cell<bool>,
    /// The daemon is finding out which service is to have which listener: no service may take one meanwhile.
    held: Cell<bool>,
}

struct Claim {
    listener: Listener,
    service: String,
    decides: Decides,
    /// Milliseconds from boot to when the service last began to decide for the listener.
    since: u64,
    /// Another service has taken the listener.
    lost: bool,
}

impl Claims {
    /// Notes that `service` listens on `listener`. The returned value says, as long as the claim lasts, whether the
    /// service decides there: at once, unless another service does.
    pub fn claim(&self, listener: Listener, service: &str) -> Decides {
        let mut claims = self.all.borrow_mut();
        let other = self.before.borrow().get(&listener).is_some_and(|holder| holder != service);
        let same = |claim: &&Claim| claim.listener == listener && listener.address.port() != 0;
        let own = claims.iter().filter(same).find(|claim| claim.service == service);
        let decides = match own {
            // The second group of a listener, made for another policy, takes the place of the first.
            Some(claim) => claim.decides.clone(),
            None => Decides::new(!other && !claims.iter().filter(same).any(|claim| claim.decides.get())),
        };
        let (since, lost) = own.map_or_else(|| (host::uptime_ms(), false), |claim| (claim.since, claim.lost));
        let service = service.to_owned();
        claims.push(Claim { listener, service, decides: decides.clone(), since, lost });
        decides
    }

    /// Until [`Claims::open`], only `holders` decide for these listeners, in whatever order services are taken over.
    pub fn keep(&self, holders: impl IntoIterator<Item = (Listener, String)>) {
        self.before
            .borrow_mut()
            .extend(holders.into_iter().filter(|(listener, _)| listener.address.port() != 0));
    }

    /// Notes that the listeners which `service` decided for under an earlier daemon are kept for `to`.
    pub fn reassign(&self, service: &str, to: &str) {
        let mut before = self.before.borrow_mut();
        before.values_mut().filter(|holder| *holder == service).for_each(|holder| to.clone_into(holder));
    }

    /// All services of an earlier daemon are taken over: for a listener that no service decides for, the first with a
    /// claim now does.
    pub fn open(&self) {
        let claims = self.all.borrow();
        for listener in self.before.take().into_keys() {
            pass_on(&claims, &listener);
        }
    }

    /// From now on no listener goes from one service to another: the daemon ends, and programs stay where they are.
    pub(super) fn freeze(&self) {
        self.frozen.set(true);
    }

    /// Keeps services from taking listeners of other services while `held`: until the configuration is known, which
    /// says which service is to have which listener.
    pub fn hold(&self, held: bool) {
        self.held.set(held);
    }

    /// Whether a service may take a listener that another one decides for.
    pub(super) fn may_take(&self) -> bool {
        !self.held.get()
    }

    /// The configuration gives `service` only these listeners: its claims to all others are lost.
    pub fn leave_only(&self, listeners: &[Listener], service: &str) {
        let mut claims = self.all.borrow_mut();
        let others =
            claims.iter_mut().filter(|it| it.service == service && !listeners.contains(&it.listener));
        others.for_each(|claim| claim.lost = true);
    }

    /// Takes one claim back. If it decided, another service with a claim to the listener decides from now on.
    pub fn withdraw(&self, listener: &Listener, service: &str) {
        if self.frozen.get() {
            return;
        }
        let mut claims = self.all.borrow_mut();
        let own = |claim: &Claim| claim.listener == *listener && claim.service == service;
        let Some(at) = claims.iter().position(own) else { return };
        let gone = claims.swap_remove(at);
        if listener.address.port() == 0 || !gone.decides.get() || claims.iter().any(own) {
            return;
        }
        if self.before.borrow().contains_key(listener) {
            // The service that decided before may still be taken over, or one that is abandoned.
            return;
        }
        pass_on(&claims, listener);
    }

    /// Makes `service` the one that decides for `listener`; returns the service that did before.
    pub(super) fn take(&self, listener: &Listener, service: &str) -> Option<String> {
        let before = self.holder(listener);
        for claim in self.all.borrow_mut().iter_mut().filter(|claim| claim.listener == *listener) {
            claim.lost = claim.service != service;
            claim.decides.set(!claim.lost);
            claim.since = host::uptime_ms();
        }
        before
    }

    /// Whether another service has taken `listener` from `service`.
    pub(super) fn is_lost(&self, listener: &Listener, service: &str) -> bool {
        let claims = self.all.borrow();
        let mut own = claims.iter().filter(|it| it.listener == *listener && it.service == service);
        own.any(|claim| claim.lost && !claim.decides.get())
    }

    /// Notes that another service had taken `listener` from `service` under an earlier daemon.
    pub(super) fn lose(&self, listener: &Listener, service: &str) {
        let mut claims = self.all.borrow_mut();
        let own = claims.iter_mut().filter(|it| it.listener == *listener && it.service == service);
        own.for_each(|claim| claim.lost = true);
    }

    /// The configuration gives `listener` to `service`, which may take it back if it had lost it.
    pub(super) fn want(&self, listener: &Listener, service: &str) {
        let mut claims = self.all.borrow_mut();
        let own = claims.iter_mut().filter(|it| it.listener == *listener && it.service == service);
        own.for_each(|claim| claim.lost = false);
    }

    /// Since when `service` decides for an address, in milliseconds from boot; 0 if it does not.
    pub(super) fn since(&self, listener: &Listener, service: &str) -> u64 {
        let claims = self.all.borrow();
        let own = claims.iter().find(|claim| claim.listener == *listener && claim.service == service);
        own.filter(|claim| claim.decides.get()).map_or(0, |claim| claim.since)
    }

    /// The service that decides for an address; `None` for port 0, which is another port each time.
    #[must_use]
    pub fn holder(&self, listener: &Listener) -> Option<String> {
        let claims = self.all.borrow();
        let mut holders = claims.iter().filter(|claim| claim.listener == *listener && claim.decides.get());
        holders.next().filter(|_| listener.address.port() != 0).map(|claim| claim.service.clone())
    }
}

/// Makes the first claim to `listener` decide, unless one does already.
fn pass_on(claims: &[Claim], listener: &Listener) {
    let mut same = claims.iter().filter(|claim| claim.listener == *listener).peekable();
    if let Some(first) = same.peek().copied()
        && !same.any(|claim| claim.decides.get())
    {
        first.decides.set(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(text: &str) -> Listener {
        text.parse().expect("a listener")
    }

    #[test]
    fn one_service_decides_and_another_may_take_over() {
        let (claims, web) = (Claims::default(), listener("tcp://127.0.0.1:80"));
        let old = claims.claim(web, "old");
        let new = claims.claim(web, "new");
        assert_eq!((old.get(), new.get(), claims.holder(&web)), (true, false, Some("old".into())));
        assert_eq!(claims.take(&web, "new"), Some("old".into()));
        assert_eq!((old.get(), new.get(), claims.holder(&web)), (false, true, Some("new".into())));
        assert_eq!((claims.is_lost(&web, "old"), claims.is_lost(&web, "new")), (true, false));
        claims.want(&web, "old");
        assert!(!claims.is_lost(&web, "old") && !old.get());
        claims.withdraw(&web, "new");
        assert_eq!((old.get(), claims.holder(&web)), (true, Some("old".into())));
        claims.withdraw(&web, "old");
        assert_eq!(claims.holder(&web), None);
    }

    #[test]
    fn the_same_group_with_another_policy_decides_as_before() {
        let (claims, web) = (Claims::default(), listener("tcp://127.0.0.1:80"));
        let (first, again) = (claims.claim(web, "web"), claims.claim(web, "web"));
        claims.withdraw(&web, "web");
        assert!(first.get() && again.get());
        assert_eq!(claims.holder(&web), Some("web".into()));
    }

    #[test]
    fn the_service_that_decided_under_the_daemon_before_decides_in_whatever_order_services_come() {
        let (claims, web, gone) =
            (Claims::default(), listener("tcp://127.0.0.1:80"), listener("tcp://127.0.0.1:81"));
        claims.keep([(web, "new".into()), (gone, "lost".into())]);
        let (old, other) = (claims.claim(web, "old"), claims.claim(gone, "old"));
        let new = claims.claim(web, "new");
        assert_eq!((old.get(), new.get(), other.get()), (false, true, false));
        claims.open();
        assert_eq!(
            (old.get(), new.get(), other.get()),
            (false, true, true),
            "`lost` could not be taken over"
        );
        claims.freeze();
        claims.withdraw(&web, "new");
        assert!(!old.get() && claims.since(&web, "old") == 0, "the kernel still has the program of `new`");
    }

    #[test]
    fn port_0_has_no_holder() {
        let (claims, any) = (Claims::default(), listener("tcp://127.0.0.1:0"));
        assert!(claims.claim(any, "one").get() && claims.claim(any, "other").get());
        assert_eq!(claims.holder(&any), None);
    }
}
