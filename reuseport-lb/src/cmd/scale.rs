//! `scale`: another number of workers, and waiting for it.

use std::time::Duration;

use anyhow::{Result, bail};

use super::client::Client;
use crate::daemon::Paths;
use crate::service::Scaled;
use crate::{cli, config, control, status};

const LOOK: Duration = Duration::from_millis(20);

pub(super) fn run(arguments: &cli::Scale, paths: &Paths) -> Result<()> {
    config::check_workers(arguments.workers).map_err(config::Invalid)?;
    let client = Client::new(paths)?;
    let service = &arguments.service;
    let before = find(client.status(Some(service))?)?;
    let wanted = control::Scale { workers: arguments.workers };
    let scaled: Scaled = client.post(&format!("/v1/services/{service}/scale"), &wanted)?;
    if arguments.no_wait {
        return super::print(&format!("{service}: {} → {} workers begun\n", scaled.before, scaled.after));
    }
    loop {
        let now = find(client.status(Some(service))?)?;
        let settled =
            |worker: &status::Worker| worker.state == "ready" && (worker.buckets > 0 || worker.weight == 0);
        if now.workers.len() == scaled.after && now.workers.iter().all(settled) {
            let moved = now.moved - before.moved;
            let line = format!(
                "{service}: {} → {} workers, {moved} of 65536 buckets moved\n",
                scaled.before, scaled.after
            );
            return super::print(&line);
        }
        let known = |name: &str| before.workers.iter().any(|worker| worker.name == name);
        if let Some(worker) =
            now.workers.iter().find(|worker| worker.state == "failed" && !known(&worker.name))
        {
            bail!(
                "worker {} ends before it is ready, again and again; the daemon's log says how",
                worker.name
            );
        }
        std::thread::sleep(LOOK);
    }
}

fn find(status: status::Status) -> Result<status::Service> {
    match status.services.into_iter().next() {
        Some(service) => Ok(service),
        None => bail!("the daemon does not know the service any more"),
    }
}
