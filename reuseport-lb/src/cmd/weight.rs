//! `weight`: changes the weight of a worker.

use anyhow::Result;
use reuseport_lb_client::api::Weight;

use super::client::client;
use super::names;
use super::print::print;
use crate::cli;
use crate::daemon::Paths;

pub(super) fn run(arguments: &cli::WeightArgs, paths: &Paths) -> Result<()> {
    let worker = &arguments.worker;
    names::worker(worker)?;
    let Weight { weight } = client(paths).weight(worker, Weight { weight: arguments.weight })?;
    print(&format!("{worker}: weight {weight}\n"))
}
