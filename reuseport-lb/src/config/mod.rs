//! The configuration: a file → validated settings. Not: what a running service does with its own.

pub mod adopt;
mod agent;
mod choices;
mod connections;
mod environment;
mod errors;
mod http;
mod key_function;
mod known;
mod listen;
mod log;
mod machine;
pub mod process;
mod quic;
mod quoted;
mod service;
pub mod settings;
mod stop;
mod values;
mod warnings;
mod written;

pub use agent::agent;
pub use choices::{
    Affinity, Balance, DrainUntil, Flows, KeyFunction, LogFormat, OnCrash, OnStall, PayloadBytes, Replace,
    SocketOwner, SocketSource, WhenBusy, WhenEmpty,
};
pub use connections::ConnectionSettings;
pub use environment::{check_directory, check_program, check_variable};
pub use errors::Invalid;
pub(crate) use errors::{nearest, plain};
pub use http::{HttpAddress, MetricsConfig};
pub use known::{KnownServer, SaysReady, TakesSockets, known_server};
pub use listen::ListenerConfig;
pub use log::{log, written as size};
pub use machine::Machine;
pub use quic::QuicRouting;
pub(crate) use service::check_name;
pub use service::{MAX_LISTENERS, MAX_WEIGHT, MAX_WORKERS, ServiceConfig, check_weight, check_workers};
pub use stop::{StopMode, StopSettings, StopSignal};
pub use values::{Overload, Ready, duration};
pub use warnings::warnings;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use crate::domain::listener::Listener;
use crate::printable;
use environment::Id;
use errors::located;
use written::Written;

/// A whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Configuration {
    /// All services; at least one.
    pub services: Vec<ServiceConfig>,
    /// What the daemon answers to others than its administrators.
    pub answers: AnswersConfig,
    /// How the daemon's log looks.
    pub log_format: LogFormat,
}

/// Where the daemon answers programs that watch it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswersConfig {
    /// Over HTTP; `None`: nowhere.
    pub http: Option<HttpAddress>,
    /// Which series `/metrics` has there.
    pub metrics: MetricsConfig,
    /// Agent checks of HAProxy; `None`: nowhere.
    pub agent: Option<SocketAddr>,
    /// The group whose members may ask at the control socket what changes nothing, by name or number; `None`: nobody but
    /// root and the daemon's user.
    pub monitors: Option<String>,
}

/// Reads and validates the configuration file of `machine`.
pub fn read(path: &Path, machine: Machine) -> Result<Configuration, Invalid> {
    read_with(path, machine, |_| {})
}

/// Like [`read`]; tells what the file says about `log_format` before anything can be wrong with the rest of it.
pub fn read_with(
    path: &Path,
    machine: Machine,
    format: impl FnOnce(LogFormat),
) -> Result<Configuration, Invalid> {
    #[derive(Deserialize)]
    struct Format {
        log_format: LogFormat,
    }
    let text = std::fs::read_to_string(path)
        .map_err(|error| Invalid(format!("cannot read {}: {error}", printable::path(path))))?;
    if let Ok(Format { log_format }) = toml::from_str(&text) {
        format(log_format);
    }
    parse(&text, machine).map_err(|Invalid(error)| Invalid(format!("{}: {error}", printable::path(path))))
}

/// Validates the text of a configuration of `machine`.
pub fn parse(text: &str, machine: Machine) -> Result<Configuration, Invalid> {
    let file: File = toml::from_str(text).map_err(|error| Invalid(errors::explain(text, &error)))?;
    let mut services = Vec::new();
    let mut names = HashMap::new();
    let mut addresses: Vec<(Listener, String)> = Vec::new();
    for written in file.service {
        let at = |span: std::ops::Range<usize>, message: &str| Invalid(located(text, Some(span), message));
        let (service, spans) = written.validated(text, machine)?;
        service.validate().map_err(|error| {
            let span = match &error {
                it if it.contains("socket_owner") => spans.socket_owner.clone(),
                it if it.contains("`affinity = ") => spans.affinity.clone(),
                it if it.contains("sockets = ") => spans.sockets.clone(),
                it if it.contains("workers") => spans.workers.clone(),
                _ => None,
            };
            at(span.unwrap_or_else(|| spans.name.clone()), &error)
        })?;
        if names.insert(service.name.clone(), ()).is_some() {
            return Err(at(
                spans.name,
                &format!("there are two services {:?}; names must differ", service.name),
            ));
        }
        for (listener, span) in service.listeners().zip(spans.listen) {
            if let Some((other, owner)) = addresses.iter().find(|(other, _)| other.collides_with(listener)) {
                let message = if other != listener {
                    collision(listener, other)
                } else if *owner == service.name {
                    format!("{listener} is listed twice")
                } else {
                    format!("{listener} belongs to service {owner:?} already; one address has one service")
                };
                return Err(at(span, &message));
            }
            addresses.push((*listener, service.name.clone()));
        }
        services.push(service);
    }
    if services.is_empty() {
        return Err(Invalid("there is no service in it; add one that starts with [[service]]".into()));
    }
    let metrics = file.http.as_ref().map(http::Written::metrics).unwrap_or_default();
    let http = file.http.map(|written| written.validated(text, machine)).transpose()?;
    let monitors = file.monitors.map(|group| {
        let (span, Id(name)) = (group.span(), group.into_inner());
        (machine.group)(&name).map_err(|error| Invalid(located(text, Some(span), &error)))?;
        Ok(name)
    });
    let agent = file.agent.map(|written| written.validated(text)).transpose()?;
    Ok(Configuration {
        services,
        answers: AnswersConfig { http, metrics, agent, monitors: monitors.transpose()? },
        log_format: file.log_format,
    })
}

/// Says why `*` and `[::]` of one port do not go together.
fn collision(listener: &Listener, other: &Listener) -> String {
    format!(
        "{listener} and {other} have the same IPv6 addresses, which the kernel would give to the one that is opened \
         first: leave one of them out (* is all addresses of both families)"
    )
}

/// Fails if two of a service's listeners have the same addresses.
pub fn check_listeners(service: &ServiceConfig) -> Result<(), String> {
    let listen: Vec<&Listener> = service.listeners().collect();
    for (at, listener) in listen.iter().enumerate() {
        if let Some(other) =
            listen[..at].iter().find(|other| *other == listener || other.collides_with(listener))
        {
            return Err(match other == listener {
                true => format!("{listener} is listed twice"),
                false => collision(listener, other),
            });
        }
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    service: Vec<Written>,
    http: Option<http::Written>,
    monitors: Option<Spanned<Id>>,
    agent: Option<agent::Written>,
    #[serde(default)]
    log_format: LogFormat,
}

#[cfg(test)]
mod tests;
