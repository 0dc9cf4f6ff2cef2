//! `events`: prints what happened, and what happens, each with its reason and who asked for it.

use anyhow::{Result, bail};
use reuseport_lb_client::api::{EventKind, EventLine, EventRecord, Refusal, Requester};

use super::client::client;
use super::print::{print, print_json};
use super::render::{drained_until, moment};
use crate::cli;
use crate::daemon::Paths;
use crate::printable::inline;

pub(super) fn run(arguments: &cli::EventsArgs, paths: &Paths) -> Result<()> {
    if let Some(what) = &arguments.what {
        require_known(what, paths)?;
    }
    for line in client(paths).events(!arguments.once)? {
        let line = line?;
        match &line.value {
            EventLine::Event(event) if !concerns(event, arguments.what.as_deref()) => {}
            EventLine::Event(event) if arguments.text => print(&(render(event) + "\n"))?,
            EventLine::Missed { missed } if arguments.text => {
                print(&format!("{missed} events are not kept any more\n"))?;
            }
            EventLine::Event(_) | EventLine::Missed { .. } => print_json(&line.text)?,
        }
    }
    if arguments.once { Ok(()) } else { bail!("the daemon ended") }
}

/// Fails if there is no such service or worker, and nothing is known to have happened to one.
fn require_known(what: &str, paths: &Paths) -> Result<()> {
    for line in client(paths).events(false)? {
        if matches!(line?.value, EventLine::Event(event) if concerns(&event, Some(what))) {
            return Ok(());
        }
    }
    let service = what.split('/').next().unwrap_or_default();
    let status = client(paths).status_of(service)?;
    let workers = || status.services.iter().flat_map(|it| &it.workers).map(|worker| &*worker.name);
    if what != service && !workers().any(|worker| worker == what) {
        bail!(Refusal::unknown_worker(what, workers()));
    }
    Ok(())
}

/// Whether an event is one of a service or a worker; `None`: of any.
pub(super) fn concerns(event: &EventRecord, what: Option<&str>) -> bool {
    what.is_none_or(|what| event.service.as_deref() == Some(what) || event.worker.as_deref() == Some(what))
}

/// An event on one line, with its time.
fn render(event: &EventRecord) -> String {
    format!("{} {}", moment(event.time), text(event))
}

/// An event on one line, without its time.
pub(super) fn text(event: &EventRecord) -> String {
    let whom = event.worker.as_deref().or(event.service.as_deref()).unwrap_or("the daemon");
    let reason = event.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    let by = match &event.by {
        None => String::new(),
        Some(Requester::Signal { signal }) => format!(" (by {signal})"),
        Some(Requester::Process { pid, uid, command }) => format!(" (by {command}, pid {pid}, uid {uid})"),
    };
    inline(&format!("{whom} {}{reason}{by}", what(&event.kind))).into_owned()
}

fn what(kind: &EventKind) -> String {
    let successor = |is: bool| if is { "its successor " } else { "" };
    match kind {
        EventKind::Started { pid, version } => format!("started: version {version}, pid {pid}"),
        EventKind::Reloaded { changes } => format!("reloaded: {}", changes.replace('\n', "; ")),
        EventKind::ReloadFailed => "refused a reload".into(),
        EventKind::Stopping { keep: true } => "is ending; workers stay for the next one".into(),
        EventKind::Stopping { keep: false } => "is stopping".into(),
        EventKind::HostDrained { until } => {
            format!("tells all who ask that nothing new should come, until {}", drained_until(*until))
        }
        EventKind::HostUndrained => "tells all who ask that new traffic is welcome again".into(),
        EventKind::Up => "is up".into(),
        EventKind::TakenOver { workers } => format!("taken over with {workers} workers that run"),
        EventKind::Ending => "is to end".into(),
        EventKind::Scaled { from, to } => format!("scaled from {from} to {to} workers"),
        EventKind::Replacing { workers } => format!("gets {workers} new workers"),
        EventKind::Replaced { workers, all: true } => format!("{workers} workers replaced"),
        EventKind::Replaced { workers, all: false } => format!("{workers} workers replaced, and no more"),
        EventKind::Moved { buckets, members } => {
            format!("{buckets} buckets moved; {members} workers own buckets")
        }
        EventKind::Added => "added".into(),
        EventKind::State { from, to, successor: is } => format!("{}{from} → {to}", successor(*is)),
        EventKind::Ended { successor: is, .. } => format!("{}process ended", successor(*is)),
        EventKind::Serves => "its successor serves".into(),
        EventKind::Removed { seconds, handed_over, flows_cut } => {
            format!(
                "removed after {seconds:.1} s; {handed_over} connections handed over, {flows_cut} flows cut"
            )
        }
        EventKind::Weight { from, to } => format!("weight {from} → {to}"),
        EventKind::Stalled { listen } => format!("stalls on {listen}"),
        EventKind::Recovered { listen } => format!("serves again on {listen}"),
        _ => "something that this version does not know".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_with_reason_and_who_asked() {
        let mut event = EventRecord {
            seq: 1,
            time: 1.5,
            service: Some("web".into()),
            worker: Some("web/1".into()),
            kind: EventKind::State { from: "ready".into(), to: "draining".into(), successor: false },
            reason: Some("it is drained\nx".into()),
            by: Some(Requester::Process { pid: 7, uid: 0, command: "sh".into() }),
        };
        assert_eq!(
            render(&event),
            "1970-01-01T00:00:01Z web/1 ready → draining: it is drained\\nx (by sh, pid 7, uid 0)"
        );
        (event.worker, event.kind, event.reason, event.by) = (None, EventKind::Up, None, None);
        assert_eq!(render(&event), "1970-01-01T00:00:01Z web is up");
        assert!(concerns(&event, None) && concerns(&event, Some("web")) && !concerns(&event, Some("web/1")));
    }
}
