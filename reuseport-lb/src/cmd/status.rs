//! `status`: what happens, for people or as JSON.

use anyhow::{Result, bail};

use super::client::Client;
use super::names;
use super::print::{print, print_json};
use crate::cli;
use crate::daemon::Paths;
use crate::status;

pub(super) fn run(arguments: &cli::Status, paths: &Paths) -> Result<()> {
    let client = Client::new(paths)?;
    let only = arguments.what.as_deref().filter(|what| names::worker(what).is_ok());
    let mut status = match (arguments.what.as_deref(), only) {
        (_, Some(name)) => client.status(Some(names::worker(name)?.0))?,
        (Some(service), None) => client.status(Some(names::service(service, "status")?))?,
        (None, None) => client.status(None)?,
    };
    if let Some(name) = only {
        let workers = status.services.iter().flat_map(|service| &service.workers);
        let known: Vec<&str> = workers.map(|worker| worker.name.as_str()).collect();
        if !known.contains(&name) {
            let known = if known.is_empty() { "nobody".into() } else { known.join(", ") };
            bail!("there is no worker {name}; there is {known}");
        }
    }
    if arguments.json {
        let shown = |worker: &status::Worker| only.is_none_or(|only| only == worker.name);
        status.services.iter_mut().for_each(|service| service.workers.retain(shown));
        return print_json(&serde_json::to_string_pretty(&status)?);
    }
    print(&status::render(&status, only))
}
