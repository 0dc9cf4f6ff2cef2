//! `run`: runs the daemon in the foreground.

use anyhow::Result;
use tracing::warn;

use crate::cli;
use crate::config::adopt::Adoption;
use crate::config::{self, AnswersConfig, Configuration, Invalid, ServiceConfig, StopSettings};
use crate::daemon::{self, Overruling, Paths, Source};
use crate::kernel::{host, socket};

pub(super) fn run(arguments: cli::RunArgs, paths: &Paths) -> Result<()> {
    if let Some(group) = &arguments.monitors {
        host::find_group(group).map_err(|error| Invalid(format!("--monitors: {error}")))?;
    }
    let overruling = Overruling {
        http: arguments.http.clone(),
        agent: arguments.agent,
        monitors: arguments.monitors.clone(),
        log_format: arguments.log_format,
    };
    let source = match &arguments.config {
        Some(file) => Source::File { path: std::path::absolute(file)?, overruling },
        None => {
            let services = vec![service(arguments).map_err(Invalid)?];
            let Overruling { http, agent, monitors, log_format } = overruling;
            let answers = AnswersConfig { http, agent, monitors, ..AnswersConfig::default() };
            let log_format = log_format.unwrap_or_default();
            Source::Arguments(Box::new(Configuration { services, answers, log_format }))
        }
    };
    daemon::run(&source, paths)
}

/// The service of the command line.
fn service(arguments: cli::RunArgs) -> Result<ServiceConfig, String> {
    let has_ipv6 = socket::has_ipv6();
    if arguments.listen.is_empty() && !has_ipv6 {
        warn!("IPv6 is off on this machine: listening on IPv4 only");
    }
    let mut service = ServiceConfig::demo_here(has_ipv6);
    service.name = arguments.name;
    service.workers = arguments.workers;
    for user in &arguments.join {
        host::find_user(user).map_err(|error| format!("--join: {error}"))?;
    }
    service.join = Some(arguments.join).filter(|join| !join.is_empty());
    service.lame_duck = arguments.lame_duck;
    service.process.log = arguments.log;
    if let Some(whose) = arguments.adopt {
        config::adopt::check(&whose)?;
        (service.workers, service.embedded) = (0, false);
        service.adopt = Some(Adoption { whose, replace_program: false, by_command: false });
        service.ready = service.default_ready();
    }
    if !arguments.command.is_empty() {
        service.command = arguments.command;
        service.embedded = false;
        service.sockets = arguments.sockets;
        service.ready = arguments.ready.unwrap_or_else(|| service.default_ready());
        service.stop = StopSettings { signal: arguments.stop_signal, mode: arguments.stop_mode };
        service.replace = arguments.replace;
        if let Some(user) = &arguments.user {
            host::find_user(user).map_err(|error| format!("--user: {error}"))?;
        }
        if let Some(group) = &arguments.group {
            host::find_group(group).map_err(|error| format!("--group: {error}"))?;
        }
        config::check_program(&service.command[0])?;
        service.user = arguments.user;
        service.socket_owner = arguments.socket_owner;
        service.process.group = arguments.group;
        service.process.env = arguments.env.into_iter().collect();
        service.process.cwd = arguments.cwd;
    }
    if !arguments.listen.is_empty() {
        service.listen = arguments.listen.into_iter().map(Into::into).collect();
    }
    service.validate()?;
    config::check_listeners(&service)?;
    Ok(service)
}
