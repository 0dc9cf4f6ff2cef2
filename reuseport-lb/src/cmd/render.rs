//! Texts and tables that commands print.

use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

use comfy_table::{CellAlignment, Table, presets};
use reuseport_lb_client::api::{
    Awaited, GroupStatus, HostDrained, ServiceStatus, Status, Waiting, WorkerStatus,
};

use crate::printable::inline;

/// A moment, from seconds since 1970.
pub(super) fn moment(seconds: f64) -> String {
    let time = UNIX_EPOCH + Duration::try_from_secs_f64(seconds).unwrap_or_default();
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Until when a host is drained.
pub(super) fn drained_until(until: Option<f64>) -> String {
    until.map_or("`host undrain`".into(), moment)
}

/// How many of the workers that are waited for are named.
const NAMED: usize = 3;

/// One line about the workers that `what` waits for.
pub(super) fn waiting(what: &str, waiting: &Waiting) -> String {
    let named = waiting.workers.iter().take(NAMED).map(awaited).collect::<Vec<String>>().join(", ");
    let more = match waiting.workers.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let whom = if named.is_empty() { "the end" } else { named.as_str() };
    format!("{what}: waits for {whom}{more}, {:.0} s\n", waiting.seconds)
}

fn awaited(worker: &Awaited) -> String {
    let mut text = format!("{} ({}", worker.worker, worker.state);
    if let Some(lacks) = &worker.lacks {
        text += &format!(", {}", inline(lacks));
    }
    if worker.queue > 0 {
        text += &format!(", {} queued", worker.queue);
    }
    if worker.flows > 0 {
        text += &format!(", {} UDP flows", worker.flows);
    }
    if worker.connections > 0 {
        text += &format!(", {} connections", worker.connections);
    }
    text + ")"
}

/// Decisions for each worker per second, by name.
pub(super) type Rates = HashMap<String, f64>;

/// The tables of `status`, of at most 100 columns for names of up to 24 characters. With `only`, that worker only. With
/// `rates`, and where connections are counted, there is one column more.
#[must_use]
pub(super) fn status(of: &Status, only: Option<&str>, rates: Option<&Rates>) -> String {
    let mut text = format!("reuseport-lb {}, pid {}, Linux {}\n", of.version, of.pid, of.kernel);
    if let Some(HostDrained { until, .. }) = &of.host_drained {
        text += &format!("the host is drained until {}: nothing new should come\n", drained_until(*until));
    }
    for service in &of.services {
        let ready = service.ready();
        text += &format!(
            "\nservice {}: {ready} of {} workers ready, affinity {}, {} buckets moved\n",
            service.name,
            service.whole_workers().count(),
            service.affinity,
            service.moved
        );
        let flows = || service.groups.iter().filter_map(|group| group.flows);
        if flows().any(|flows| flows.live > 0) || service.moving > 0 {
            text += &format!(
                " UDP flows: {} live, {} of them still with a previous worker; {} buckets move\n",
                flows().map(|flows| flows.live).sum::<u64>(),
                flows().map(|flows| flows.kept).sum::<u64>(),
                service.moving
            );
        }
        if let Some(user) = &service.socket_owner {
            text += &format!(" its sockets belong to {user}\n");
        }
        if !service.may_join.is_empty() {
            text += &format!(" may join: root, {}\n", service.may_join.join(", "));
        }
        if let Some(adopts) = &service.adopts {
            text += &format!(" adopts the sockets of {}\n", inline(&adopts.whose));
        }
        if let Some(lacks) = service.not_adopted() {
            text += &format!(" not all are adopted: {}\n", inline(lacks));
        }
        if let Some(pending) = &service.pending {
            text += &format!(" pending: {}\n", inline(pending));
        }
        if let Some(busy) = &service.busy {
            text += &format!(" it {}: this is what it was like before\n", inline(busy));
        }
        if service.ending {
            text += " it is to end: nothing new should be sent to it\n";
        }
        if let Some(unsaved) = &service.unsaved {
            text += &format!(" not saved: {}\n", inline(unsaved));
        }
        text += &groups(service);
        let shown = service.workers.iter().filter(|worker| only.is_none_or(|only| only == worker.name));
        text += &workers(&shown.collect::<Vec<&WorkerStatus>>(), rates);
    }
    text
}

fn groups(service: &ServiceStatus) -> String {
    let mut table = plain(["LISTENER", "PROGRAM", "DECISIONS", "REFUSED", "STRANGERS"]);
    for group in &service.groups {
        let counter = |name: &str| group.counters.get(name).copied().unwrap_or_default();
        table.add_row([
            group.listen.clone(),
            group.program_id.to_string(),
            (counter("arrival_packet") + counter("arrival_migration")).to_string(),
            counter("refused").to_string(),
            group.strangers.map_or_else(|| "?".into(), |n| n.to_string()),
        ]);
    }
    let mut text = finish(table, 1);
    for GroupStatus { listen, name, .. } in &service.groups {
        let by_address = listen.replace("://", "-").replace(':', "-");
        if !name.is_empty() && *name != by_address {
            text += &format!(" {listen} is called {}\n", inline(name));
        }
    }
    text
}

fn workers(shown: &[&WorkerStatus], rates: Option<&Rates>) -> String {
    let mut header =
        vec!["WORKER", "STATE", "PID", "SLOT", "WEIGHT", "SHARE", "SELECTED", "QUEUE", "RESTARTS"];
    let counts = shown.iter().any(|worker| worker.connections().is_some());
    header.extend(counts.then_some("CONNS"));
    header.extend(rates.map(|_| "NEW/S"));
    let mut table = plain(header);
    for worker in shown {
        let selected: u64 = worker.sockets.iter().map(|socket| socket.selected).sum();
        let queue: u64 = worker
            .sockets
            .iter()
            .filter(|socket| socket.listen.starts_with("tcp"))
            .map(|socket| u64::from(socket.queue))
            .sum();
        let mut row = vec![
            worker.name.clone(),
            state(worker),
            worker.pid.map_or_else(|| "-".into(), |pid| pid.to_string()),
            worker.slot.to_string(),
            worker.weight.to_string(),
            format!("{:.2}%", worker.share * 100.0),
            selected.to_string(),
            queue.to_string(),
            worker.restarts.to_string(),
        ];
        let connections = || worker.connections().map_or_else(|| "-".into(), |count| count.to_string());
        row.extend(counts.then(connections));
        row.extend(
            rates
                .map(|rates| rates.get(&worker.name).map_or_else(|| "-".into(), |rate| format!("{rate:.0}"))),
        );
        table.add_row(row);
    }
    let mut text = finish(table, 2);
    for worker in shown {
        if let Some(lacks) = &worker.lacks {
            text += &format!(" {} {}\n", worker.name, inline(lacks));
        }
    }
    for worker in shown.iter().filter(|worker| worker.dropped_lines > 0) {
        let WorkerStatus { name, dropped_lines, dropped_bytes, .. } = worker;
        text += &format!(" {name} {dropped_lines} lines ({dropped_bytes} bytes) of its output are dropped\n");
    }
    for worker in shown.iter().filter(|worker| !worker.last_words.is_empty()) {
        text += &format!(" {} wrote before it ended:\n", worker.name);
        worker.last_words.iter().for_each(|line| text += &format!("   {}\n", shorten(&inline(line), 96)));
    }
    text
}

/// State of a worker; `successor` and `overloaded` come in place of it.
pub(super) fn state(worker: &WorkerStatus) -> String {
    match (worker.successor, worker.overloaded) {
        (true, _) => "successor".into(),
        (_, true) => "overloaded".into(),
        _ => worker.state.clone(),
    }
}

fn shorten(line: &str, most: usize) -> String {
    line.chars().take(most).collect()
}

/// A table without lines, with this header.
pub(super) fn plain<'a>(header: impl IntoIterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.into_iter().collect::<Vec<&str>>());
    table
}

/// Aligns all columns but the first `left` to the right.
pub(super) fn finish(mut table: Table, left: usize) -> String {
    for column in table.column_iter_mut().skip(left) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let lines: Vec<String> = table.lines().map(|line| format!(" {}\n", line.trim_end())).collect();
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::samples;
    use reuseport_lb_client::api::{FlowCounts, GroupStatus, SocketStatus};

    #[test]
    fn what_is_waited_for_fits_a_line() {
        let awaited = |number, state: &str, lacks: Option<&str>, queue, flows| Awaited {
            worker: format!("web/{number}"),
            state: state.into(),
            pid: None,
            lacks: lacks.map(Into::into),
            queue,
            flows,
            connections: 0,
        };
        let mut workers = vec![
            awaited(1, "starting", Some("does not wait for work yet on \u{1b}x"), 0, 0),
            awaited(2, "draining", None, 5, 7),
        ];
        let line =
            |workers: &[Awaited]| waiting("web", &Waiting { seconds: 2.04, workers: workers.to_vec() });
        assert_eq!(
            line(&workers),
            "web: waits for web/1 (starting, does not wait for work yet on \\u{1b}x), \
             web/2 (draining, 5 queued, 7 UDP flows), 2 s\n"
        );
        workers.extend((3..8).map(|number| awaited(number, "starting", None, 0, 0)));
        assert!(line(&workers).ends_with(", web/3 (starting) and 4 more, 2 s\n"), "{}", line(&workers));
        assert_eq!(line(&[]), "web: waits for the end, 2 s\n");
    }

    #[test]
    fn a_status_fits_100_columns() {
        let socket = SocketStatus {
            listen: "tcp://[2001:db8:1234:5678:9abc:def0:1234:5678]:65535".into(),
            cookie: u64::MAX,
            selected: 12_345_678_901_234,
            queue: 4096,
            backlog: 4096,
            connections: None,
            connections_since: None,
            drops: 0,
        };
        let worker = WorkerStatus {
            name: "service-of-16-char/1023".into(),
            slot: 2047,
            state: "starting".into(),
            pid: Some(4_194_303),
            usage: None,
            weight: 100_000,
            share: 1.0,
            buckets: 65536,
            flows: 1_000_000,
            restarts: 1000,
            dropped_lines: 7,
            dropped_bytes: 700,
            sockets: vec![socket.clone()],
            ..samples::worker(0)
        };
        let counters = [("arrival_packet".to_owned(), 12_345_678_901_234)].into();
        let mut service = samples::service("service-of-16-char", vec![worker]);
        let group = GroupStatus {
            listen: socket.listen,
            program_id: 123_456,
            counters,
            flows: Some(FlowCounts { live: 1_000_000, kept: 1_000_000 }),
            ..service.groups.remove(0)
        };
        let service = ServiceStatus {
            affinity: "source".into(),
            moved: 1_000_000,
            moving: 65536,
            waiting: 65536,
            pending: Some("65536 buckets wait: flows of two workers live in them".into()),
            flows_cut: 1,
            socket_owner: Some("www-data".into()),
            may_join: vec!["www-data".into(), "1001".into()],
            groups: vec![group],
            ..service
        };
        let text = super::status(&samples::status(vec![service]), None, None);
        println!("{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert!(text.contains("12345678901234"));
    }
}
