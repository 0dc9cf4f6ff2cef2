//! `scale`: another number of workers, and waiting for it.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::client::Client;
use super::names;
use super::print::print;
use crate::api::control;
use crate::cli;
use crate::daemon::Paths;
use crate::service::{Scaled, Target};
use crate::status;

const LOOK: Duration = Duration::from_millis(20);

pub(super) fn run(arguments: &cli::Scale, paths: &Paths) -> Result<()> {
    let service = names::service(&arguments.service, "scale")?;
    let client = Client::new(paths)?;
    let before = find(client.status(Some(service))?)?;
    let wanted = match arguments.workers {
        Target::Exactly(workers) => control::Scale { workers: Some(workers), add: None },
        Target::More(add) => control::Scale { workers: None, add: Some(add) },
    };
    let scaled: Scaled = client.post(&format!("/v1/services/{service}/scale"), &wanted)?;
    if arguments.no_wait {
        return print(&format!("{service}: {} → {} workers begun\n", scaled.before, scaled.after));
    }
    let begun = Instant::now();
    loop {
        let now = find(client.status(Some(service))?)?;
        if now.wanted != scaled.after {
            bail!("somebody else has scaled {service} to {} workers meanwhile", now.wanted);
        }
        // Those that came by themselves do not count.
        let own = || now.workers.iter().filter(|worker| !worker.joined);
        let new = |worker: &&status::Worker| !before.workers.iter().any(|known| known.name == worker.name);
        if own().count() == scaled.after && own().filter(new).all(|worker| worker.member) {
            let moved = now.moved - before.moved;
            return print(&format!(
                "{service}: {} → {} workers, {moved} of 65536 buckets moved\n",
                scaled.before, scaled.after
            ));
        }
        if let Some(worker) = own().filter(new).find(|worker| worker.state == "failed") {
            bail!(
                "worker {} ends before it is ready, again and again; the daemon's log says how",
                worker.name
            );
        }
        let late: Vec<String> = own().filter(new).filter(|it| !it.member).map(missing).collect();
        if begun.elapsed() >= Duration::from_millis(now.start_timeout_ms) && !late.is_empty() {
            bail!(
                "not ready within start_timeout ({:?}): {}; they go on, and get their part when they are ready",
                Duration::from_millis(now.start_timeout_ms),
                late.join(", ")
            );
        }
        std::thread::sleep(LOOK);
    }
}

fn missing(worker: &status::Worker) -> String {
    let lacks = worker.lacks.as_ref().map_or_else(String::new, |lacks| format!(", {lacks}"));
    format!("{} ({}{lacks})", worker.name, worker.state)
}

fn find(status: status::Status) -> Result<status::Service> {
    match status.services.into_iter().next() {
        Some(service) => Ok(service),
        None => bail!("the daemon does not know the service any more"),
    }
}
