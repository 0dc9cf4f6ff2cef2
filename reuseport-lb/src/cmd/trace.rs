//! `trace`: single decisions as they are made.

use anyhow::Result;

use super::client::Client;
use super::names;
use super::print::{print, print_json};
use crate::cli;
use crate::daemon::Paths;
use crate::printable::inline;
use crate::service::trace::Decision;

pub(super) fn run(arguments: &cli::Trace, paths: &Paths) -> Result<()> {
    let service = names::service(&arguments.service, "trace")?;
    let client = Client::new(paths)?;
    let mut left = arguments.count.unwrap_or(u64::MAX);
    client.lines(&format!("/v1/services/{service}/trace"), |line| {
        if line.is_empty() {
            return Ok(left > 0);
        }
        match serde_json::from_str::<Decision>(line) {
            Ok(_) if arguments.json => print_json(line)?,
            Ok(decision) => print(&render(&decision))?,
            // Only the word of how many were missed is not a decision.
            Err(_) => crate::logging::put(format!("reuseport-lb: too slow: {}\n", inline(line)).as_bytes()),
        }
        left -= 1;
        Ok(left > 0)
    })
}

fn render(decision: &Decision) -> String {
    let who = match (&decision.worker, decision.slot) {
        (Some(worker), _) => worker.clone(),
        (None, Some(slot)) => format!("slot {slot}"),
        (None, None) => "refused".into(),
    };
    let detour = decision.detour.as_ref().map(|detour| format!(" {detour}")).unwrap_or_default();
    format!(
        "{} key {:08x} bucket {:5} → {who}  ({} {}{detour})\n",
        decision.listen, decision.key, decision.bucket, decision.arrival, decision.owner
    )
}
