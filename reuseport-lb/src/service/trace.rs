//! Traces of single decisions: from the program's log ring to the subscribers.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use aya_log::EbpfLogger;
use reuseport_lb_client::api::TracedDecision;
use reuseport_lb_common::counters::Counter;
use reuseport_lb_common::slots::NO_SLOT;
use reuseport_lb_common::table::BUCKETS;
use reuseport_lb_common::trace_word::TraceWord;
use tokio::sync::broadcast;

use crate::kernel::watch;

/// How many decisions may wait for a slow subscriber; with more, it misses the oldest.
const WAITING: usize = 4096;

/// Names of workers by their slots, for the lines of a trace.
pub type Names = Arc<RwLock<HashMap<u16, String>>>;

/// Sends a service's traced decisions to all subscribers.
#[derive(Clone)]
pub struct Tracer {
    lines: broadcast::Sender<TracedDecision>,
    names: Names,
}

impl Default for Tracer {
    fn default() -> Self {
        Self { lines: broadcast::Sender::new(WAITING), names: Names::default() }
    }
}

impl Tracer {
    /// A receiver of all decisions from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<TracedDecision> {
        self.lines.subscribe()
    }

    /// Whether there are subscribers.
    #[must_use]
    pub fn wanted(&self) -> bool {
        self.lines.receiver_count() > 0
    }

    /// Sets the name of the worker in a slot; `None`: the slot is free.
    pub fn rename(&self, slot: u16, name: Option<&str>) {
        if let Ok(mut names) = self.names.write() {
            match name {
                Some(name) => names.insert(slot, name.to_owned()),
                None => names.remove(&slot),
            };
        }
    }

    /// A sink for the log ring of the group that listens on `listen`.
    #[must_use]
    pub fn sink(&self, listen: String) -> Sink {
        Sink { listen, tracer: self.clone() }
    }
}

/// Turns the numbers of the program's log lines into decisions.
pub struct Sink {
    listen: String,
    tracer: Tracer,
}

impl log::Log for Sink {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if let Some(decision) = self.read(&record.args().to_string()) {
            // Sending fails if the last subscriber has gone.
            let _ = self.tracer.lines.send(decision);
        }
    }

    fn flush(&self) {}
}

impl Sink {
    /// Reads a line of the program: a [`TraceWord`] as a number.
    fn read(&self, line: &str) -> Option<TracedDecision> {
        let TraceWord { key, slot, counters: [arrival, owner, detour] } =
            TraceWord::unpack(line.parse().ok()?);
        let name = |counter: u32| Counter::ALL.get(counter as usize).map(|counter| counter.name().to_owned());
        let slot = Some(slot).filter(|slot| *slot != NO_SLOT);
        let names = self.tracer.names.read().ok()?;
        Some(TracedDecision {
            listen: self.listen.clone(),
            arrival: name(arrival)?,
            key,
            bucket: (key as usize % BUCKETS) as u16,
            owner: name(owner)?,
            detour: name(detour),
            slot,
            worker: slot.and_then(|slot| names.get(&slot).cloned()),
        })
    }
}

/// Reads a group's log ring until the task is aborted; costs nothing while the ring is empty.
pub async fn follow(log: EbpfLogger<Sink>) -> std::io::Result<()> {
    let mut log = watch::readable(log)?;
    loop {
        let mut guard = log.readable_mut().await?;
        guard.get_inner_mut().flush();
        guard.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use reuseport_lb_common::counters::EVENTS;

    use super::*;

    #[test]
    fn numbers_become_names() {
        let tracer = Tracer::default();
        tracer.rename(3, Some("web/1"));
        let sink = tracer.sink("tcp://127.0.0.1:80".into());
        let counters = [Counter::Packet as u32, Counter::OwnerTaken as u32, EVENTS as u32];
        let traced = TraceWord { key: 0x0001_0002, slot: 3, counters };
        let decision = sink.read(&traced.pack().to_string()).unwrap();
        assert_eq!((decision.bucket, decision.slot, decision.detour), (2, Some(3), None));
        assert_eq!((decision.owner.as_str(), decision.worker.as_deref()), ("owner_taken", Some("web/1")));
        assert!(sink.read("something else").is_none());
    }
}
