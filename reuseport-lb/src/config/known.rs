//! Servers that people run: how each is ended in order, how it takes its sockets, and how it says that it is ready; from
//! its own documentation, or tried. Not: a default; the table only warns.

use std::collections::BTreeMap;

use super::stop::{StopMode, StopSignal};

/// What is known of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownServer {
    /// File names of its command, also with a version after them, like `php-fpm8.2`.
    pub names: &'static [&'static str],
    /// What ends it in order; `None`: its program decides.
    pub signal: Option<StopSignal>,
    /// Which of its processes must be told; `None`: either setting does.
    pub mode: Option<StopMode>,
    /// How it takes its sockets.
    pub sockets: TakesSockets,
    /// Whether it says READY=1.
    pub ready: SaysReady,
    /// What it cuts requests without.
    pub(super) in_order: Option<Argument>,
    /// Where this is said: tests are those of `tests/tests`.
    pub source: &'static str,
}

/// How a server takes the sockets that it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakesSockets {
    /// Those of LISTEN_FDS, by itself.
    Listed,
    /// By an argument or a variable; without it, the server opens its own.
    Told(Argument),
    /// By a line of its configuration file, like this one.
    File(&'static str),
    /// By a call in its program, like this one.
    Program(&'static str),
    /// In no way: it opens its own.
    Never,
    /// Not known here.
    Unknown,
}

/// Whether a server says READY=1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaysReady {
    /// It does.
    Yes,
    /// Only with this argument.
    With(&'static str),
    /// It does not know how.
    Never,
    /// Not known here.
    Unknown,
}

/// An argument, or a variable as `NAME=VALUE`, that a server needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argument {
    /// What it has in it.
    sign: &'static str,
    /// How other words begin or end that may say the same, like the name of a configuration file.
    or: &'static [&'static str],
    /// What to write.
    pub(super) write: &'static str,
}

use SaysReady::{Never, With, Yes};
use StopSignal::{Int, Quit, Term, Usr1, Winch};
use TakesSockets::{File, Listed, Never as Own, Program, Told};

const UNKNOWN: KnownServer = KnownServer {
    names: &[],
    signal: None,
    mode: None,
    sockets: TakesSockets::Unknown,
    ready: SaysReady::Unknown,
    in_order: None,
    source: "",
};

const SERVERS: &[KnownServer] = &[
    KnownServer {
        names: &["apache2", "httpd"],
        signal: Some(Winch),
        source: "Apache HTTP Server, Stopping and Restarting: graceful-stop",
        ..UNKNOWN
    },
    KnownServer {
        names: &["dnsdist"],
        signal: Some(Term),
        sockets: Own,
        source: "bind/servers.rs",
        ..UNKNOWN
    },
    KnownServer { names: &["erl"], sockets: Own, source: "bind/servers.rs", ..UNKNOWN },
    KnownServer {
        names: &["granian"],
        signal: Some(Term),
        sockets: Own,
        source: "bind/servers.rs",
        ..UNKNOWN
    },
    KnownServer {
        names: &["gunicorn"],
        signal: Some(Term),
        sockets: Listed,
        ready: Yes,
        source: "Gunicorn, Signal Handling; Deploying, Systemd; servers/restarts.rs",
        ..UNKNOWN
    },
    KnownServer {
        names: &["haproxy"],
        signal: Some(Usr1),
        sockets: File("bind fd@3"),
        ready: With("-Ws"),
        source: "HAProxy Management Guide, 3. Starting HAProxy, 4. Stopping and restarting HAProxy; servers/restarts.rs",
        ..UNKNOWN
    },
    KnownServer { names: &["http.server"], sockets: Own, source: "bind/servers.rs", ..UNKNOWN },
    KnownServer {
        names: &["hypercorn"],
        signal: Some(Term),
        sockets: Told(Argument { sign: "fd://", or: &["-c", "--config"], write: "--bind fd://3" }),
        ready: Never,
        source: "Hypercorn, Configuring; servers/restarts.rs",
        ..UNKNOWN
    },
    KnownServer { names: &["knotd"], signal: Some(Term), sockets: Own, source: "bind/servers.rs", ..UNKNOWN },
    KnownServer {
        names: &["lighttpd"],
        signal: Some(Int),
        sockets: File("server.systemd-socket-activation = \"enable\""),
        ready: Never,
        source: "lighttpd, doc/initscripts.txt; server.systemd-socket-activation; servers/restarts.rs",
        ..UNKNOWN
    },
    KnownServer {
        names: &["nginx"],
        signal: Some(Quit),
        sockets: Told(Argument { sign: "NGINX=", or: &[], write: "sockets = \"nginx\" or \"bind\"" }),
        ready: Never,
        source: "nginx, Controlling nginx; servers/restarts.rs, bind/servers.rs",
        ..UNKNOWN
    },
    KnownServer {
        names: &["node", "nodejs"],
        sockets: Program("server.listen({ fd: 3 })"),
        source: "Node.js, net: server.listen(handle), cluster: how it works; servers/restarts.rs",
        ..UNKNOWN
    },
    KnownServer { names: &["php-fpm"], signal: Some(Quit), source: "php-fpm(8), SIGNALS", ..UNKNOWN },
    KnownServer { names: &["puma"], signal: Some(Term), source: "Puma, docs/signals.md", ..UNKNOWN },
    KnownServer {
        names: &["redis-server"],
        signal: Some(Term),
        sockets: Own,
        source: "bind/servers.rs",
        ..UNKNOWN
    },
    KnownServer { names: &["squid"], signal: Some(Term), source: "Squid, shutdown_lifetime", ..UNKNOWN },
    KnownServer {
        names: &["unbound"],
        signal: Some(Term),
        sockets: File("use-systemd: yes"),
        ready: Yes,
        source: "unbound(8), unbound.conf(5); dns.rs",
        ..UNKNOWN
    },
    KnownServer { names: &["unicorn"], signal: Some(Quit), source: "unicorn, SIGNALS", ..UNKNOWN },
    KnownServer {
        names: &["uvicorn"],
        signal: Some(Term),
        sockets: Told(Argument { sign: "--fd", or: &["UVICORN_"], write: "--fd 3" }),
        ready: Never,
        source: "Uvicorn, Settings; servers/restarts.rs",
        ..UNKNOWN
    },
    KnownServer {
        names: &["uwsgi", "uwsgi-core", "uwsgi_python"],
        signal: Some(Term),
        mode: Some(StopMode::Main),
        sockets: Listed,
        ready: Yes,
        in_order: Some(Argument {
            sign: "gracefully_kill_them_all",
            or: &[
                ".ini",
                ".xml",
                ".yaml",
                ".yml",
                ".json",
                "--ini",
                "--xml",
                "--yaml",
                "--json",
                "--emperor",
                "UWSGI_",
            ],
            write: "--hook-master-start \"unix_signal:15 gracefully_kill_them_all\"",
        }),
        source: "uWSGI, Hooks; Managing the uWSGI server; servers/restarts.rs",
    },
];

/// What is known of the server with this file name.
#[must_use]
pub fn known_server(file: &str) -> Option<&'static KnownServer> {
    let is_version = |rest: &str| rest.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '-'));
    let is = |name: &&str| file.strip_prefix(name).is_some_and(is_version);
    SERVERS.iter().find(|server| server.names.iter().any(is))
}

/// A server that a command runs.
pub(super) struct Launched {
    pub(super) server: &'static KnownServer,
    /// Its own name in the command.
    pub(super) name: String,
    /// Its arguments, and its variables as `NAME=VALUE`.
    words: Vec<String>,
}

impl Launched {
    /// The server that a command runs with these variables, also through `env`, `bundle exec` and Python; `None` if it
    /// is not known, or not certain.
    pub(super) fn find<'a>(
        command: &[String],
        variables: impl IntoIterator<Item = &'a BTreeMap<String, String>>,
    ) -> Option<Self> {
        let mut words: Vec<String> =
            variables.into_iter().flatten().map(|(name, value)| format!("{name}={value}")).collect();
        let mut rest = command;
        loop {
            let (first, arguments) = rest.split_first()?;
            let name = file(first);
            rest = match name {
                "env" => {
                    let set = arguments.iter().take_while(|it| it.contains('=') && !it.starts_with('-'));
                    let set: Vec<String> = set.cloned().collect();
                    let (_, command) = arguments.split_at(set.len());
                    words.extend(set);
                    command
                }
                "bundle" if arguments.first().is_some_and(|it| it == "exec") => &arguments[1..],
                _ if is_python(name) => python(arguments)?,
                _ => {
                    let server = known_server(name)?;
                    words.extend(arguments.iter().cloned());
                    return Some(Self { server, name: name.to_owned(), words });
                }
            };
        }
    }

    /// Whether it surely lacks this.
    pub(super) fn lacks(&self, wanted: Argument) -> bool {
        let is_other = |word: &String| wanted.or.iter().any(|it| word.starts_with(it) || word.ends_with(it));
        !self.words.iter().any(|word| word.contains(wanted.sign) || is_other(word))
    }

    pub(super) fn has(&self, argument: &str) -> bool {
        self.words.iter().any(|word| word == argument)
    }
}

fn file(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

fn is_python(file: &str) -> bool {
    let version = file.strip_prefix("python").or_else(|| file.strip_prefix("pypy"));
    version.is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

/// What Python runs: the module or the script, and its arguments.
fn python(mut arguments: &[String]) -> Option<&[String]> {
    loop {
        let (first, rest) = arguments.split_first()?;
        match first.as_str() {
            "-m" => return Some(rest),
            // Options that take no argument.
            "-u" | "-b" | "-B" | "-E" | "-I" | "-O" | "-OO" | "-s" | "-S" => arguments = rest,
            option if option.starts_with('-') => return None,
            _ => return Some(arguments),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(command: &str) -> Option<Launched> {
        let words: Vec<String> = command.split(' ').map(Into::into).collect();
        Launched::find(&words, [])
    }

    #[test]
    fn a_server_is_found_behind_what_starts_it() {
        for (command, name) in [
            ("/usr/sbin/nginx -g x", "nginx"),
            ("php-fpm8.2", "php-fpm8.2"),
            ("uwsgi_python311 --master", "uwsgi_python311"),
            ("python3 -m uvicorn --fd 3 app:app", "uvicorn"),
            ("/usr/bin/python3.11 -u -B /usr/bin/gunicorn app:app", "gunicorn"),
            ("/usr/bin/env gunicorn app:app", "gunicorn"),
            ("env A=1 B=2 python3 -m hypercorn app:app", "hypercorn"),
            ("bundle exec puma", "puma"),
            ("node server.js", "node"),
            ("python3 -m http.server 3000", "http.server"),
        ] {
            assert_eq!(find(command).map(|it| it.name), Some(name.to_owned()), "{command}");
        }
        for command in [
            "",
            "env",
            "env -i nginx",
            "python3",
            "python3 -c uvicorn",
            "python3 -m",
            "python3 -X dev -m uvicorn",
            "python3 uvicorn.py",
            "sh -c nginx",
            "nginx/x",
            "nginx-light",
            "pythonic nginx",
            "bundle install puma",
        ] {
            assert!(find(command).is_none(), "{command}");
        }
    }

    #[test]
    fn what_it_lacks_is_said_only_if_that_is_sure() {
        let lacks = |command: &str| {
            let launched = find(command).unwrap();
            let Told(argument) = launched.server.sockets else { panic!("{command}") };
            launched.lacks(argument)
        };
        for command in ["uvicorn app:app", "hypercorn --bind 0.0.0.0:80 app", "nginx -c x", "env A=1 nginx"] {
            assert!(lacks(command), "{command}");
        }
        for command in [
            "uvicorn --fd 3 app:app",
            "uvicorn --fd=3 app:app",
            "env UVICORN_FD=3 uvicorn app:app",
            "hypercorn -b fd://3 app",
            "hypercorn -c hypercorn.toml app",
            "env NGINX=3; nginx",
        ] {
            assert!(!lacks(command), "{command}");
        }
        let variables = BTreeMap::from([("NGINX".to_owned(), "3;".to_owned())]);
        let nginx = Launched::find(&["nginx".to_owned()], [&variables]).unwrap();
        let Told(argument) = nginx.server.sockets else { panic!() };
        assert!(!nginx.lacks(argument));
        let uwsgi = |command: &str| {
            let launched = find(command).unwrap();
            launched.lacks(launched.server.in_order.unwrap())
        };
        assert!(
            uwsgi("uwsgi --master") && !uwsgi("uwsgi app.ini") && !uwsgi("uwsgi x:gracefully_kill_them_all")
        );
    }

    #[test]
    fn each_server_has_a_source_and_a_name_of_its_own() {
        for (at, server) in SERVERS.iter().enumerate() {
            assert!(!server.source.is_empty() && !server.names.is_empty());
            for name in server.names {
                assert_eq!(known_server(name), Some(&SERVERS[at]), "{name}");
            }
        }
    }
}
