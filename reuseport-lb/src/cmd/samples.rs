//! Statuses for the tests of commands.

use std::collections::BTreeMap;

use reuseport_lb_client::api::{
    GroupStatus, ServiceStatus, ServiceTotals, SocketStatus, Status, Usage, WorkerStatus,
};

/// A ready worker `web/N` in slot N, process 1000 + N, which was started in second 100.
pub(super) fn worker(number: u16) -> WorkerStatus {
    let socket = SocketStatus {
        listen: "tcp://127.0.0.1:3000".into(),
        cookie: u64::from(number),
        selected: 0,
        queue: 0,
        backlog: 100,
        connections: None,
        connections_since: None,
        drops: 0,
    };
    WorkerStatus {
        name: format!("web/{number}"),
        slot: number,
        state: "ready".into(),
        pid: Some(1000 + i32::from(number)),
        usage: Some(Usage { start_time: 100.0, cpu_seconds: 0.0, resident_bytes: 8 << 20 }),
        weight: 1,
        member: true,
        share: 0.25,
        buckets: 16384,
        flows: 0,
        restarts: 0,
        kills: 0,
        joined: false,
        successor: false,
        overloaded: false,
        lacks: None,
        log: None,
        dropped_lines: 0,
        dropped_bytes: 0,
        last_words: Vec::new(),
        sockets: vec![socket],
    }
}

pub(super) fn service(name: &str, workers: Vec<WorkerStatus>) -> ServiceStatus {
    let group = GroupStatus {
        name: String::new(),
        listen: "tcp://127.0.0.1:3000".into(),
        protocol: "tcp".into(),
        program_id: 1,
        counters: BTreeMap::new(),
        flows: None,
        decided_by: None,
        strangers: Some(0),
    };
    ServiceStatus {
        name: name.into(),
        affinity: "flow".into(),
        moved: 0,
        moving: 0,
        waiting: 0,
        pending: None,
        flows_cut: 0,
        totals: ServiceTotals::default(),
        settings: BTreeMap::new(),
        start_timeout_ms: 30_000,
        socket_owner: None,
        may_join: Vec::new(),
        wanted: workers.len(),
        adopts: None,
        unsaved: None,
        busy: None,
        ending: false,
        groups: vec![group],
        workers,
    }
}

pub(super) fn status(services: Vec<ServiceStatus>) -> Status {
    Status {
        version: "0.1.0".into(),
        kernel: "6.18".into(),
        pid: 1,
        start_time: 0.0,
        last_reload: None,
        host_drained: None,
        longest_step_ms: 0.0,
        services,
    }
}
