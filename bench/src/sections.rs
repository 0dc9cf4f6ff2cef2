//! The sections of the report, and how each is measured.

use anyhow::Result;
use testkit::world::World;

use crate::record::Record;
use crate::{balance, binding, cpu, decision, flows, growth, http, table};

/// A group of measurements.
pub(crate) struct Section {
    pub(crate) key: &'static str,
    pub(crate) title: &'static str,
    pub(crate) how: &'static str,
    /// Whether ratios to the others are shown.
    pub(crate) ratios: bool,
    /// What a quick run takes, or a whole one, by experience.
    pub(crate) seconds: fn(bool) -> f64,
    pub(crate) measure: fn(&mut Record, &World) -> Result<()>,
}

/// In the order of the report.
pub(crate) static SECTIONS: [Section; 15] = [
    Section {
        key: "connections",
        title: "New TCP connections, one request each",
        how: "64 clients on as many threads as there are cores, each with one connection and one request at a time, as many requests for each variant. 4 workers, the same program \
              everywhere; HAProxy with 2 threads and nginx with 2 workers in front of them. reuseport-lb as it is, with `balance = \"least\"`, and with `when_busy = \"next\"`. CPU: user and system time of all server \
              processes, the daemon and the proxy included; what the kernel does for a packet is charged to whoever sent it.",
        ratios: true,
        seconds: http::throughput_in_all,
        measure: |record, world| http::throughput(record, world, "connections", false),
    },
    Section {
        key: "kept",
        title: "Requests on kept connections",
        how: "As above, but the 64 connections are kept, for a fifth of the requests each time.",
        ratios: true,
        seconds: http::throughput_in_all,
        measure: |record, world| http::throughput(record, world, "kept", true),
    },
    Section {
        key: "balance",
        title: "Few kept connections, unequal requests",
        how: "32 or 64 kept connections to 4 workers; one request in 200 costs its worker 0.5 ms of CPU time, the others some µs. Times are those of the others. Connections of workers: \
              sockets that each has open while the load runs, less those before. HAProxy with `leastconn` and `random(2)`, nginx with `least_conn`. Connections are made anew 5 times in a run.",
        ratios: false,
        seconds: balance::seconds,
        measure: balance::kept,
    },
    Section {
        key: "counting",
        title: "What counting connections costs",
        how: "The program that counts, at each change of state of a TCP connection, while a service with `count_connections = true` is asked by 64 clients with a new connection each time. \
              From the kernel's run-time statistics of programs; the statistics themselves cost about 56 ns of it.",
        ratios: false,
        seconds: balance::counting_seconds,
        measure: balance::counting,
    },
    Section {
        key: "cpu",
        title: "A worker for each core, which stays there",
        how: "As above, but with as many workers as cores, each kept to its own, and a thread of clients on each core. What a client sends over loopback, its own core receives. \
              reuseport-lb with `cpus = \"each\"`, and `affinity` `cpu` or `flow`; plain SO_REUSEPORT, whose workers say which core is theirs, or do not.",
        ratios: false,
        seconds: cpu::seconds,
        measure: cpu::run,
    },
    Section {
        key: "stall",
        title: "One of four workers is stopped for 3 s",
        how: "1,000 new connections a second for 4 s, whatever the server does; times count from when a request was due. SIGSTOP after 0.3 s, \
              SIGCONT 3 s later. Requests whose connection the stopped worker had already accepted are counted apart: nobody else can answer \
              them. reuseport-lb as it is (`stall_timeout = \"1s\"`), with 300 ms, and with `when_busy = \"next\"`; HAProxy has `balance leastconn` and HTTP checks every 100 ms (2 that fail \
              take a server out).",
        ratios: false,
        seconds: |quick| if quick { 7.0 * 6.0 } else { 35.0 * 6.0 },
        measure: http::stall,
    },
    Section {
        key: "unequal",
        title: "Unequal work",
        how: "1,200 new connections a second, one in a hundred of which costs its worker 50 ms of CPU time: 0.6 of the two cores. Times of the \
              other ones, from when they were due. reuseport-lb as it is, and with `when_busy = \"next\"`.",
        ratios: true,
        seconds: |quick| if quick { 8.0 * 2.8 } else { 20.0 * 6.8 },
        measure: http::unequal,
    },
    Section {
        key: "restarts",
        title: "Restarts and changes of the number of workers under load",
        how: "2,000 new connections a second while every 0.6 s everything is replaced (`restart`; SIGHUP; SIGUSR2; a new process for each worker and \
              SIGTERM to the old one, which accepts what is queued before it ends) or the number of workers changes between 4 and 6. nginx's 4 \
              workers answer by themselves; HAProxy is in front of 4 that stay, as master and worker with `expose-fd listeners`, the seamless \
              way, and `hard-stop-after 10s`. The next change waits for old processes for 2 s at most.",
        ratios: false,
        seconds: |quick| 7.0 * http::restart_seconds(quick),
        measure: http::restarts,
    },
    Section {
        key: "flows",
        title: "Live UDP flows that change their worker",
        how: "8 workers; a datagram of each flow before and after a 9th joins, one leaves, one crashes. Real sockets, the same harness for all. \
              Maglev and `hash % n` are tables in the same kernel program, without tracking.",
        ratios: false,
        seconds: |quick| if quick { 4.0 } else { 30.0 },
        measure: flows::run,
    },
    Section {
        key: "buckets",
        title: "What a change of the table moves, and how even shares are",
        how: "65,536 buckets; one of the workers leaves, the one in the middle, or another one joins. The minimum of a leave is what the leaver \
              had, of a join what the joiner then has.",
        ratios: false,
        seconds: |_| 12.0,
        measure: table::buckets,
    },
    Section {
        key: "publish",
        title: "Time to compute and publish a change",
        how: "One worker leaves, and returns; computed, and written into the table of a group in the kernel. Maglev computes its table anew and \
              the buckets that differ are written.",
        ratios: false,
        seconds: |quick| if quick { 9.0 } else { 21.0 },
        measure: table::publish,
    },
    Section {
        key: "decision",
        title: "Nanoseconds per decision",
        how: "From the kernel's run-time statistics of programs; the empty program is subtracted. 8 workers. A run is a setting: all groups made \
              anew, and all programs by turns. A bare select takes a constant slot, one \"by hash\" the slot that the kernel's hash says; \"address \
              read\" and \"by table\" do one thing more: read the client's address, and read the hash's bucket of 65,536, all of which are \
              zero. `cargo xtask bench decision`.",
        ratios: false,
        seconds: decision::seconds,
        measure: |record, _| decision::run(record),
    },
    Section {
        key: "growth",
        title: "Growth: workers",
        how: "ns with the measuring itself, about 56; beside it programs that select by the kernel's hash alone, and by a table of as many buckets \
              as ours (of 512 sockets where there are 1,000). Memory of the daemon, and of the maps in the kernel that it holds.",
        ratios: false,
        seconds: |quick| {
            let sizes: &[u16] = if quick { &[2, 16, 128] } else { &[2, 16, 128, 1000] };
            sizes.iter().map(|workers| growth::workers_seconds(*workers)).sum::<f64>()
                * if quick { 1.0 } else { 7.0 }
        },
        measure: growth::workers,
    },
    Section {
        key: "flow-growth",
        title: "Growth: UDP flows",
        how: "8 workers; flows by turns. ns with the measuring itself, about 56.",
        ratios: false,
        seconds: |quick| {
            let all = [1_000, 10_000, 100_000, 1_000_000].into_iter().map(growth::flows_seconds).sum::<f64>();
            if quick { all } else { 5.0 * all }
        },
        measure: growth::flows,
    },
    Section {
        key: "binding",
        title: "What `sockets = \"bind\"` costs others",
        how: "A process with `sockets = \"bind\"` opens UDP sockets on any free port, and makes other system calls; nginx with 4 workers and `reuseport` \
              answers 64 clients, whose connections are kept or new. By turns with the same programs alone.",
        ratios: true,
        seconds: |quick| 2.0 * binding::seconds(quick) * if quick { 3.0 } else { 9.0 },
        measure: binding::run_all,
    },
];
