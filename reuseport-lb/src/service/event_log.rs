//! What happened to the daemon and its services: a bounded log in memory, which any number of readers follow. Not: what
//! is an incident (`domain/incident.rs`), nor the protocols (`api/`).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use reuseport_lb_client::api::{EventKind, EventLine, EventRecord, Requester};
use tokio::sync::watch;

use crate::domain::incident::{Asker, Cause, Incident, IncidentKind};
use crate::kernel::host;

/// How many events are kept.
pub const KEPT: usize = 2048;

/// The events of a daemon. Readers get them by [`EventReader`].
#[derive(Default)]
pub struct EventLog {
    kept: RefCell<VecDeque<EventRecord>>,
    news: watch::Sender<()>,
}

impl EventLog {
    /// Adds what happened to the daemon itself.
    pub fn add(&self, kind: EventKind, reason: Option<String>, by: Option<Requester>) {
        self.push(None, None, kind, reason, by);
    }

    /// Adds what happened to a service.
    pub fn add_incident(&self, service: &str, incident: Incident) {
        let Incident { worker, kind, cause: Cause { reason, by } } = incident;
        self.push(Some(service.to_owned()), worker, kind.into(), reason, by.map(Into::into));
    }

    fn push(
        &self,
        service: Option<String>,
        worker: Option<String>,
        kind: EventKind,
        reason: Option<String>,
        by: Option<Requester>,
    ) {
        let mut kept = self.kept.borrow_mut();
        let seq = kept.back().map_or(1, |last| last.seq + 1);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(EventRecord { seq, time: host::now(), service, worker, kind, reason, by });
        self.news.send_replace(());
    }

    /// Reads all events that are kept, and follows.
    #[must_use]
    pub fn reader(self: &Rc<Self>) -> EventReader {
        EventReader { next: 1, news: self.news.subscribe(), log: self.clone() }
    }
}

/// Reads the events of a daemon in their order, from the first one that is kept.
pub struct EventReader {
    log: Rc<EventLog>,
    next: u64,
    news: watch::Receiver<()>,
}

impl EventReader {
    /// The next event, or how many are not kept any more; `None`: there is none yet.
    pub fn read(&mut self) -> Option<EventLine> {
        let kept = self.log.kept.borrow();
        let first = kept.front()?.seq;
        if self.next < first {
            let missed = first - self.next;
            self.next = first;
            return Some(EventLine::Missed { missed });
        }
        let event = kept.get((self.next - first) as usize)?.clone();
        self.next += 1;
        Some(EventLine::Event(event))
    }

    /// Waits for an event after those that are kept now. May be cancelled.
    pub async fn wait(&mut self) {
        // The sender lives as long as this reader.
        let _ = self.news.changed().await;
    }
}

impl From<Asker> for Requester {
    fn from(asker: Asker) -> Self {
        match asker {
            Asker::Process { pid, uid, command } => Self::Process { pid, uid, command },
            Asker::Signal(signal) => Self::Signal { signal },
        }
    }
}

impl From<IncidentKind> for EventKind {
    fn from(kind: IncidentKind) -> Self {
        match kind {
            IncidentKind::Up => Self::Up,
            IncidentKind::TakenOver { workers } => Self::TakenOver { workers },
            IncidentKind::Added => Self::Added,
            IncidentKind::State { successor, from, to, .. } => {
                Self::State { from: from.to_string(), to: to.to_string(), successor }
            }
            IncidentKind::Ended { successor, expected } => Self::Ended { successor, expected },
            IncidentKind::Serves => Self::Serves,
            IncidentKind::Removed { took, handed_over, flows_cut } => {
                Self::Removed { seconds: took.as_secs_f64(), handed_over, flows_cut }
            }
            IncidentKind::Weight { from, to } => Self::Weight { from, to },
            IncidentKind::Scaled { from, to } => Self::Scaled { from, to },
            IncidentKind::Replacing { workers } => Self::Replacing { workers },
            IncidentKind::Replaced { workers, all } => Self::Replaced { workers, all },
            IncidentKind::Stalled { listener } => Self::Stalled { listen: listener.to_string() },
            IncidentKind::Recovered { listener } => Self::Recovered { listen: listener.to_string() },
            IncidentKind::Moved { buckets, members } => Self::Moved { buckets, members },
            IncidentKind::Ending => Self::Ending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(reader: &mut EventReader) -> Vec<u64> {
        let seq = |line| match line {
            EventLine::Event(event) => event.seq,
            EventLine::Missed { missed } => 1_000_000 + missed,
        };
        std::iter::from_fn(|| reader.read()).map(seq).collect()
    }

    #[test]
    fn each_reader_gets_each_event_once_or_is_told_how_many_it_missed() {
        let log = Rc::<EventLog>::default();
        let (mut early, happens) = (log.reader(), || log.add(EventKind::Up, None, None));
        happens();
        assert_eq!(read(&mut early), [1]);
        (0..KEPT + 2).for_each(|_| happens());
        let late = read(&mut log.reader());
        assert_eq!((late.len(), late[0], late[1]), (KEPT + 1, 1_000_003, 4));
        let seen = read(&mut early);
        assert_eq!((seen[0], seen[1], seen.last().copied()), (1_000_002, 4, Some(KEPT as u64 + 3)));
        assert!(read(&mut early).is_empty());
    }
}
