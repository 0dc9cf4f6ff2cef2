//! `drain`: a worker leaves in order; waits until nothing of it is left.

use anyhow::Result;

use super::client::Client;
use super::names;
use super::print::print;
use crate::api::control;
use crate::cli;
use crate::daemon::Paths;
use crate::service::Drained;

pub(super) fn run(arguments: &cli::Drain, paths: &Paths) -> Result<()> {
    let path = names::worker_path(&arguments.worker, "drain")?;
    let timeout_ms = arguments.timeout.map(|timeout| timeout.as_millis() as u64);
    let drained: Drained = Client::new(paths)?.post_patiently(&path, &control::Drain { timeout_ms })?;
    let Drained { worker, seconds, queue, handed_over, flows, flows_cut, end } = drained;
    let end = end.map_or_else(|| "it had no process".into(), |end| format!("it {end}"));
    let flows = match flows {
        0 => String::new(),
        _ => format!(" {flows} UDP flows lived, {flows_cut} of those were cut,"),
    };
    print(&format!(
        "{worker}: {queue} waited for it, {handed_over} of those were handed over,{flows} {end}; gone after {seconds:.1} s\n"
    ))
}
