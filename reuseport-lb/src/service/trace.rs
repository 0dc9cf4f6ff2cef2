//! Traces of single decisions: from the program's log ring to the subscribers.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use aya_log::EbpfLogger;
use reuseport_lb_client::api::TracedDecision;
use reuseport_lb_common::counters::Counter;
use reuseport_lb_common::slots::NO_SLOT;
use reuseport_lb_common::table::BUCKETS;
use reuseport_lb_common::trace_word::{LINE, TraceLine, TraceWord};
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
    /// Reads a line of the program: the bytes of a [`TraceLine`].
    fn read(&self, line: &str) -> Option<TracedDecision> {
        let line = TraceLine::of(bytes(line)?);
        let TraceWord { key, slot, counters: [arrival, owner, detour] } = TraceWord::unpack(line.word);
        let name = |counter: u32| Counter::ALL.get(counter as usize).map(|counter| counter.name().to_owned());
        let slot = Some(slot).filter(|slot| *slot != NO_SLOT);
        let names = self.tracer.names.read().ok()?;
        Some(TracedDecision {
            listen: self.listen.clone(),
            client: line.client().map(|client| client.to_string()),
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

/// The bytes that are written as two hexadecimal digits each.
fn bytes(text: &str) -> Option<[u8; LINE]> {
    let mut bytes = [0; LINE];
    if !text.is_ascii() || text.len() != 2 * LINE {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
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
    use reuseport_lb_common::trace_word::family;

    use super::*;

    #[test]
    fn numbers_become_names() {
        let tracer = Tracer::default();
        tracer.rename(3, Some("web/1"));
        let sink = tracer.sink("tcp://127.0.0.1:80".into());
        let counters = [Counter::Packet as u32, Counter::OwnerTaken as u32, EVENTS as u32];
        let word = TraceWord { key: 0x0001_0002, slot: 3, counters }.pack();
        let address = "2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets();
        let mut line = word.to_ne_bytes().to_vec();
        line.extend(address.into_iter().chain([0x9c, 0x40, family::V6, 0, 0, 0, 0, 0]));
        let text: String = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let decision = sink.read(&text).unwrap();
        assert_eq!((decision.bucket, decision.slot, decision.detour), (2, Some(3), None));
        assert_eq!((decision.owner.as_str(), decision.worker.as_deref()), ("owner_taken", Some("web/1")));
        assert_eq!(decision.client.as_deref(), Some("[2001:db8::7]:40000"));
        for bad in ["something else", &text[2..], &text.replace("9c", "xc"), &text.replace("9c", "é")] {
            assert!(sink.read(bad).is_none(), "{bad}");
        }
    }
}
