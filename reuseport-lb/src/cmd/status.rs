//! `status`: prints the status as tables or as JSON.

use anyhow::{Result, bail};
use reuseport_lb_client::api::{Refusal, WorkerStatus};

use super::client::client;
use super::names;
use super::print::{print, print_json};
use crate::cli;
use crate::daemon::Paths;

pub(super) fn run(arguments: &cli::StatusArgs, paths: &Paths) -> Result<()> {
    let client = client(paths);
    let only = arguments.what.as_deref().filter(|what| names::worker(what).is_ok());
    let mut status = match (arguments.what.as_deref(), only) {
        (_, Some(name)) => client.status_of(names::worker(name)?.0)?,
        (Some(service), None) => client.status_of(names::service(service, "status")?)?,
        (None, None) => client.status()?,
    };
    if let Some(name) = only {
        let workers = status.services.iter().flat_map(|service| &service.workers);
        let known: Vec<&str> = workers.map(|worker| worker.name.as_str()).collect();
        if !known.contains(&name) {
            bail!(Refusal::unknown_worker(name, known));
        }
    }
    if arguments.json {
        let shown = |worker: &WorkerStatus| only.is_none_or(|only| only == worker.name);
        status.services.iter_mut().for_each(|service| service.workers.retain(shown));
        return print_json(&serde_json::to_string_pretty(&status)?);
    }
    print(&super::render::status(&status, only))
}
