//! Warnings about a valid configuration, PURE: addresses of one service that lie within those of another, what a
//! command does not fit, and sockets that belong to a user of many.

use super::choices::{SocketOwner, SocketSource};
use super::known::{Launched, SaysReady, TakesSockets};
use super::service::ServiceConfig;
use super::values::Ready;
use crate::domain::listener::Listener;
use crate::placeholders;

/// What is worth a word about these services; one line each.
#[must_use]
pub fn warnings(services: &[ServiceConfig]) -> Vec<String> {
    let mut lines = overlaps(services);
    lines.extend(services.iter().flat_map(about_server));
    lines.extend(services.iter().flat_map(misspelt));
    lines.extend(services.iter().filter_map(|service| shared_user(service, services)));
    lines
}

/// What the command of a service does not fit, as far as its server is known.
fn about_server(service: &ServiceConfig) -> Vec<String> {
    let variables =
        [Some(&service.process.env), service.process.env_file.as_ref().map(|file| &file.variables)];
    let Some(launched) = Launched::find(&service.command, variables.into_iter().flatten()) else {
        return Vec::new();
    };
    let (server, name) = (launched.server, &launched.name);
    let mut said = Vec::new();
    let told = service.stop.signal;
    if let Some(signal) = server.signal.filter(|signal| *signal != told) {
        said.push(format!(
            "{name} ends in order with {signal}, and {told} may cut its connections: set stop_signal = \"{signal}\""
        ));
    }
    if let Some(mode) = server.mode.filter(|mode| *mode != service.stop.mode) {
        said.push(format!(
            "{name} ends in order if only its main process is told to, and a signal to all of them may cut its \
             connections: set stop_mode = \"{mode}\""
        ));
    }
    if let Some(argument) = server.in_order.filter(|argument| launched.lacks(*argument)) {
        said.push(format!("no signal ends {name} in order without {}: add that", argument.write));
    }
    said.extend(about_sockets(&launched, service.sockets));
    if service.ready == Ready::Notify {
        let instead = "set ready = \"accepting\", or it is never ready";
        match server.ready {
            SaysReady::Never => said.push(format!("{name} does not say READY=1: {instead}")),
            SaysReady::With(argument) if !launched.has(argument) => {
                said.push(format!("{name} says READY=1 only with {argument}: add that, or {instead}"));
            }
            _ => {}
        }
    }
    said.into_iter().map(|line| format!("service {}: {line}", service.name)).collect()
}

/// Which way to give a server its sockets suits it better.
fn about_sockets(launched: &Launched, source: SocketSource) -> Option<String> {
    let (server, name) = (launched.server, &launched.name);
    match (server.sockets, source) {
        (TakesSockets::Told(argument), SocketSource::Pass) if launched.lacks(argument) => {
            Some(format!("{name} opens sockets of its own, and gets nothing, without {}", argument.write))
        }
        (TakesSockets::Never, SocketSource::Pass) => {
            Some(format!("{name} opens sockets of its own, and gets nothing: set sockets = \"bind\""))
        }
        (TakesSockets::Listed, SocketSource::Bind) => Some(format!(
            "{name} takes the sockets that it gets by itself: with sockets = \"pass\" its calls need no filter"
        )),
        (_, SocketSource::Nginx) if !server.names.contains(&"nginx") => {
            Some(format!("sockets = \"nginx\" is for nginx, and {name} gets nothing so"))
        }
        _ => None,
    }
}

/// Placeholders that are probably misspelt; without what stands around them, which may be a secret.
fn misspelt(service: &ServiceConfig) -> Vec<String> {
    let arguments = service.command.iter().map(|text| ("command".to_owned(), text));
    let variables = service.process.env.iter().map(|(name, value)| (format!("the variable {name}"), value));
    let cwd = service.process.cwd.iter().map(|cwd| ("cwd".to_owned(), cwd));
    let line = |(place, text): (String, &String)| {
        let (word, meant) = placeholders::misspelt(text)?;
        Some(format!(
            "service {}: {{{word}}} in {place} is no placeholder, and stays as it is: did you mean {{{meant}}}?",
            service.name
        ))
    };
    arguments.chain(variables).chain(cwd).filter_map(line).collect()
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
    use super::super::{StopMode, StopSignal};
    use super::*;

    fn said(command: &str, change: impl Fn(&mut ServiceConfig)) -> Vec<String> {
        let mut service = ServiceConfig::new("web", Vec::new(), 1);
        service.command = command.split(' ').map(Into::into).collect();
        change(&mut service);
        warnings(&[service])
    }

    #[test]
    fn another_signal_than_the_servers_is_worth_a_word() {
        let with = |command: &str, signal| said(command, |service| service.stop.signal = signal);
        let haproxy = with("/usr/sbin/haproxy", StopSignal::Term).join("");
        assert!(
            haproxy.starts_with("service web: haproxy ends in order with USR1, and TERM may cut"),
            "{haproxy}"
        );
        assert_eq!(with("php-fpm8.2", StopSignal::Term).len(), 1);
        assert_eq!(with("gunicorn", StopSignal::Quit).len(), 1);
        let fine =
            [("haproxy", StopSignal::Usr1), ("gunicorn", StopSignal::Term), ("nginx/x", StopSignal::Term)];
        for (command, signal) in fine {
            assert_eq!(with(command, signal), Vec::<String>::new(), "{command}");
        }
        // What a program of Node's does with a signal is its own.
        assert!(with("node server.js", StopSignal::Quit).is_empty());
    }

    #[test]
    fn a_command_that_cannot_work_is_worth_a_word() {
        let none = |_: &mut ServiceConfig| {};
        let uvicorn = "service web: uvicorn opens sockets of its own, and gets nothing, without --fd 3";
        assert_eq!(said("python3 -m uvicorn app:app", none), [uvicorn]);
        assert!(said("uvicorn --fd 3 app:app", none).is_empty());
        let nginx = said("nginx", |service| service.stop.signal = StopSignal::Quit);
        let opens = "service web: nginx opens sockets of its own, and gets nothing, without sockets = \"nginx\" or \"bind\"";
        assert_eq!(nginx, [opens]);
        let fine = said("nginx", |service| {
            service.stop.signal = StopSignal::Quit;
            service.process.env.insert("NGINX".into(), "3;".into());
        });
        assert!(fine.is_empty(), "{fine:?}");
        let uwsgi = "uwsgi --master --hook-master-start unix_signal:15:gracefully_kill_them_all";
        let mode = said(uwsgi, none);
        assert!(mode.len() == 1 && mode[0].ends_with("set stop_mode = \"main\""), "{mode:?}");
        assert!(said(uwsgi, |service| service.stop.mode = StopMode::Main).is_empty());
        let hook = said("uwsgi --master", |service| service.stop.mode = StopMode::Main);
        assert!(
            hook.len() == 1 && hook[0].contains("no signal ends uwsgi in order without --hook"),
            "{hook:?}"
        );
    }

    #[test]
    fn the_way_of_taking_sockets_that_suits_a_server_is_named() {
        let with = |command: &str, source| {
            said(command, |service| {
                service.sockets = source;
                service.stop.signal = if command == "nginx" { StopSignal::Quit } else { StopSignal::Term };
            })
            .join("\n")
        };
        use SocketSource::{Bind, Nginx, Pass};
        for command in [
            "redis-server --port 80",
            "knotd -c x",
            "dnsdist -C x",
            "erl -noshell",
            "python3 -m http.server 80",
        ] {
            let name = command.split(' ').find(|it| !it.starts_with("python") && *it != "-m").unwrap();
            let own = format!("service web: {name} opens sockets of its own, and gets nothing");
            assert_eq!(with(command, Pass), format!("{own}: set sockets = \"bind\""));
            assert_eq!(with(command, Bind), "");
            let wrong = format!("service web: sockets = \"nginx\" is for nginx, and {name} gets nothing so");
            assert_eq!(with(command, Nginx), wrong);
        }
        for source in [Bind, Nginx] {
            assert_eq!(with("nginx", source), "");
        }
        let listed = with("gunicorn x", Bind);
        assert!(
            listed.starts_with("service web: gunicorn takes the sockets that it gets by itself"),
            "{listed}"
        );
        for command in ["gunicorn x", "node x.js", "unbound -dp", "./own"] {
            assert_eq!(with(command, Pass), "", "{command}");
        }
        for command in ["node x.js", "unbound -dp", "./own", "uvicorn x"] {
            assert_eq!(with(command, Bind), "", "{command}");
        }
    }

    #[test]
    fn a_misspelt_placeholder_is_worth_a_word_without_what_is_around_it() {
        let lines = said("./server --port=808{indx}", |service| {
            service.process.env.insert("TOKEN".into(), "secret-{wroker}".into());
            service.process.cwd = Some("/srv/{Service}".into());
        });
        let expected = [
            ("{indx} in command", "{index}"),
            ("{wroker} in the variable TOKEN", "{worker}"),
            ("{Service} in cwd", "{service}"),
        ];
        let expected = expected.map(|(what, meant)| {
            format!("service web: {what} is no placeholder, and stays as it is: did you mean {meant}?")
        });
        assert_eq!(lines, expected);
        assert!(said("./server {index} {} {name}", |_| {}).is_empty());
    }

    #[test]
    fn a_server_that_never_says_that_it_is_ready_is_worth_a_word() {
        let notify = |command: &str| {
            let said = said(command, |service| {
                service.ready = Ready::Notify;
                service.stop.signal = StopSignal::Usr1;
            });
            said.into_iter().filter(|line| line.contains("READY=1")).collect::<Vec<String>>()
        };
        let never =
            "service web: uvicorn does not say READY=1: set ready = \"accepting\", or it is never ready";
        assert_eq!(notify("uvicorn --fd 3 x"), [never]);
        assert!(notify("haproxy -W -f x")[0].contains("haproxy says READY=1 only with -Ws"));
        for fine in ["haproxy -Ws -f x", "gunicorn x", "puma", "node x.js", "./own"] {
            assert!(notify(fine).is_empty(), "{fine}");
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
