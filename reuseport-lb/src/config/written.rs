//! A service as it is written in a file, and what it means. Not: what is valid of a single value (`values.rs`,
//! `environment.rs`).

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use serde::Deserialize;
use toml::Spanned;

use super::adopt;
use super::choices::{
    Affinity, Balance, DrainUntil, Flows, OnCrash, OnStall, Replace, SocketOwner, SocketSource, WhenBusy,
    WhenEmpty,
};
use super::connections;
use super::environment::{self, Id, Nice, Umask};
use super::errors::{Invalid, located};
use super::listen::ListenerConfig;
use super::log::Log;
use super::machine::Machine;
use super::process::Cpus;
use super::quic;
use super::service::ServiceConfig;
use super::stop::{StopMode, StopSettings, StopSignal};
use super::values::{Idle, Limit, Patience, Ready, Span};
use crate::domain::listener::Protocol;

/// A service as it is written in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    name: Spanned<String>,
    listen: Spanned<Vec<Spanned<ListenerConfig>>>,
    command: Option<Spanned<Vec<String>>>,
    workers: Option<Spanned<usize>>,
    affinity: Option<Spanned<Affinity>>,
    ready: Option<Spanned<Ready>>,
    on_crash: Option<Spanned<OnCrash>>,
    on_stall: Option<Spanned<OnStall>>,
    replace: Option<Spanned<Replace>>,
    start_timeout: Option<Spanned<Span>>,
    hold_timeout: Option<Spanned<Span>>,
    drain_timeout: Option<Span>,
    stop_signal: Option<Spanned<StopSignal>>,
    stop_mode: Option<Spanned<StopMode>>,
    lame_duck: Option<Span>,
    when_empty: Option<Spanned<WhenEmpty>>,
    when_busy: Option<Spanned<WhenBusy>>,
    flows: Option<Spanned<Flows>>,
    quic: Option<Spanned<quic::Written>>,
    count_connections: Option<Spanned<bool>>,
    drain_until: Option<Spanned<DrainUntil>>,
    balance: Option<Spanned<Balance>>,
    backlog: Option<Spanned<NonZeroU32>>,
    user: Option<Spanned<Id>>,
    group: Option<Spanned<Id>>,
    sockets: Option<Spanned<SocketSource>>,
    socket_owner: Option<Spanned<SocketOwner>>,
    adopt: Option<Spanned<adopt::Written>>,
    join: Option<Spanned<Vec<Spanned<Id>>>>,
    env: Option<BTreeMap<Spanned<String>, String>>,
    env_file: Option<Spanned<String>>,
    cwd: Option<Spanned<String>>,
    umask: Option<Spanned<Umask>>,
    nice: Option<Spanned<Nice>>,
    open_files: Option<Spanned<u32>>,
    cpus: Option<Spanned<Cpus>>,
    log: Option<Spanned<Log>>,
    stall_timeout: Option<Patience>,
    overload: Option<Limit>,
    watchdog: Option<Spanned<Patience>>,
    idle_timeout: Option<Idle>,
}

/// Positions of keys whose values are checked together.
pub(super) struct Spans {
    pub(super) name: std::ops::Range<usize>,
    pub(super) listen: Vec<std::ops::Range<usize>>,
    pub(super) workers: Option<std::ops::Range<usize>>,
    pub(super) affinity: Option<std::ops::Range<usize>>,
    pub(super) sockets: Option<std::ops::Range<usize>>,
    pub(super) socket_owner: Option<std::ops::Range<usize>>,
}

impl Written {
    /// The keys that a service with `adopt` cannot keep.
    fn excluded(&self) -> [(&'static str, Option<std::ops::Range<usize>>); 24] {
        fn at<T>(value: &Option<Spanned<T>>) -> Option<std::ops::Range<usize>> {
            value.as_ref().map(Spanned::span)
        }
        let env = self.env.as_ref().map(|env| env.keys().next().map_or(self.name.span(), Spanned::span));
        [
            ("command", at(&self.command)),
            ("workers", at(&self.workers)),
            ("ready", at(&self.ready)),
            ("on_crash", at(&self.on_crash)),
            ("on_stall", at(&self.on_stall)),
            ("replace", at(&self.replace)),
            ("start_timeout", at(&self.start_timeout)),
            ("hold_timeout", at(&self.hold_timeout)),
            ("stop_signal", at(&self.stop_signal)),
            ("stop_mode", at(&self.stop_mode)),
            ("when_empty", at(&self.when_empty)),
            ("backlog", at(&self.backlog)),
            ("user", at(&self.user)),
            ("group", at(&self.group)),
            ("sockets", at(&self.sockets)),
            ("socket_owner", at(&self.socket_owner)),
            ("join", at(&self.join)),
            ("env", env),
            ("env_file", at(&self.env_file)),
            ("cwd", at(&self.cwd)),
            ("umask", at(&self.umask)),
            ("nice", at(&self.nice)),
            ("log", at(&self.log)),
            ("watchdog", at(&self.watchdog)),
        ]
    }

    pub(super) fn validated(self, text: &str, machine: Machine) -> Result<(ServiceConfig, Spans), Invalid> {
        let at = |span: std::ops::Range<usize>, message: String| Invalid(located(text, Some(span), &message));
        if self.adopt.is_some() {
            adopt::exclude(self.excluded()).map_err(|(span, error)| at(span, error))?;
        }
        let mut listen = Vec::new();
        let mut spans = Spans {
            name: self.name.span(),
            listen: Vec::new(),
            workers: self.workers.as_ref().map(Spanned::span),
            affinity: self.affinity.as_ref().map(Spanned::span),
            sockets: self.sockets.as_ref().map(Spanned::span),
            socket_owner: self.socket_owner.as_ref().map(Spanned::span),
        };
        for url in self.listen.into_inner() {
            let span = url.span();
            listen.push(url.into_inner());
            spans.listen.push(span);
        }
        // Without a command all workers join, unless the file asks for embedded ones.
        let workers = self.workers.map_or(usize::from(self.command.is_some()), Spanned::into_inner);
        let mut service = ServiceConfig::new(self.name.get_ref(), Vec::new(), workers);
        service.listen = listen;
        service.embedded = self.command.is_none() && workers > 0;
        if let Some(command) = self.command {
            let span = command.span();
            service.command = command.into_inner();
            if service.command.first().is_none_or(String::is_empty) {
                return Err(at(span, "`command` is empty: give a program, or leave the key out".into()));
            }
            environment::check_program(&service.command[0]).map_err(|error| at(span, error))?;
        }
        if let Some(user) = self.user {
            let span = user.span();
            let Id(user) = user.into_inner();
            (machine.user)(&user).map_err(|error| at(span, error))?;
            service.user = Some(user);
        }
        service.socket_owner = self.socket_owner.map(Spanned::into_inner).unwrap_or_default();
        if let Some(join) = self.join {
            let user = |id: Spanned<Id>| {
                let span = id.span();
                let Id(user) = id.into_inner();
                (machine.user)(&user).map(|()| user).map_err(|error| at(span, error))
            };
            service.join = Some(join.into_inner().into_iter().map(user).collect::<Result<_, _>>()?);
        }
        let process = environment::Written {
            has_command: !service.command.is_empty(),
            has_user: service.user.is_some(),
            sockets: service.listen.len(),
            env: self.env,
            env_file: self.env_file,
            cwd: self.cwd,
            umask: self.umask,
            nice: self.nice,
            open_files: self.open_files,
            cpus: self.cpus,
            group: self.group,
        };
        service.process = process.validated(machine).map_err(|(span, error)| at(span, error))?;
        if let Some(log) = self.log {
            if service.command.is_empty() && !service.embedded {
                let message = "`log` is about workers that are started, and there is neither a `command` nor an embedded worker";
                return Err(at(log.span(), message.into()));
            }
            service.process.log = log.into_inner().0;
        }
        service.stop = StopSettings::validated(self.stop_signal, self.stop_mode, service.embedded)
            .map_err(|(span, error)| at(span, error))?;
        if let Some(affinity) = self.affinity {
            let span = affinity.span();
            let affinity = affinity.into_inner();
            service.affinity = match machine.program {
                Some(file) => affinity.read(file).map_err(|error| at(span, error))?,
                None => affinity,
            };
        }
        service.sockets = self.sockets.map(Spanned::into_inner).unwrap_or_default();
        if let Some(adopt) = self.adopt {
            let span = adopt.span();
            service.adopt = Some(adopt.into_inner().validated().map_err(|error| at(span, error))?);
        }
        service.ready = self.ready.map_or_else(|| service.default_ready(), Spanned::into_inner);
        service.on_crash = self.on_crash.map(Spanned::into_inner).unwrap_or_default();
        service.on_stall = self.on_stall.map(Spanned::into_inner).unwrap_or_default();
        service.replace = self.replace.map(Spanned::into_inner).unwrap_or_default();
        let or = |span: Option<Spanned<Span>>, default| span.map_or(default, |span| span.into_inner().0);
        service.start_timeout = or(self.start_timeout, service.start_timeout);
        service.when_empty = self.when_empty.map(Spanned::into_inner).unwrap_or_default();
        if let Some(when_busy) = self.when_busy {
            let about = "`when_busy` is about TCP connections";
            require(&service, Protocol::Tcp, about).map_err(|error| at(when_busy.span(), error))?;
            service.when_busy = when_busy.into_inner();
        }
        let connections = connections::Written {
            count: self.count_connections,
            drain_until: self.drain_until,
            balance: self.balance,
        };
        if let Some(span) = connections.span() {
            let about = "`count_connections`, `drain_until` and `balance` are about TCP connections";
            require(&service, Protocol::Tcp, about).map_err(|error| at(span, error))?;
        }
        service.connections =
            connections.validated(service.when_busy).map_err(|(span, error)| at(span, error))?;
        if let Some(flows) = self.flows {
            require(&service, Protocol::Udp, "`flows` is about UDP")
                .map_err(|error| at(flows.span(), error))?;
            service.flows = flows.into_inner();
        }
        if let Some(quic) = self.quic {
            let span = quic.span();
            let given = service.sockets != SocketSource::Bind && service.adopt.is_none();
            service.quic = Some(quic.into_inner().0);
            require(&service, Protocol::Udp, "`quic` is about UDP")
                .and_then(|()| quic::check(service.flows, &service.affinity, given))
                .map_err(|error| at(span, error))?;
        }
        service.hold_timeout = or(self.hold_timeout, service.hold_timeout);
        service.drain_timeout = self.drain_timeout.map_or(service.drain_timeout, |span| span.0);
        service.lame_duck = self.lame_duck.map_or(service.lame_duck, |span| span.0);
        service.idle_timeout = self.idle_timeout.map_or(service.idle_timeout, |idle| idle.0);
        service.stall_timeout = self.stall_timeout.map_or(service.stall_timeout, |patience| patience.0);
        service.overload = self.overload.map_or(service.overload, |limit| limit.0);
        service.watchdog = self.watchdog.map_or(service.watchdog, |patience| patience.into_inner().0);
        service.backlog = self.backlog.map_or(service.backlog, |backlog| backlog.into_inner().get());
        Ok((service, spans))
    }
}

/// Fails unless the service has a listener of this protocol, which a key is `about`.
fn require(service: &ServiceConfig, protocol: Protocol, about: &str) -> Result<(), String> {
    match service.listeners().any(|listener| listener.protocol == protocol) {
        true => Ok(()),
        false => Err(format!("{about}, and this service has no {protocol}:// listener")),
    }
}
