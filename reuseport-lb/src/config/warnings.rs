//! Warnings about a valid configuration, PURE: addresses of one service that lie within those of another, and servers
//! that end in order with another signal, and sockets that belong to a user of many.

use super::choices::SocketOwner;
use super::known;
use super::service::ServiceConfig;
use crate::domain::listener::Listener;

/// What is worth a word about these services; one line each.
#[must_use]
pub fn warnings(services: &[ServiceConfig]) -> Vec<String> {
    let mut lines = overlaps(services);
    lines.extend(services.iter().filter_map(wrong_signal));
    lines.extend(services.iter().filter_map(|service| shared_user(service, services)));
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

/// Names and number of the user that programs run as which have none of their own.
const NOBODYS: [&str; 3] = ["nobody", "nfsnobody", "65534"];

/// Who else can join the groups of a service whose sockets belong to its user, as far as the configuration shows it.
fn shared_user(service: &ServiceConfig, all: &[ServiceConfig]) -> Option<String> {
    let user = service.user.as_deref().filter(|_| service.socket_owner == SocketOwner::User)?;
    let other = all.iter().find(|it| it.name != service.name && it.user.as_deref() == Some(user));
    let who = match other {
        _ if NOBODYS.contains(&user) => "programs that are no part of it".to_owned(),
        Some(other) => format!("workers of service {}", other.name),
        None => return None,
    };
    Some(format!(
        "service {}: its sockets belong to {user}, as whom {who} run: they can bind sockets on its addresses and replace \
         its program; give it a `user` of its own",
        service.name
    ))
}

/// Finds listeners on all addresses of which another service has some; one line for each.
fn overlaps(services: &[ServiceConfig]) -> Vec<String> {
    let all: Vec<(&ServiceConfig, &Listener)> =
        services.iter().flat_map(|service| service.listeners().map(move |one| (service, one))).collect();
    let mut lines = Vec::new();
    for (wide, on_all) in &all {
        for (narrow, on_some) in
            all.iter().filter(|(narrow, on_some)| narrow.name != wide.name && is_below(on_some, on_all))
        {
            let (are, sent) = match on_some.address.ip().is_unspecified() {
                true => ("the IPv4 part", "IPv4 addresses".to_owned()),
                false => ("one of the addresses", on_some.address.to_string()),
            };
            lines.push(format!(
                "{on_some} of service {} is {are} of {on_all} of service {}: what is sent to {sent} goes \
                 to {}, and only the rest to {}",
                narrow.name, wide.name, narrow.name, wide.name
            ));
        }
    }
    lines
}

/// Whether `some` are a part of the addresses of `all`, which the kernel looks up first.
fn is_below(some: &Listener, all: &Listener) -> bool {
    all.address.port() != 0
        && some.overlaps(all)
        && all.covers(some.address.ip())
        && !some.covers(all.address.ip())
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

    #[test]
    fn of_two_services_one_has_some_of_the_others_addresses() {
        let lines = |listeners: [&str; 2]| {
            let services = [("one", listeners[0]), ("two", listeners[1])]
                .map(|(name, listener)| ServiceConfig::new(name, vec![listener.parse().unwrap()], 1));
            warnings(&services)
        };
        for (wide, narrow, says) in [
            ("tcp://0.0.0.0:80", "tcp://127.0.0.1:80", "is one of the addresses of tcp://0.0.0.0:80"),
            ("tcp://*:80", "tcp://127.0.0.1:80", "is one of the addresses of tcp://*:80 of service one"),
            (
                "tcp://*:80",
                "tcp://[::1]:80",
                "what is sent to [::1]:80 goes to two, and only the rest to one",
            ),
            (
                "tcp://*:80",
                "tcp://0.0.0.0:80",
                "tcp://0.0.0.0:80 of service two is the IPv4 part of tcp://*:80",
            ),
            (
                "udp://*:80",
                "udp://0.0.0.0:80",
                "what is sent to IPv4 addresses goes to two, and only the rest to one",
            ),
        ] {
            let said = lines([wide, narrow]);
            assert!(said.len() == 1 && said[0].contains(says), "{wide} {narrow}: {said:?}");
        }
        for pair in [
            ["tcp://0.0.0.0:80", "tcp://[::]:80"],
            ["tcp://[::]:80", "tcp://127.0.0.1:80"],
            ["tcp://*:80", "udp://0.0.0.0:80"],
            ["tcp://*:80", "tcp://0.0.0.0:81"],
            ["tcp://*:0", "tcp://0.0.0.0:0"],
        ] {
            assert_eq!(lines(pair), Vec::<String>::new(), "{pair:?}");
        }
    }

    #[test]
    fn sockets_of_a_user_of_many_are_worth_a_word() {
        let service = |name: &str, user: &str, socket_owner| {
            let user = Some(user.to_owned());
            ServiceConfig { user, socket_owner, ..ServiceConfig::new(name, Vec::new(), 1) }
        };
        let said = |user: &str, owner, other: &str| {
            let all = [service("web", user, owner), service("api", other, SocketOwner::Daemon)];
            warnings(&all).join("\n")
        };
        let nobody = said("nobody", SocketOwner::User, "api");
        assert!(
            nobody.starts_with("service web: its sockets belong to nobody, as whom programs"),
            "{nobody}"
        );
        let two = said("www-data", SocketOwner::User, "www-data");
        assert!(two.contains("to www-data, as whom workers of service api run: they can bind"), "{two}");
        assert_eq!(said("www-data", SocketOwner::User, "api"), "");
        assert_eq!(said("nobody", SocketOwner::Daemon, "nobody"), "");
    }
}
