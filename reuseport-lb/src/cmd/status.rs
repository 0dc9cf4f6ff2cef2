//! `status`: what happens, for people or as JSON.

use anyhow::{Result, bail};

use super::client::Client;
use crate::daemon::Paths;
use crate::{cli, status};

pub(super) fn run(arguments: &cli::Status, paths: &Paths) -> Result<()> {
    let client = Client::new(paths)?;
    let status = match arguments.what.as_deref() {
        Some(worker) if super::worker(worker).is_ok() => only(&client, worker)?,
        Some(service) => client.status(Some(super::service(service, "status")?))?,
        None => client.status(None)?,
    };
    super::print(&if arguments.json {
        serde_json::to_string_pretty(&status)? + "\n"
    } else {
        status::render(&status)
    })
}

/// The status of one worker, in that of its service.
fn only(client: &Client, name: &str) -> Result<status::Status> {
    let (service, _) = super::worker(name)?;
    let mut status = client.status(Some(service))?;
    for service in &mut status.services {
        let known: Vec<String> = service.workers.iter().map(|worker| worker.name.clone()).collect();
        service.workers.retain(|worker| worker.name == name);
        if service.workers.is_empty() {
            let known = if known.is_empty() { "nobody".into() } else { known.join(", ") };
            bail!("there is no worker {name}; there is {known}");
        }
    }
    Ok(status)
}
