//! `weight`: another share for one worker.

use anyhow::Result;
use reuseport_lb_client::api::Weight;

use crate::cli;
use crate::daemon::Paths;

pub(super) fn run(arguments: &cli::WeightArgs, paths: &Paths) -> Result<()> {
    let worker = &arguments.worker;
    super::worker(worker)?;
    let Weight { weight } = super::client(paths).weight(worker, Weight { weight: arguments.weight })?;
    super::print(&format!("{worker}: weight {weight}\n"))
}
