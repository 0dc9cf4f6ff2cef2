//! `run`: the daemon in the foreground.

use anyhow::Result;

use crate::cli;
use crate::config::{self, Invalid, Service};
use crate::daemon::{self, Paths};

pub(super) fn run(arguments: cli::Run, paths: &Paths) -> Result<()> {
    let services = match &arguments.config {
        Some(file) => config::read(file)?,
        None => vec![service(arguments).map_err(Invalid)?],
    };
    daemon::run(services, paths)
}

/// The one service that the command line describes.
fn service(arguments: cli::Run) -> Result<Service, String> {
    let mut service = Service::demo();
    service.name = arguments.name;
    service.workers = arguments.workers;
    if !arguments.command.is_empty() {
        service.command = arguments.command;
        service.ready = arguments.ready;
        if let Some(user) = &arguments.user {
            crate::kernel::host::user(user).map_err(|error| format!("--user: {error:#}"))?;
        }
        service.user = arguments.user;
    }
    if !arguments.listen.is_empty() {
        service.listen = arguments.listen;
    }
    service.validate()?;
    let mut seen = std::collections::HashSet::new();
    if let Some(twice) = service.listen.iter().find(|listener| !seen.insert(**listener)) {
        return Err(format!("{twice} is listed twice"));
    }
    Ok(service)
}
