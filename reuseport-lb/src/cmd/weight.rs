//! `weight`: another share for one worker.

use anyhow::Result;

use super::client::Client;
use super::names;
use super::print::print;
use crate::api::control;
use crate::cli;
use crate::daemon::Paths;

pub(super) fn run(arguments: &cli::Weight, paths: &Paths) -> Result<()> {
    let worker = &arguments.worker;
    let path = names::worker_path(worker, "weight")?;
    let wanted = control::Weight { weight: arguments.weight };
    let control::Weight { weight } = Client::new(paths)?.post(&path, &wanted)?;
    print(&format!("{worker}: weight {weight}\n"))
}
