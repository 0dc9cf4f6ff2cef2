//! Warnings about a valid configuration, PURE: addresses of one service that lie within those of another.

use super::ServiceConfig;
use crate::domain::listener::Listener;

/// Finds listeners on all addresses of which another service has a single one; one line for each.
#[must_use]
pub fn warnings(services: &[ServiceConfig]) -> Vec<String> {
    let all: Vec<(&ServiceConfig, &Listener)> =
        services.iter().flat_map(|service| service.listen.iter().map(move |one| (service, one))).collect();
    let mut lines = Vec::new();
    for (wide, on_all) in all.iter().filter(|(_, it)| it.address.ip().is_unspecified()) {
        for (narrow, on_one) in &all {
            if narrow.name != wide.name && is_below(on_one, on_all) {
                lines.push(format!(
                    "{on_one} of service {} is one of the addresses of {on_all} of service {}: what is sent to {} \
                     goes to {}, and only the rest to {}",
                    narrow.name, wide.name, on_one.address, narrow.name, wide.name
                ));
            }
        }
    }
    lines
}

fn is_below(one: &Listener, all: &Listener) -> bool {
    let same = one.protocol == all.protocol && one.address.port() == all.address.port();
    // IPv6 sockets are v6-only, so families do not meet.
    let family = one.address.is_ipv4() == all.address.is_ipv4();
    same && family && all.address.port() != 0 && !one.address.ip().is_unspecified()
}
