//! The configuration: a file → validated services. Not: what a running service does with its settings.

mod choices;
mod environment;
mod errors;
mod known;
mod machine;
pub mod process;
mod stop;
mod values;
mod warnings;

pub use choices::{Affinity, Flows, OnCrash, OnStall, WhenBusy, WhenEmpty};
pub use environment::{check_directory, check_program, check_variable};
pub(crate) use errors::{nearest, plain};
pub use machine::Machine;
pub use stop::{StopMode, StopSettings, StopSignal};
pub use values::{Overload, Ready, duration};
pub use warnings::warnings;

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::domain::listener::{Listener, Protocol};
use crate::printable;
use environment::{Id, Nice, Umask};
use errors::located;
use process::{Cpus, ProcessConfig};
use values::{Idle, Limit, Patience, Span};

/// Most workers of one service: half of the slots, so that all can have a successor at once.
pub const MAX_WORKERS: usize = 1024;

/// Largest weight of a worker; the smallest is 0, which means no new flows.
pub const MAX_WEIGHT: u32 = 1_000_000;

/// Most listeners of one service; each costs every worker a socket.
pub const MAX_LISTENERS: usize = 64;

/// An invalid configuration: what is wrong, where, and what to write instead. The command ends with exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// One validated service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceConfig {
    /// Name of the service; workers are `name/0`, `name/1`, …
    pub name: String,
    /// Listeners; workers get their sockets in this order.
    pub listen: Vec<Listener>,
    /// Program and arguments of a worker; empty if workers are embedded or only join.
    pub command: Vec<String>,
    /// Workers are embedded ones, without a command.
    pub embedded: bool,
    /// Number of workers that the daemon starts; further ones may join.
    pub workers: usize,
    /// What a decision is made from.
    pub affinity: Affinity,
    /// When a worker counts as ready.
    pub ready: Ready,
    /// What happens to the buckets of a worker that crashed.
    pub on_crash: OnCrash,
    /// What happens to the process of a worker that stalls again and again.
    #[serde(default)]
    pub on_stall: OnStall,
    /// Longest time until a worker is ready: after it, a successor is given up, and commands that wait say what a
    /// worker lacks.
    #[serde(default = "start_timeout")]
    pub start_timeout: Duration,
    /// How long a crashed worker keeps its buckets.
    pub hold_timeout: Duration,
    /// Longest time until a leaving worker is told to end, and again until SIGKILL.
    pub drain_timeout: Duration,
    /// How a worker is told to end.
    #[serde(default)]
    pub stop: StopSettings,
    /// How long a UDP flow without a packet stays with its worker.
    #[serde(default = "idle_timeout")]
    pub idle_timeout: Duration,
    /// How long a worker may accept nothing from a TCP queue that is not empty; `None`: for ever.
    pub stall_timeout: Option<Duration>,
    /// When a TCP worker's queue is too deep; `None`: never.
    pub overload: Option<Overload>,
    /// Longest time between two `WATCHDOG=1` of a worker; `None`: none are expected.
    pub watchdog: Option<Duration>,
    /// What happens to new connections while no worker is ready.
    pub when_empty: WhenEmpty,
    /// What happens to new TCP connections whose worker is busy.
    #[serde(default)]
    pub when_busy: WhenBusy,
    /// What is known of UDP flows.
    #[serde(default)]
    pub flows: Flows,
    /// Accept queue of each TCP socket, in connections; the kernel caps it at net.core.somaxconn.
    pub backlog: u32,
    /// The user of workers, a name or a number; `None`: the daemon's.
    pub user: Option<String>,
    /// What a worker's process is started with besides its command.
    #[serde(default)]
    pub process: ProcessConfig,
}

impl ServiceConfig {
    /// A service with the default of every setting.
    #[must_use]
    pub fn new(name: &str, listen: Vec<Listener>, workers: usize) -> Self {
        Self {
            name: name.into(),
            listen,
            command: Vec::new(),
            embedded: false,
            workers,
            affinity: Affinity::default(),
            ready: Ready::default(),
            on_crash: OnCrash::default(),
            on_stall: OnStall::default(),
            start_timeout: start_timeout(),
            hold_timeout: Duration::from_secs(2),
            drain_timeout: Duration::from_secs(30),
            stop: StopSettings::default(),
            idle_timeout: idle_timeout(),
            stall_timeout: Some(Duration::from_secs(1)),
            overload: Some(Overload::default()),
            watchdog: None,
            when_empty: WhenEmpty::default(),
            when_busy: WhenBusy::default(),
            flows: Flows::default(),
            backlog: 4096,
            user: None,
            process: ProcessConfig::default(),
        }
    }

    /// The service of `reuseport-lb run` without options.
    #[must_use]
    pub fn demo() -> Self {
        let both = |protocol| {
            [([127, 0, 0, 1], 8080).into(), ([0, 0, 0, 0, 0, 0, 0, 1], 8080).into()]
                .map(|address| Listener { protocol, address })
        };
        let listen = [both(Protocol::Tcp), both(Protocol::Udp)].concat();
        Self { embedded: true, ..Self::new("demo", listen, 4) }
    }

    /// The demo service, without its IPv6 addresses if the machine has no IPv6.
    #[must_use]
    pub fn demo_here(has_ipv6: bool) -> Self {
        let mut demo = Self::demo();
        demo.listen.retain(|listener| has_ipv6 || listener.address.is_ipv4());
        demo
    }

    /// Checks what depends on more than one key.
    pub fn validate(&self) -> Result<(), String> {
        check_name(&self.name)?;
        check_workers(self.workers)?;
        if self.listen.is_empty() {
            return Err(format!(
                "service {:?} listens on nothing: give it `listen = [\"tcp://…\"]`",
                self.name
            ));
        }
        if self.listen.len() > MAX_LISTENERS {
            return Err(format!(
                "service {:?} has {} listeners; the most is {MAX_LISTENERS}",
                self.name,
                self.listen.len()
            ));
        }
        Ok(())
    }
}

/// Default of a new service, and of one that an older daemon has saved without this setting.
fn idle_timeout() -> Duration {
    Duration::from_secs(60)
}

/// Default of a new service, and of one that an older daemon has saved without this setting.
fn start_timeout() -> Duration {
    Duration::from_secs(30)
}

/// Fails if a service cannot have so many workers.
pub fn check_workers(workers: usize) -> Result<(), String> {
    if workers > MAX_WORKERS {
        return Err(format!("{workers} workers are too many: a service has at most {MAX_WORKERS}"));
    }
    Ok(())
}

/// Fails if a weight is too large.
pub fn check_weight(weight: u32) -> Result<(), String> {
    if weight > MAX_WEIGHT {
        return Err(format!("weight {weight} is too large: the most is {MAX_WEIGHT}"));
    }
    Ok(())
}

pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) || name.starts_with('.') {
        return Err(format!(
            "{name:?} is not a name: use 1 to 64 letters, digits, '-', '_' and '.', not '.' at the start"
        ));
    }
    Ok(())
}

/// Reads and validates the configuration file of `machine`.
pub fn read(path: &Path, machine: Machine) -> Result<Vec<ServiceConfig>, Invalid> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Invalid(format!("cannot read {}: {error}", printable::path(path))))?;
    parse(&text, machine).map_err(|Invalid(error)| Invalid(format!("{}: {error}", printable::path(path))))
}

/// Validates the text of a configuration of `machine`.
pub fn parse(text: &str, machine: Machine) -> Result<Vec<ServiceConfig>, Invalid> {
    let file: File = toml::from_str(text).map_err(|error| Invalid(errors::explain(text, &error)))?;
    let mut services = Vec::new();
    let mut names = HashMap::new();
    let mut addresses: HashMap<Listener, String> = HashMap::new();
    for written in file.service {
        let at = |span: std::ops::Range<usize>, message: &str| Invalid(located(text, Some(span), message));
        let whole = written.span();
        let (service, spans) = written.into_inner().validated(text, machine)?;
        service.validate().map_err(|error| {
            let span = if error.contains("workers") { spans.workers.clone() } else { None };
            at(span.unwrap_or_else(|| spans.name.clone()), &error)
        })?;
        if names.insert(service.name.clone(), ()).is_some() {
            return Err(at(
                spans.name,
                &format!("there are two services {:?}; names must differ", service.name),
            ));
        }
        for (listener, span) in service.listen.iter().zip(spans.listen) {
            if let Some(other) = addresses.insert(*listener, service.name.clone())
                && listener.address.port() != 0
            {
                let message = if other == service.name {
                    format!("{listener} is listed twice")
                } else {
                    format!("{listener} belongs to service {other:?} already; one address has one service")
                };
                return Err(at(span, &message));
            }
        }
        let _ = whole;
        services.push(service);
    }
    if services.is_empty() {
        return Err(Invalid("there is no service in it; add one that starts with [[service]]".into()));
    }
    Ok(services)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    service: Vec<Spanned<Written>>,
}

/// A service as it is written in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: Spanned<String>,
    listen: Spanned<Vec<Spanned<String>>>,
    command: Option<Spanned<Vec<String>>>,
    workers: Option<Spanned<usize>>,
    #[serde(default)]
    affinity: Affinity,
    #[serde(default)]
    ready: Ready,
    #[serde(default)]
    on_crash: OnCrash,
    #[serde(default)]
    on_stall: OnStall,
    start_timeout: Option<Span>,
    hold_timeout: Option<Span>,
    drain_timeout: Option<Span>,
    stop_signal: Option<Spanned<StopSignal>>,
    stop_mode: Option<Spanned<StopMode>>,
    #[serde(default)]
    when_empty: WhenEmpty,
    when_busy: Option<Spanned<WhenBusy>>,
    flows: Option<Spanned<Flows>>,
    backlog: Option<NonZeroU32>,
    user: Option<Spanned<Id>>,
    group: Option<Spanned<Id>>,
    env: Option<BTreeMap<Spanned<String>, String>>,
    env_file: Option<Spanned<String>>,
    cwd: Option<Spanned<String>>,
    umask: Option<Spanned<Umask>>,
    nice: Option<Spanned<Nice>>,
    open_files: Option<Spanned<u32>>,
    cpus: Option<Spanned<Cpus>>,
    stall_timeout: Option<Patience>,
    overload: Option<Limit>,
    watchdog: Option<Patience>,
    idle_timeout: Option<Idle>,
}

/// Positions of keys whose values are checked together.
struct Spans {
    name: std::ops::Range<usize>,
    listen: Vec<std::ops::Range<usize>>,
    workers: Option<std::ops::Range<usize>>,
}

impl Written {
    fn validated(self, text: &str, machine: Machine) -> Result<(ServiceConfig, Spans), Invalid> {
        let at = |span: std::ops::Range<usize>, message: String| Invalid(located(text, Some(span), &message));
        let mut listen = Vec::new();
        let mut spans = Spans {
            name: self.name.span(),
            listen: Vec::new(),
            workers: self.workers.as_ref().map(Spanned::span),
        };
        for url in self.listen.into_inner() {
            let span = url.span();
            listen.push(url.into_inner().parse().map_err(|error| at(span.clone(), error))?);
            spans.listen.push(span);
        }
        // Without a command all workers join, unless the file asks for embedded ones.
        let workers = self.workers.map_or(usize::from(self.command.is_some()), Spanned::into_inner);
        let mut service = ServiceConfig::new(self.name.get_ref(), listen, workers);
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
        service.stop = StopSettings::validated(self.stop_signal, self.stop_mode, service.embedded)
            .map_err(|(span, error)| at(span, error))?;
        service.affinity = self.affinity;
        service.ready = self.ready;
        service.on_crash = self.on_crash;
        service.on_stall = self.on_stall;
        service.start_timeout = self.start_timeout.map_or(service.start_timeout, |span| span.0);
        service.when_empty = self.when_empty;
        if let Some(when_busy) = self.when_busy {
            if service.listen.iter().all(|listener| listener.protocol != Protocol::Tcp) {
                let message = "`when_busy` is about TCP connections, and this service has no tcp:// listener";
                return Err(at(when_busy.span(), message.into()));
            }
            service.when_busy = when_busy.into_inner();
        }
        if let Some(flows) = self.flows {
            if service.listen.iter().all(|listener| listener.protocol != Protocol::Udp) {
                let message = "`flows` is about UDP, and this service has no udp:// listener";
                return Err(at(flows.span(), message.into()));
            }
            service.flows = flows.into_inner();
        }
        service.hold_timeout = self.hold_timeout.map_or(service.hold_timeout, |span| span.0);
        service.drain_timeout = self.drain_timeout.map_or(service.drain_timeout, |span| span.0);
        service.idle_timeout = self.idle_timeout.map_or(service.idle_timeout, |idle| idle.0);
        service.stall_timeout = self.stall_timeout.map_or(service.stall_timeout, |patience| patience.0);
        service.overload = self.overload.map_or(service.overload, |limit| limit.0);
        service.watchdog = self.watchdog.map_or(service.watchdog, |patience| patience.0);
        service.backlog = self.backlog.map_or(service.backlog, NonZeroU32::get);
        Ok((service, spans))
    }
}

#[cfg(test)]
mod tests;
