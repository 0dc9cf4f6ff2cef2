//! What `status` says: the JSON that scripts rely on (docs/CONTROL.md), and the same for people.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use crate::printable::inline;

/// Everything about a daemon.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Of the daemon.
    pub version: String,
    /// The kernel's release.
    pub kernel: String,
    /// The daemon's process id.
    pub pid: u32,
    /// The longest time in milliseconds for which one step has kept the daemon from all else.
    #[serde(default)]
    pub longest_step_ms: f64,
    /// Its services.
    pub services: Vec<Service>,
}

/// One service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// `flow` or `source`.
    pub affinity: String,
    /// Buckets that changed their worker since the daemon started.
    pub moved: u64,
    /// Buckets (of UDP listeners) in which flows stay with another worker than new ones get.
    pub moving: usize,
    /// Buckets that should change their worker, but wait for flows.
    pub waiting: u32,
    /// Why they wait.
    pub pending: Option<String>,
    /// UDP flows that still lived when the patience with the worker that was leaving was over.
    pub flows_cut: u64,
    /// How long a worker may take to become ready, in milliseconds.
    #[serde(default)]
    pub start_timeout_ms: u64,
    /// How many workers it shall have.
    pub wanted: usize,
    /// Why the next daemon could not take the service over as it is now; `null` if it could.
    #[serde(default)]
    pub unsaved: Option<String>,
    /// What it is doing that takes its time: then all else is as it was when that began; mostly `null`.
    #[serde(default)]
    pub busy: Option<String>,
    /// One per listener.
    pub groups: Vec<Group>,
    /// In the order of their numbers.
    pub workers: Vec<Worker>,
}

/// One listener's group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Group {
    /// Like `tcp://127.0.0.1:8080`.
    pub listen: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// As `bpftool prog` shows it.
    pub program_id: u32,
    /// See docs/COUNTERS.md.
    pub counters: BTreeMap<String, u64>,
    /// UDP flows that live; `null` for TCP.
    pub flows: Option<Flows>,
    /// The service that decides for this address until this one is ready; `null`: this one does.
    #[serde(default)]
    pub decided_by: Option<String>,
    /// Sockets of others on this port; `null` if the kernel cannot list them.
    pub strangers: Option<usize>,
}

/// UDP flows of a listener that live. Those in the same of 64 parts of a bucket count as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// All of them.
    pub live: u64,
    /// Those that stay with a worker that does not get new flows of their bucket.
    pub kept: u64,
}

/// One worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Worker {
    /// Like `web/2`.
    pub name: String,
    /// Its index in the socket arrays.
    pub slot: u16,
    /// `starting`, `loading`, `ready`, `draining`, `held`, `stalled` or `failed`.
    pub state: String,
    /// Its process, if it runs.
    pub pid: Option<i32>,
    /// Its weight.
    pub weight: u32,
    /// Whether it takes part in the table; new workers do from when they are ready.
    pub member: bool,
    /// Its part of the buckets, from 0 to 1.
    pub share: f64,
    /// The same in buckets, of 65,536.
    pub buckets: u32,
    /// UDP flows that it has and that live.
    pub flows: u64,
    /// How often its process was started again.
    pub restarts: u32,
    /// Whether it came by itself, with `exec` say.
    pub joined: bool,
    /// Whether it is still to take over from the worker of the same name.
    pub successor: bool,
    /// Whether its queue is so much deeper than the others' that new connections avoid it.
    pub overloaded: bool,
    /// What a worker that is starting or loading does not do yet; `null` if it is not known.
    #[serde(default)]
    pub lacks: Option<String>,
    /// What its last process wrote before it ended by its own fault.
    pub last_words: Vec<String>,
    /// One per listener, in their order.
    pub sockets: Vec<Socket>,
}

/// One worker's socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Socket {
    /// Like `tcp://127.0.0.1:8080`.
    pub listen: String,
    /// SO_COOKIE, as `ss -e` shows it (`sk:`).
    pub cookie: u64,
    /// Decisions for it so far.
    pub selected: u64,
    /// Connections in its accept queue; for UDP bytes of queued datagrams.
    pub queue: u32,
    /// Room in that queue, in the same unit.
    pub backlog: u32,
}

/// The status for people: aligned, at most 100 columns for names of up to 24 characters. With `only`, of the workers
/// only that one.
#[must_use]
pub fn render(status: &Status, only: Option<&str>) -> String {
    let mut text = format!("reuseport-lb {}, pid {}, Linux {}\n", status.version, status.pid, status.kernel);
    for service in &status.services {
        let ready = service.workers.iter().filter(|worker| worker.state == "ready").count();
        text += &format!(
            "\nservice {}: {ready} of {} workers ready, affinity {}, {} buckets moved\n",
            service.name,
            service.workers.len(),
            service.affinity,
            service.moved
        );
        let flows = || service.groups.iter().filter_map(|group| group.flows);
        if flows().any(|flows| flows.live > 0) || service.moving > 0 {
            text += &format!(
                " UDP flows: {} live, {} of them stay where they were, in {} moving buckets\n",
                flows().map(|flows| flows.live).sum::<u64>(),
                flows().map(|flows| flows.kept).sum::<u64>(),
                service.moving
            );
        }
        if let Some(pending) = &service.pending {
            text += &format!(" pending: {}\n", inline(pending));
        }
        if let Some(busy) = &service.busy {
            text += &format!(" it {}: this is what it was like before\n", inline(busy));
        }
        if let Some(unsaved) = &service.unsaved {
            text += &format!(" not saved: {}\n", inline(unsaved));
        }
        text += &groups(service);
        let shown = service.workers.iter().filter(|worker| only.is_none_or(|only| only == worker.name));
        text += &workers(&shown.collect::<Vec<&Worker>>());
    }
    text
}

fn groups(service: &Service) -> String {
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
    finish(table, 1)
}

fn workers(shown: &[&Worker]) -> String {
    let mut table =
        plain(["WORKER", "STATE", "PID", "SLOT", "WEIGHT", "SHARE", "SELECTED", "QUEUE", "RESTARTS"]);
    for worker in shown {
        let selected: u64 = worker.sockets.iter().map(|socket| socket.selected).sum();
        let queue: u64 = worker
            .sockets
            .iter()
            .filter(|socket| socket.listen.starts_with("tcp"))
            .map(|socket| u64::from(socket.queue))
            .sum();
        table.add_row([
            worker.name.clone(),
            state(worker),
            worker.pid.map_or_else(|| "-".into(), |pid| pid.to_string()),
            worker.slot.to_string(),
            worker.weight.to_string(),
            format!("{:.2}%", worker.share * 100.0),
            selected.to_string(),
            queue.to_string(),
            worker.restarts.to_string(),
        ]);
    }
    let mut text = finish(table, 2);
    for worker in shown {
        if let Some(lacks) = &worker.lacks {
            text += &format!(" {} {}\n", worker.name, inline(lacks));
        }
    }
    for worker in shown.iter().filter(|worker| !worker.last_words.is_empty()) {
        text += &format!(" {} wrote before it ended:\n", worker.name);
        worker.last_words.iter().for_each(|line| text += &format!("   {}\n", shorten(&inline(line), 96)));
    }
    text
}

/// A successor has the name of the worker that it is to replace.
fn state(worker: &Worker) -> String {
    match (worker.successor, worker.overloaded) {
        (true, _) => "successor".into(),
        (_, true) => "overloaded".into(),
        _ => worker.state.clone(),
    }
}

fn shorten(line: &str, most: usize) -> String {
    line.chars().take(most).collect()
}

fn plain<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

/// Numbers to the right: all columns but the first `left`.
fn finish(mut table: Table, left: usize) -> String {
    for column in table.column_iter_mut().skip(left) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let lines: Vec<String> = table.lines().map(|line| format!(" {}\n", line.trim_end())).collect();
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_fits_100_columns() {
        let socket = Socket {
            listen: "tcp://[2001:db8:1234:5678:9abc:def0:1234:5678]:65535".into(),
            cookie: u64::MAX,
            selected: 12_345_678_901_234,
            queue: 4096,
            backlog: 4096,
        };
        let worker = Worker {
            name: "service-of-16-char/1023".into(),
            slot: 2047,
            state: "starting".into(),
            pid: Some(4_194_303),
            weight: 100_000,
            member: true,
            share: 1.0,
            buckets: 65536,
            flows: 1_000_000,
            restarts: 1000,
            joined: false,
            successor: false,
            overloaded: false,
            lacks: None,
            last_words: Vec::new(),
            sockets: vec![socket.clone()],
        };
        let counters = [("arrival_packet".to_owned(), 12_345_678_901_234)].into();
        let group = Group {
            listen: socket.listen,
            protocol: "tcp".into(),
            program_id: 123_456,
            counters,
            flows: Some(Flows { live: 1_000_000, kept: 1_000_000 }),
            decided_by: None,
            strangers: Some(0),
        };
        let service = Service {
            name: "service-of-16-char".into(),
            affinity: "source".into(),
            moved: 1_000_000,
            moving: 65536,
            waiting: 65536,
            pending: Some("65536 buckets wait: flows of two workers live in them".into()),
            flows_cut: 1,
            start_timeout_ms: 30_000,
            wanted: 1,
            unsaved: None,
            busy: None,
            groups: vec![group],
            workers: vec![worker],
        };
        let status = Status {
            version: "0.1.0".into(),
            longest_step_ms: 0.0,
            kernel: "6.1".into(),
            pid: 1,
            services: vec![service],
        };
        let text = render(&status, None);
        println!("{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert!(text.contains("12345678901234"));
    }
}
