//! `drain`: lets a worker leave in order, and waits until it is removed.

use anyhow::{Result, bail};
use reuseport_lb_client::api::{Drain, Drained, Refusal, Wait};

use super::client::client;
use super::names;
use super::print::{print, print_json};
use super::render;
use crate::cli;
use crate::daemon::Paths;

pub(super) fn run(arguments: &cli::DrainArgs, paths: &Paths) -> Result<()> {
    names::worker(&arguments.worker)?;
    let timeout_ms = arguments.timeout.map(|timeout| timeout.as_millis() as u64);
    let request = Drain { timeout_ms, ..Drain::default() };
    for line in client(paths).drain_and_wait(&arguments.worker, &request)? {
        let line = line?;
        match line.value {
            Wait::Refused(body) => return Err(Refusal::from_wire(422, body).into()),
            Wait::Waiting(_) if arguments.json => print_json(&line.text)?,
            Wait::Waiting(waiting) => print(&render::waiting(&arguments.worker, &waiting))?,
            Wait::Done(_) if arguments.json => return print_json(&line.text),
            Wait::Done(drained) => return print(&told(drained)),
        }
    }
    bail!("the daemon ended; `reuseport-lb status` of the next one shows whether the worker is gone")
}

/// What a drain has come to, in a line.
pub(super) fn told(drained: Drained) -> String {
    let Drained { worker, seconds, queue, handed_over, flows, flows_cut, connections, end } = drained;
    let end = end.map_or_else(|| "it had no process".into(), |end| format!("it {end}"));
    let flows = match flows {
        0 => String::new(),
        _ => format!(" {flows} UDP flows lived, {flows_cut} of those were cut,"),
    };
    let open = match connections {
        None | Some(0) => String::new(),
        Some(open) => format!(" {open} connections were open when it was told to end,"),
    };
    format!(
        "{worker}: {queue} waited for it, {handed_over} of those were handed over,{flows}{open} {end}; gone after {seconds:.1} s\n"
    )
}
