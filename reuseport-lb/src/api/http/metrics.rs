//! `/metrics`: a status as series for Prometheus (docs/METRICS.md). Not: what is measured.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{self, DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use reuseport_lb_client::api::{
    GroupStatus, ServiceStatus, ServiceTotals, SocketStatus, Status, WorkerStatus,
};
use reuseport_lb_common::counters::{Counter, Stage};

use crate::config::MetricsConfig;
use crate::domain::judgement::Judgement;
use crate::handle::measure;

/// The label that is missing where series are sums over listeners.
const LISTENER: &str = "listener";

/// How many labels a series has at most.
const MOST_LABELS: usize = 3;

/// How all names begin.
const PREFIX: &str = "reuseport_lb";

/// A format of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus's text format 0.0.4.
    Text,
}

impl Format {
    /// OpenMetrics where an `Accept` header names it, as Prometheus's does.
    pub(super) fn accepted<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        let named =
            accept.into_iter().any(|it| it.to_ascii_lowercase().contains("application/openmetrics-text"));
        if named { Self::OpenMetrics } else { Self::Text }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => encoding::prometheus_text::CONTENT_TYPE,
        }
    }

    pub(super) fn encode(self, status: &Arc<Status>, metrics: MetricsConfig) -> String {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(Snapshot(status.clone(), metrics)));
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = match self {
            Self::OpenMetrics => encoding::text::encode(&mut text, &registry),
            Self::Text => encoding::prometheus_text::encode(&mut text, &registry),
        };
        text
    }
}

macro_rules! metrics {
    ($($variant:ident $name:literal $kind:ident [$($label:literal)*] $help:literal;)*) => {
        /// What is shown: a family of series each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Metric { $($variant,)* }

        impl Metric {
            const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name without prefix, and without `_total` of counters.
            const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            const fn kind(self) -> MetricType {
                match self { $(Self::$variant => MetricType::$kind),* }
            }

            const fn labels(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &[$($label),*]),* }
            }

            const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help),* }
            }
        }
    };
}

metrics! {
    BuildInfo "build_info" Gauge ["version" "kernel"] "1, with the versions of the daemon and of the kernel";
    StartTime "start_time_seconds" Gauge [] "when the daemon was started, since 1970";
    ReloadSuccessful "config_last_reload_successful" Gauge [] "1 if the last reload was applied, or there was none";
    ReloadTime "config_last_reload_timestamp_seconds" Gauge [] "when the last reload, or the start, was applied or refused, since 1970";
    HostDrained "host_drained" Gauge [] "1 if the machine is to get nothing new (`host drain`)";
    LongestStep "longest_step_seconds" Gauge [] "longest time that one step kept the daemon's loop from all else";
    ServiceReady "service_ready" Gauge ["service"] "1 if a worker is ready and gets connections, and the service is not ending: what /readyz says";
    ServiceEnding "service_ending" Gauge ["service"] "1 if the service is to end";
    WorkersWanted "workers_wanted" Gauge ["service"] "workers that the daemon keeps";
    WorkersReady "workers_ready" Gauge ["service"] "workers that are ready";
    BucketsMoved "buckets_moved" Counter ["service"] "buckets that changed their worker, also at a single UDP listener where one does not read";
    BucketsMoving "buckets_moving" Gauge ["service"] "buckets in which live flows stay with another worker than the one that gets new ones";
    BucketsWaiting "buckets_waiting" Gauge ["service"] "buckets that should change their worker, but wait for live flows";
    FlowsCut "flows_cut" Counter ["service"] "UDP flows that still lived when the time of their leaving worker was over";
    HandedOver "handed_over" Counter ["service"] "connections that other workers got, because the one that was removed did not accept them";
    Rollouts "rollouts" Counter ["service" "result"] "replacements of workers, by whether all were replaced (done) or not (failed)";
    Drains "drain_seconds" Histogram ["service"] "time from the move of a worker's buckets until it was removed";
    Arrivals "arrivals" Counter ["service" "listener" "kind"] "decisions, by why the program ran (stage Arrival)";
    Owners "owners" Counter ["service" "listener" "outcome"] "decisions, by what became of the bucket's own worker (stage Owner)";
    Detours "detours" Counter ["service" "listener" "to"] "decisions whose owner was asked, and neither taken nor kept, by who was asked instead (stage Detour)";
    Refused "refused" Counter ["service" "listener"] "decisions that selected nobody";
    SelectFailed "select_failed" Counter ["service" "listener"] "single attempts at a socket that failed";
    KeyFallback "key_fallback" Counter ["service" "listener"] "decisions for which what the key is made of could not be read";
    QuicRouted "quic_routed" Counter ["service" "listener"] "datagrams whose connection id named their worker, which got them";
    QuicUnroutable "quic_unroutable" Counter ["service" "listener"] "datagrams whose connection id named nobody who is there, so that their flow decided";
    Flows "flows" Gauge ["service" "listener" "kind"] "live UDP flows: all, and those that stay with a worker that gets no new ones of their bucket";
    Strangers "strangers" Gauge ["service" "listener"] "sockets of other programs on the address";
    Selected "selected" Counter ["service" "listener" "worker"] "decisions for the worker since it got its slot";
    Connections "connections" Gauge ["service" "listener" "worker"] "live connections, of services that count them";
    QueueLength "queue_length" Gauge ["service" "listener" "worker"] "what waits in the worker's queue: connections of TCP, bytes of UDP";
    QueueLimit "queue_limit" Gauge ["service" "listener" "worker"] "limit of the queue, in the same unit";
    Drops "drops" Counter ["service" "listener" "worker"] "what the kernel dropped because the queue was full: handshakes of TCP, datagrams of UDP";
    WorkerState "worker_state" Gauge ["service" "worker" "state"] "1 for the state that the worker is in, 0 for the others";
    WorkerWeight "worker_weight" Gauge ["service" "worker"] "weight of the worker";
    WorkerShare "worker_share_ratio" Gauge ["service" "worker"] "share of all buckets, from 0 to 1";
    WorkerOverloaded "worker_overloaded" Gauge ["service" "worker"] "1 if new connections avoid the worker because its queue is much deeper than those of the others";
    WorkerRestarts "worker_restarts" Counter ["service" "worker" "reason"] "how often a process was started again because one had ended: by itself (ended) or by SIGKILL from outside (killed)";
    WorkerStartTime "worker_start_time_seconds" Gauge ["service" "worker"] "when the worker's process was started, since 1970";
    WorkerCpu "worker_cpu_seconds" Counter ["service" "worker"] "CPU time of the worker's process, without its children";
    WorkerMemory "worker_resident_bytes" Gauge ["service" "worker"] "resident memory of the worker's process, without its children";
    DroppedLines "worker_output_dropped_lines" Counter ["service" "worker"] "lines of the worker's output that nobody took in time";
}

/// States of workers, as `status` shows them.
const STATES: [&str; 7] = ["starting", "loading", "ready", "draining", "held", "stalled", "failed"];

#[derive(Debug)]
struct Snapshot(Arc<Status>, MetricsConfig);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self(status, MetricsConfig { per_listener }) = self;
        let workers: Vec<Vec<Named<'_>>> = status.services.iter().map(named).collect();
        for metric in Metric::ALL {
            let family = encoder.encode_descriptor(metric.name(), metric.help(), None, metric.kind())?;
            let sums = (!per_listener && metric.labels().contains(&LISTENER)).then(BTreeMap::new);
            let mut samples = Samples { metric: *metric, family, sums, failed: Ok(()) };
            samples.of_all(status, &workers);
            samples.finish()?;
        }
        Ok(())
    }
}

/// The series of one metric.
struct Samples<'a> {
    metric: Metric,
    family: MetricEncoder<'a>,
    /// Sums over listeners by the values of the other labels; `None` if each series is written as it comes.
    sums: Option<BTreeMap<Vec<String>, f64>>,
    failed: fmt::Result,
}

/// A worker by its name: one that serves, one that is to take over from it, one that leaves.
struct Named<'a> {
    /// The one that the name stands for.
    now: &'a WorkerStatus,
    /// The sockets of all, by listener.
    sockets: BTreeMap<&'a str, Vec<&'a SocketStatus>>,
}

/// The workers of a service by their names.
fn named<'a>(service: &'a ServiceStatus) -> Vec<Named<'a>> {
    let mut by_name: BTreeMap<&str, Vec<&WorkerStatus>> = BTreeMap::new();
    for worker in &service.workers {
        by_name.entry(&worker.name).or_default().push(worker);
    }
    let stands_for = |worker: &&&WorkerStatus| (worker.successor, worker.state == "draining");
    let of_name = |all: Vec<&'a WorkerStatus>| {
        let mut sockets: BTreeMap<&str, Vec<&SocketStatus>> = BTreeMap::new();
        for socket in all.iter().flat_map(|worker| &worker.sockets) {
            sockets.entry(&socket.listen).or_default().push(socket);
        }
        Some(Named { now: *all.iter().min_by_key(stands_for)?, sockets })
    };
    by_name.into_values().filter_map(of_name).collect()
}

impl Samples<'_> {
    /// Adds a series with the values of its labels, in their order.
    fn add(&mut self, labels: &[&str], value: f64) {
        let labels = self.metric.labels().iter().copied().zip(labels.iter().copied());
        if let Some(sums) = &mut self.sums {
            let others = labels.filter(|(name, _)| *name != LISTENER).map(|(_, value)| value.to_owned());
            *sums.entry(others.collect()).or_default() += value;
            return;
        }
        // Without memory of its own: there are many series.
        let mut named = [("", ""); MOST_LABELS];
        let count = named.iter_mut().zip(labels).map(|(to, label)| *to = label).count();
        self.write(&named[..count], value);
    }

    /// Writes the sums, if there are any.
    fn finish(mut self) -> fmt::Result {
        let names = self.metric.labels().iter().copied().filter(|name| *name != LISTENER);
        for (values, sum) in self.sums.take().unwrap_or_default() {
            let labels: Vec<(&str, &str)> = names.clone().zip(values.iter().map(String::as_str)).collect();
            self.write(&labels, sum);
        }
        self.failed
    }

    fn write(&mut self, labels: &[(&str, &str)], value: f64) {
        let written = self.family.encode_family(&labels).and_then(|mut series| match self.metric.kind() {
            MetricType::Counter => series.encode_counter::<NoLabelSet, f64, f64>(&value, None),
            _ => series.encode_gauge(&value),
        });
        self.failed = self.failed.and(written);
    }

    fn of_all(&mut self, status: &Status, workers: &[Vec<Named<'_>>]) {
        let reload = status.last_reload;
        match self.metric {
            Metric::BuildInfo => self.add(&[&status.version, &status.kernel], 1.0),
            Metric::StartTime => self.add(&[], status.start_time),
            Metric::ReloadSuccessful => self.add(&[], flag(reload.is_none_or(|reload| reload.successful))),
            Metric::ReloadTime => self.add(&[], reload.map_or(status.start_time, |reload| reload.time)),
            Metric::HostDrained => self.add(&[], flag(status.host_drained.is_some())),
            Metric::LongestStep => self.add(&[], status.longest_step_ms / 1000.0),
            _ => {
                for (service, workers) in status.services.iter().zip(workers) {
                    self.of_service(service, workers);
                }
            }
        }
    }

    fn of_service(&mut self, service: &ServiceStatus, workers: &[Named<'_>]) {
        let value = match self.metric {
            Metric::ServiceReady => flag(Judgement::of(false, &[measure(service)]).weight() > 0),
            Metric::ServiceEnding => flag(service.ending),
            Metric::WorkersWanted => service.wanted as f64,
            Metric::WorkersReady => {
                let ready = |it: &&Named<'_>| it.now.state == "ready" && it.now.member && !it.now.is_part();
                workers.iter().filter(ready).count() as f64
            }
            Metric::BucketsMoved => service.moved as f64,
            Metric::BucketsMoving => service.moving as f64,
            Metric::BucketsWaiting => f64::from(service.waiting),
            Metric::FlowsCut => service.flows_cut as f64,
            Metric::HandedOver => service.totals.handed_over as f64,
            Metric::Rollouts => {
                self.add(&[&service.name, "done"], service.totals.rollouts_done as f64);
                return self.add(&[&service.name, "failed"], service.totals.rollouts_failed as f64);
            }
            Metric::Drains => return self.drains(&service.name, &service.totals),
            _ => {
                service.groups.iter().for_each(|group| self.of_group(&service.name, group));
                return workers.iter().for_each(|worker| self.of_worker(&service.name, worker));
            }
        };
        self.add(&[&service.name], value);
    }

    fn drains(&mut self, service: &str, totals: &ServiceTotals) {
        let groups: Vec<(f64, u64)> =
            totals.drains.iter().map(|(bound, count)| (bound.unwrap_or(f64::MAX), *count)).collect();
        let count = groups.iter().map(|(_, count)| count).sum();
        let written = self.family.encode_family(&[("service", service)]).and_then(|mut series| {
            series.encode_histogram::<NoLabelSet>(totals.drain_seconds, count, &groups, None)
        });
        self.failed = self.failed.and(written);
    }

    fn of_group(&mut self, service: &str, group: &GroupStatus) {
        let of = |counter: &Counter| group.counters.get(counter.name()).copied().unwrap_or_default() as f64;
        let labels = [service, &group.listen];
        let stage = match self.metric {
            Metric::Arrivals => Stage::Arrival,
            Metric::Owners => Stage::Owner,
            Metric::Detours => Stage::Detour,
            Metric::Refused => return self.add(&labels, of(&Counter::Refused)),
            Metric::SelectFailed => return self.add(&labels, of(&Counter::SelectFailed)),
            Metric::KeyFallback => return self.add(&labels, of(&Counter::KeyFallback)),
            Metric::QuicRouted => return self.add(&labels, of(&Counter::QuicRouted)),
            Metric::QuicUnroutable => return self.add(&labels, of(&Counter::QuicUnroutable)),
            Metric::Flows => {
                for (kind, count) in
                    group.flows.iter().flat_map(|flows| [("live", flows.live), ("kept", flows.kept)])
                {
                    self.add(&[service, &group.listen, kind], count as f64);
                }
                return;
            }
            Metric::Strangers => {
                return group.strangers.into_iter().for_each(|count| self.add(&labels, count as f64));
            }
            _ => return,
        };
        for counter in Counter::ALL.iter().filter(|counter| counter.stage() == stage) {
            let kind = counter.name().split_once('_').map_or(counter.name(), |(_, kind)| kind);
            self.add(&[service, &group.listen, kind], of(counter));
        }
    }

    fn of_worker(&mut self, service: &str, worker: &Named<'_>) {
        let Named { now, sockets } = worker;
        let of_socket: fn(&SocketStatus) -> Option<u32> = match self.metric {
            // A worker that took over from another one goes on counting.
            Metric::Selected => {
                for socket in &now.sockets {
                    self.add(&[service, &socket.listen, &now.name], socket.selected as f64);
                }
                return;
            }
            Metric::Connections => |socket| socket.connections,
            Metric::QueueLength => |socket| Some(socket.queue),
            Metric::QueueLimit => |socket| Some(socket.backlog),
            Metric::Drops => |socket| Some(socket.drops),
            Metric::WorkerState => {
                return STATES
                    .iter()
                    .for_each(|state| self.add(&[service, &now.name, state], flag(now.state == *state)));
            }
            Metric::WorkerRestarts => {
                self.add(&[service, &now.name, "ended"], now.restarts.saturating_sub(now.kills).into());
                return self.add(&[service, &now.name, "killed"], now.kills.into());
            }
            _ => {
                let value = match (self.metric, now.usage) {
                    (Metric::WorkerWeight, _) => now.weight.into(),
                    (Metric::WorkerShare, _) => now.share,
                    (Metric::WorkerOverloaded, _) => flag(now.overloaded),
                    (Metric::DroppedLines, _) => now.dropped_lines as f64,
                    (Metric::WorkerStartTime, Some(usage)) => usage.start_time,
                    (Metric::WorkerCpu, Some(usage)) => usage.cpu_seconds,
                    (Metric::WorkerMemory, Some(usage)) => usage.resident_bytes as f64,
                    _ => return,
                };
                return self.add(&[service, &now.name], value);
            }
        };
        for (listener, sockets) in sockets {
            let values = sockets.iter().filter_map(|socket| of_socket(socket)).map(u64::from);
            if let Some(sum) = values.reduce(|sum, value| sum + value) {
                self.add(&[service, listener, &now.name], sum as f64);
            }
        }
    }
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

#[cfg(test)]
mod tests;
