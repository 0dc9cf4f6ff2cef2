//! `trace --explain`: prints where a client's next connection or datagram would go, and why.

use anyhow::Result;
use reuseport_lb_client::api::{ClientAddress, Explanation, Place};

use super::client::client;
use super::print::{print, print_object};
use crate::daemon::Paths;
use crate::domain::listener::Listener;

pub(super) fn run(
    service: &str,
    from: ClientAddress,
    listen: Option<&Listener>,
    json: bool,
    paths: &Paths,
) -> Result<()> {
    let listen = listen.map(Listener::to_string);
    let explained = client(paths).explain(service, from, listen.as_deref())?;
    if json {
        return print_object(&explained);
    }
    explained.listeners.iter().try_for_each(|it| print(&render(it, &explained.client)))
}

fn render(explanation: &Explanation, client: &str) -> String {
    let Explanation { listen, key, bucket, owner, detour, note, .. } = explanation;
    let mut lines = match (key, bucket, owner) {
        (Some(key), Some(bucket), Some(owner)) => {
            let who = explanation.goes_to.as_ref().map_or_else(|| "refused".into(), name);
            let counters = [Some(owner), detour.as_ref()].into_iter().flatten();
            let counters = counters.cloned().collect::<Vec<_>>().join(" ");
            let why = why(explanation, owner);
            format!("{listen} from {client} key {key:08x} bucket {bucket:5} → {who}  ({counters})\n  {why}\n")
        }
        _ if explanation.chances.is_empty() => format!("{listen} from {client} → not known\n"),
        _ => {
            let chance = |it: &reuseport_lb_client::api::Chance| {
                let who = it.goes_to.as_ref().map_or_else(|| "refused".into(), shown);
                format!("  {:6.2}%  {who}\n", it.share * 100.0)
            };
            let chances: String = explanation.chances.iter().map(chance).collect();
            format!("{listen} from {client} → one of these; which one cannot be known\n{chances}")
        }
    };
    lines.extend(note.iter().map(|note| format!("  {note}\n")));
    lines
}

/// The reason in words.
fn why(it: &Explanation, owner: &str) -> String {
    let owns = it.bucket_of.as_ref().map_or_else(|| "nobody".into(), shown);
    let gets = it.goes_to.as_ref().map_or_else(|| "nobody".into(), shown);
    let first = match owner {
        "owner_taken" if it.flow.as_deref() == Some("live") => {
            return format!("{owns} has the bucket, and a flow of this key lives there: it stays");
        }
        "owner_taken" => return format!("{owns} has the bucket"),
        "owner_kept" => {
            return format!(
                "a flow of this key lives with {gets}, which had the bucket before {owns}: it stays"
            );
        }
        "owner_none" => "no worker has the bucket".into(),
        "owner_gone" => format!("{owns} has the bucket, but no socket there any more"),
        "owner_overloaded" => format!("{owns} has the bucket, but a much longer queue than others"),
        "owner_ejected" => format!("{owns} has the bucket, but does not accept"),
        "owner_busy" => format!("{owns} has the bucket, but does not wait for work"),
        other => format!("{owns} has the bucket: {other}"),
    };
    let then = match it.detour.as_deref() {
        Some("detour_owner") => "no other can take it, so it goes there all the same".into(),
        Some("detour_candidate") => format!("the next candidate of the key is {gets}"),
        Some("detour_ready") => {
            format!("no candidate of the key can take it, so it goes to another one: {gets}")
        }
        Some("detour_hold") => format!("no worker that gets buckets is ready, so it waits for {gets}"),
        Some("detour_kernel") => "and there is no other to take it, so the kernel chooses".into(),
        Some("detour_none") => "and there is no other to take it".into(),
        _ => format!("it goes to {gets}"),
    };
    format!("{first}; {then}")
}

fn name(place: &Place) -> String {
    place.worker.clone().unwrap_or_else(|| format!("slot {}", place.slot))
}

fn shown(place: &Place) -> String {
    match &place.state {
        Some(state) => format!("{} ({state})", name(place)),
        None => name(place),
    }
}
