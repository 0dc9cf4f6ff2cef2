//! Warnings about a valid configuration, PURE: addresses of one service that lie within those of another, and servers
//! that end in order with another signal.

use super::known;
use super::service::ServiceConfig;
use crate::domain::listener::Listener;

/// What is worth a word about these services; one line each.
#[must_use]
pub fn warnings(services: &[ServiceConfig]) -> Vec<String> {
    let mut lines = overlaps(services);
    lines.extend(services.iter().filter_map(wrong_signal));
    lines
}

/// The server of a service, if that ends in order with another signal than the service's.
fn wrong_signal(service: &ServiceConfig) -> Option<String> {
    let (server, signal) = known::server(service.command.first()?)?;
    let told = service.stop.signal;
    (told != signal).then(|| {
        format!(
            "service {}: {server} ends in order with {signal}, and {told} may cut its connections: set stop_signal = \
             \"{signal}\"",
            service.name
        )
    })
}

/// Finds listeners on all addresses of which another service has a single one; one line for each.
fn overlaps(services: &[ServiceConfig]) -> Vec<String> {
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

#[cfg(test)]
mod tests {
    use super::super::StopSignal;
    use super::*;

    fn said(command: &str, signal: StopSignal) -> Vec<String> {
        let mut service = ServiceConfig::new("web", Vec::new(), 1);
        service.command = vec![command.into()];
        service.stop.signal = signal;
        warnings(&[service])
    }

    #[test]
    fn another_signal_than_the_servers_is_worth_a_word() {
        let haproxy = said("/usr/sbin/haproxy", StopSignal::Term).join("");
        assert!(
            haproxy.starts_with("service web: haproxy ends in order with USR1, and TERM may cut"),
            "{haproxy}"
        );
        assert_eq!(said("php-fpm8.2", StopSignal::Term).len(), 1);
        assert_eq!(said("gunicorn", StopSignal::Quit).len(), 1);
        let fine =
            [("haproxy", StopSignal::Usr1), ("gunicorn", StopSignal::Term), ("nginx/x", StopSignal::Term)];
        for (command, signal) in fine {
            assert_eq!(said(command, signal), Vec::<String>::new(), "{command}");
        }
    }
}
