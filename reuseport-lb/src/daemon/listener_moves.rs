//! Listeners that one change of the configuration gives to another service, PURE: which configuration serves
//! meanwhile. Not: which service decides for a listener (`service/claims.rs`).

use std::fmt;

use crate::config::ServiceConfig;
use crate::domain::listener::Listener;

/// All listeners that move.
#[derive(Debug, Default)]
pub(super) struct Moves(Vec<Move>);

#[derive(Debug)]
struct Move {
    listener: Listener,
    from: String,
    to: String,
}

impl Moves {
    /// Finds the listeners of `wanted` for which another service decides now; `holder` says which.
    pub(super) fn find(wanted: &[ServiceConfig], holder: impl Fn(&Listener) -> Option<String>) -> Self {
        let mut moves = Vec::new();
        for service in wanted {
            for listener in service.listeners() {
                if let Some(from) = holder(listener).filter(|from| *from != service.name) {
                    moves.push(Move { listener: *listener, from, to: service.name.clone() });
                }
            }
        }
        Self(moves)
    }

    /// Whether no listener moves.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a service loses a listener.
    pub(super) fn is_loser(&self, name: &str) -> bool {
        self.0.iter().any(|it| it.from == name)
    }

    /// Services that get a listener.
    pub(super) fn takers(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|it| &*it.to)
    }

    /// Whether a service gets a listener.
    pub(super) fn is_taker(&self, name: &str) -> bool {
        self.takers().any(|taker| taker == name)
    }

    /// The services of `wanted` that only lose listeners: they keep their old settings until those are taken.
    pub(super) fn losers(&self, wanted: &[ServiceConfig]) -> Vec<ServiceConfig> {
        let loses = |it: &&ServiceConfig| self.is_loser(&it.name) && !self.is_taker(&it.name);
        wanted.iter().filter(loses).cloned().collect()
    }

    /// The services until all listeners are taken: each service that gets some keeps those that it loses.
    pub(super) fn meanwhile(&self, wanted: &[ServiceConfig]) -> Vec<ServiceConfig> {
        let stays = |it: &&ServiceConfig| !self.is_loser(&it.name) || self.is_taker(&it.name);
        let with_lost = |it: &ServiceConfig| {
            let lost = self.0.iter().filter(|lost| lost.from == it.name).map(|lost| lost.listener);
            let listen = it.listen.iter().cloned().chain(lost.map(Into::into)).collect();
            ServiceConfig { listen, ..it.clone() }
        };
        wanted.iter().filter(stays).map(with_lost).collect()
    }
}

impl fmt::Display for Moves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Move { listener, from, to }) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{listener} goes from service {from} to service {to}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, ports: &[u16]) -> ServiceConfig {
        let at = |port: &u16| format!("tcp://127.0.0.1:{port}").parse().expect("a listener");
        ServiceConfig::new(name, ports.iter().map(at).collect(), 1)
    }

    fn held(by: &[(u16, &str)]) -> impl Fn(&Listener) -> Option<String> {
        move |listener| {
            let own = |(port, _): &&(u16, &str)| *port == listener.address.port();
            by.iter().find(own).map(|(_, service)| (*service).to_owned())
        }
    }

    #[test]
    fn a_service_that_only_loses_stays_as_it_is() {
        let wanted = [service("a", &[1]), service("b", &[2, 3]), service("c", &[9])];
        let moves = Moves::find(&wanted, held(&[(1, "a"), (2, "a"), (3, "b")]));
        assert_eq!(moves.to_string(), "tcp://127.0.0.1:2 goes from service a to service b");
        assert_eq!(moves.losers(&wanted), [wanted[0].clone()]);
        assert_eq!(moves.meanwhile(&wanted), wanted[1..]);
    }

    #[test]
    fn of_two_that_swap_each_keeps_what_it_loses_for_a_while() {
        let wanted = [service("a", &[2]), service("b", &[1])];
        let moves = Moves::find(&wanted, held(&[(1, "a"), (2, "b")]));
        assert!(moves.losers(&wanted).is_empty());
        assert_eq!(moves.meanwhile(&wanted), [service("a", &[2, 1]), service("b", &[1, 2])]);
    }

    #[test]
    fn a_listener_without_a_holder_does_not_move() {
        let wanted = [service("a", &[1])];
        assert!(Moves::find(&wanted, held(&[])).is_empty());
        assert!(Moves::find(&wanted, held(&[(1, "a")])).is_empty());
    }
}
