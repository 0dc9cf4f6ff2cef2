//! `weight`: another share for one worker.

use anyhow::{Result, bail};

use super::client::Client;
use crate::daemon::Paths;
use crate::{cli, control};

pub(super) fn run(arguments: &cli::Weight, paths: &Paths) -> Result<()> {
    let worker = &arguments.worker;
    if worker.split('/').count() != 2 {
        bail!("{worker:?} is not the name of a worker; `reuseport-lb status` lists them, like web/2");
    }
    let wanted = control::Weight { weight: arguments.weight };
    let control::Weight { weight } =
        Client::new(paths)?.post(&format!("/v1/workers/{worker}/weight"), &wanted)?;
    super::print(&format!("{worker}: weight {weight}\n"))
}
