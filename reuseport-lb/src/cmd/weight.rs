//! `weight`: changes the weight of a worker.

use anyhow::Result;
use reuseport_lb_client::api::Weight;

use super::client::client;
use super::names;
use super::print::{print, print_object};
use crate::cli;
use crate::daemon::Paths;

pub(super) fn run(arguments: &cli::WeightArgs, paths: &Paths) -> Result<()> {
    let worker = &arguments.worker;
    names::worker(worker)?;
    let changed = client(paths).weight(worker, Weight { weight: arguments.weight })?;
    if arguments.json {
        return print_object(&changed);
    }
    print(&format!("{worker}: weight {}\n", changed.weight))
}
