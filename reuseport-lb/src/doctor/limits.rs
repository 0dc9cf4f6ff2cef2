//! Checks of limited resources: open files, memory, queues, ports.

use reuseport_lb_common::activity::Activity;
use reuseport_lb_common::counters::Counters;
use reuseport_lb_common::load::Load;
use reuseport_lb_common::slots::MAX_SLOTS;
use reuseport_lb_common::table::Table;

use super::Check;
use crate::config::ServiceConfig;
use crate::domain::listener::{Listener, Protocol};
use crate::kernel::findings::Memory;

/// Descriptors of a daemon without services: standard ones, lock, sockets, runtime.
const FILES: u64 = 24;

/// Descriptors of one group: its program, six maps, the log's events, and what loading takes.
const FILES_OF_GROUP: u64 = 12;

/// Descriptors of one worker besides its sockets: two pidfds, notification socket, pipe and page of its output, start.
const FILES_OF_WORKER: u64 = 6;

/// Memory of one group's smaller parts: socket array, log ring, program.
const SMALL_PARTS: u64 = 1 << 20;

/// Bytes of the largest datagram.
const LARGEST_DATAGRAM: u64 = 64 << 10;

/// Bytes that a small datagram takes in a receive queue.
const SMALL_DATAGRAM: u64 = 768;

/// The most sockets of one SO_REUSEPORT group (`reuseport_grow`, net/core/sock_reuseport.c).
pub(super) const GROUP: usize = 32_768;

/// Checks the hard limit of open files, to which the daemon raises its own.
#[must_use]
pub fn open_files(hard: u64, services: &[ServiceConfig]) -> Check {
    let of_worker = |service: &ServiceConfig| service.listen.len() as u64 + FILES_OF_WORKER;
    let of = |service: &ServiceConfig| {
        service.listen.len() as u64 * FILES_OF_GROUP + service.workers as u64 * of_worker(service)
    };
    let need = FILES + services.iter().map(of).sum::<u64>();
    let one_more = services.iter().map(of_worker).max().unwrap_or_default();
    let workers: usize = services.iter().map(|service| service.workers).sum();
    let listeners: usize = services.iter().map(|service| service.listen.len()).sum();
    let uses = format!("{workers} workers and {listeners} listeners take about {need}");
    let mend = format!("LimitNOFILE={} in the unit, or `ulimit -Hn`, or fewer workers", 2 * need);
    if hard < need {
        let says = format!("the hard limit of open files is {hard}; {uses}");
        return Check::failure("open-files", says, "`run` fails with \"too many open files\"", mend);
    }
    if hard < need + one_more {
        return Check::warning(
            "open-files",
            format!("the hard limit of open files is {hard}; {uses}, and replacing a worker {one_more} more"),
            "`restart`, and joining with `exec`, may fail",
            mend,
        );
    }
    Check::ok("open-files", format!("{uses}, of {hard}"))
}

/// Checks the memory limit against what the maps of all groups need with so many possible CPUs.
#[must_use]
pub fn memory(found: Option<&Memory>, services: &[ServiceConfig], cpus: u64) -> Check {
    let always = size_of::<Table>() + size_of::<Load>() + MAX_SLOTS * size_of::<u64>();
    let counters = size_of::<Counters>() as u64 * cpus;
    let of = |service: &ServiceConfig, listener: &Listener| {
        let activity = if service.tracks(listener) { size_of::<Activity>() } else { 0 };
        (always + activity) as u64 + counters + SMALL_PARTS
    };
    let of_service = |service: &ServiceConfig| -> u64 { service.listeners().map(|it| of(service, it)).sum() };
    let need: u64 = services.iter().map(of_service).sum();
    let uses = format!("the maps of all listeners take about {}", mebibytes(need));
    let Some(Memory { cgroup, limit, used }) = found else {
        return Check::ok("memory", format!("{uses}; no cgroup of this process limits it"));
    };
    let free = limit.saturating_sub(*used);
    let says =
        format!("{uses}; the cgroup {cgroup} may have {}, and has {}", mebibytes(*limit), mebibytes(*used));
    let mend = format!("MemoryMax= of the unit, or --memory of the container: {} more", mebibytes(2 * need));
    if *limit < need {
        let means = "`run` fails: the maps count as memory of the process that makes them";
        return Check::failure("memory", says, means, mend);
    }
    // A part of the used memory may be cache, which the kernel frees when it needs to: so this is no failure.
    if free < 2 * need {
        let means = "`run` may fail, or the next daemon, which makes new maps before it lets the old ones go";
        return Check::warning("memory", says, means, mend);
    }
    Check::ok("memory", says)
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

/// Checks `backlog` of a service with TCP listeners against `net.core.somaxconn`.
#[must_use]
pub fn backlog(service: &ServiceConfig, somaxconn: Option<u64>) -> Option<Check> {
    service.listeners().find(|listener| listener.protocol == Protocol::Tcp)?;
    let (backlog, most) = (service.backlog, somaxconn?);
    let check = if most < u64::from(backlog) {
        Check::warning(
            "backlog",
            format!("`backlog` is {backlog}, and net.core.somaxconn caps it at {most}"),
            format!(
                "each accept queue holds {most} connections; beyond that clients wait for their next try"
            ),
            format!("`sysctl -w net.core.somaxconn={backlog}`, or `backlog = {most}`"),
        )
    } else {
        Check::ok("backlog", format!("each accept queue holds {backlog} connections"))
    };
    Some(check.about(&service.name))
}

/// Checks `net.core.rmem_default`, the receive queue of each UDP socket.
#[must_use]
pub fn receive_queue(bytes: u64) -> Check {
    let holds = format!(
        "net.core.rmem_default is {bytes}: the queue of a UDP socket holds about {} small datagrams",
        bytes / SMALL_DATAGRAM
    );
    if bytes < LARGEST_DATAGRAM {
        let means = "datagrams that come while a worker is busy are dropped early";
        return Check::warning(
            "udp-queue",
            holds,
            means,
            "`sysctl -w net.core.rmem_default=212992`, or more",
        );
    }
    Check::ok("udp-queue", holds)
}

/// Checks the service's ports against those that the kernel gives to outgoing connections:
/// `net.ipv4.ip_local_port_range` without `net.ipv4.ip_local_reserved_ports`. `None` if none of them is among those.
#[must_use]
pub fn local_ports(service: &ServiceConfig, range: (u16, u16), reserved: &str) -> Option<Check> {
    let mut ports: Vec<u16> = service.listeners().map(|listener| listener.address.port()).collect();
    ports.retain(|port| *port != 0 && (range.0..=range.1).contains(port) && !is_listed(*port, reserved));
    ports.sort_unstable();
    ports.dedup();
    if ports.is_empty() {
        return None;
    }
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    let ports = ports.join(",");
    let reserved = reserved.trim();
    let all = if reserved.is_empty() { ports.clone() } else { format!("{reserved},{ports}") };
    let check = Check::warning(
        "local-ports",
        format!("{ports} is in net.ipv4.ip_local_port_range ({} to {})", range.0, range.1),
        "an outgoing connection may have the port just when the daemon starts, which then fails",
        format!("`sysctl -w net.ipv4.ip_local_reserved_ports={all}`, or a port outside of the range"),
    );
    Some(check.about(&service.name))
}

/// Whether `port` is in a list like `80,8000-8080`.
fn is_listed(port: u16, list: &str) -> bool {
    list.trim().split(',').any(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        matches!((first.parse::<u16>(), last.parse()), (Ok(first), Ok(last)) if (first..=last).contains(&port))
    })
}
