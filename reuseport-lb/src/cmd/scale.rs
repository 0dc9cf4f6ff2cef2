//! `scale`: changes the number of workers, and waits until that is done.

use anyhow::{Result, bail};
use reuseport_lb_client::api::{Refusal, ServiceStatus, Status, Wait};

use super::client::client;
use super::names;
use super::print::{print, print_json, print_object};
use super::render;
use crate::cli;
use crate::daemon::Paths;

pub(super) fn run(arguments: &cli::ScaleArgs, paths: &Paths) -> Result<()> {
    let service = names::service(&arguments.service, "scale")?;
    let client = client(paths);
    if arguments.no_wait {
        let scaled = client.scale(service, &arguments.workers)?;
        if arguments.json {
            return print_object(&scaled);
        }
        return print(&format!("{service}: {} → {} workers begun\n", scaled.before, scaled.after));
    }
    let before = find(client.status_of(service)?)?;
    for line in client.scale_and_wait(service, &arguments.workers)? {
        let line = line?;
        match line.value {
            Wait::Refused(body) => return Err(Refusal::from_wire(422, body).into()),
            Wait::Waiting(_) if arguments.json => print_json(&line.text)?,
            Wait::Waiting(waiting) => print(&render::waiting(service, &waiting))?,
            Wait::Done(_) if arguments.json => return print_json(&line.text),
            Wait::Done(scaled) => {
                let moved = find(client.status_of(service)?)?.moved - before.moved;
                return print(&format!(
                    "{service}: {} → {} workers, {moved} of 65536 buckets moved\n",
                    scaled.before, scaled.after
                ));
            }
        }
    }
    bail!("the daemon ended; `reuseport-lb status` of the next one shows how far it came")
}

fn find(status: Status) -> Result<ServiceStatus> {
    match status.services.into_iter().next() {
        Some(service) => Ok(service),
        None => bail!("the daemon does not know the service any more"),
    }
}
