//! `trace`: prints single decisions as they are made.

use anyhow::{Result, bail};
use reuseport_lb_client::api::{Traced, TracedDecision};
use reuseport_lb_client::control::Line;

use super::client::client;
use super::print::{print, print_json};
use super::{explain, names};
use crate::cli;
use crate::daemon::Paths;
use crate::printable::inline;

pub(super) fn run(arguments: &cli::TraceArgs, paths: &Paths) -> Result<()> {
    let service = names::service(&arguments.service, "trace")?;
    if let Some(client) = arguments.explain {
        return explain::run(service, client, arguments.listen.as_ref(), arguments.json, paths);
    }
    let mut left = arguments.count.unwrap_or(u64::MAX);
    for line in client(paths).trace(service)? {
        let line = line?;
        match line.value {
            Traced::Decision(_) if arguments.json => print_json(&line.text)?,
            Traced::Decision(_) => print(&text(&line))?,
            Traced::Missed { .. } => {
                crate::logging::put(format!("reuseport-lb: {}", text(&line)).as_bytes());
            }
        }
        left -= 1;
        if left == 0 {
            return Ok(());
        }
    }
    bail!("the daemon ended")
}

/// A line of a trace, for people.
pub(super) fn text(line: &Line<Traced>) -> String {
    match &line.value {
        Traced::Decision(decision) => render(decision),
        Traced::Missed { .. } => format!("too slow: {}\n", inline(&line.text)),
    }
}

fn render(decision: &TracedDecision) -> String {
    let who = match (&decision.worker, decision.slot) {
        (Some(worker), _) => worker.clone(),
        (None, Some(slot)) => format!("slot {slot}"),
        (None, None) => "refused".into(),
    };
    let detour = decision.detour.as_ref().map(|detour| format!(" {detour}")).unwrap_or_default();
    let client = decision.client.as_deref().unwrap_or("an unknown client");
    format!(
        "{} from {client} key {:08x} bucket {:5} → {who}  ({} {}{detour})\n",
        decision.listen, decision.key, decision.bucket, decision.arrival, decision.owner
    )
}
