//! `status`: prints the status as tables or as JSON, once or again and again, or says whether all that is wanted is
//! ready.

use std::io::{IsTerminal, stdout};
use std::time::Instant;

use anyhow::{Result, bail};
use reuseport_lb_client::api::{Refusal, ServiceStatus, Status, WorkerStatus};

use super::client::client;
use super::names;
use super::print::{clear_terminal, print, print_json};
use super::rates::decisions;
use super::render::{self, Rates};
use crate::cli;
use crate::daemon::Paths;

pub(super) fn run(arguments: &cli::StatusArgs, paths: &Paths) -> Result<()> {
    let what = arguments.what.as_deref();
    let only = what.filter(|what| names::worker(what).is_ok());
    let mut status = ask(what, only, paths)?;
    if arguments.check {
        return check(&status, only);
    }
    let Some(pause) = arguments.watch else {
        if arguments.json {
            return print_json(&serde_json::to_string_pretty(&shown(status, only))?);
        }
        return print(&render::status(&status, only, None));
    };
    let (mut rates, mut at) = (Rates::new(), Instant::now());
    let in_place = stdout().is_terminal() && !arguments.json;
    loop {
        if in_place {
            clear_terminal()?;
        }
        if arguments.json {
            print_json(&serde_json::to_string(&shown(status.clone(), only))?)?;
        } else {
            let end = if in_place { "" } else { "\n" };
            print(&(render::status(&status, only, Some(&rates)) + end))?;
        }
        std::thread::sleep(pause);
        let (before, begun) = (status, at);
        (status, at) = (ask(what, only, paths)?, Instant::now());
        rates = rates_between(&before, &status, (at - begun).as_secs_f64());
    }
}

fn ask(what: Option<&str>, only: Option<&str>, paths: &Paths) -> Result<Status> {
    let client = client(paths);
    let status = match (what, only) {
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
    Ok(status)
}

/// The status with `only` this worker.
fn shown(mut status: Status, only: Option<&str>) -> Status {
    let shown = |worker: &WorkerStatus| only.is_none_or(|only| only == worker.name);
    status.services.iter_mut().for_each(|service| service.workers.retain(shown));
    status
}

/// Decisions for each worker per second; of a worker whose slot is another one now, since then.
fn rates_between<'a>(before: &'a Status, now: &'a Status, seconds: f64) -> Rates {
    let workers = |status: &'a Status| {
        status.services.iter().flat_map(|service| &service.workers).filter(|worker| !worker.successor)
    };
    let new = decisions(workers(before), workers(now), |worker| worker.name.clone());
    new.into_iter().map(|(name, new)| (name, new as f64 / seconds)).collect()
}

/// Prints that all that is wanted is ready, or fails with what is not.
fn check(status: &Status, only: Option<&str>) -> Result<()> {
    let wrong: Vec<String> = status.services.iter().flat_map(|service| wrong(service, only)).collect();
    if !wrong.is_empty() {
        bail!("not all that is wanted is ready: {}", wrong.join("; "));
    }
    let ready = |service: &ServiceStatus| match only {
        Some(only) => only.to_owned(),
        None => format!("{} ({} workers)", service.name, service.wanted.max(service.whole_workers().count())),
    };
    let ready: Vec<String> = status.services.iter().map(ready).collect();
    print(&format!("all that is wanted is ready: {}\n", ready.join(", ")))
}

/// What of a service, or of one worker, is not as it is wanted.
fn wrong(service: &ServiceStatus, only: Option<&str>) -> Vec<String> {
    let mut wrong = Vec::new();
    if service.ending {
        wrong.push(format!("{} is ending", service.name));
    }
    if let Some(lacks) = service.not_adopted() {
        wrong.push(format!("{} does not adopt all: {lacks}", service.name));
    }
    let wanted = service.workers.iter().filter(|worker| worker.is_wanted());
    let wanted: Vec<&WorkerStatus> =
        wanted.filter(|worker| only.is_none_or(|only| only == worker.name)).collect();
    for worker in wanted.iter().filter(|worker| worker.state != "ready") {
        let lacks = worker.lacks.as_ref().map(|lacks| format!(" ({lacks})")).unwrap_or_default();
        wrong.push(format!("{} is {}{lacks}", worker.name, worker.state));
    }
    let whole = wanted.iter().filter(|worker| !worker.is_part()).count();
    match only {
        Some(only) if wanted.is_empty() => wrong.push(format!("{only} is leaving")),
        None if whole < service.wanted => {
            wrong.push(format!("{} has {whole} of {} workers", service.name, service.wanted));
        }
        _ => {}
    }
    wrong
}
