//! Flows that go on by themselves while a test does something else.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Flows, Round};
use crate::daemon::until;

/// Flows in a thread of their own, with a round every now and then; ended on drop.
pub struct Live {
    record: Arc<Record>,
    running: Option<JoinHandle<Flows>>,
}

#[derive(Default)]
struct Record {
    state: Mutex<State>,
    /// There is something to do before it is time for the next round.
    hurry: Condvar,
}

impl Record {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct State {
    stop: bool,
    /// A round is wanted that begins after this.
    wanted: Option<Instant>,
    /// When the last whole round had begun.
    begun: Option<Instant>,
    all: Option<Round>,
}

impl Flows {
    /// Keeps them live: a round, begun this long after the one before, or when that is over.
    #[must_use]
    pub fn keep(mut self, every: Duration) -> Live {
        let record = Arc::new(Record::default());
        let shared = record.clone();
        let running = std::thread::spawn(move || {
            loop {
                let begun = Instant::now();
                let round = self.round();
                let mut state = shared.lock();
                state.all = Some(match state.all.take() {
                    Some(all) => all.then(round),
                    None => round,
                });
                state.begun = Some(begun);
                while !state.stop
                    && state.wanted.is_none_or(|wanted| wanted < begun)
                    && let Some(rest) = every.checked_sub(begun.elapsed())
                {
                    let waited = shared.hurry.wait_timeout(state, rest);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                if state.stop {
                    return self;
                }
            }
        });
        Live { record, running: Some(running) }
    }
}

impl Live {
    /// What became of the datagrams until now, after another whole round.
    ///
    /// # Panics
    /// If the thread panicked.
    #[must_use]
    pub fn look(&self) -> Round {
        let now = Instant::now();
        self.record.lock().wanted = Some(now);
        self.record.hurry.notify_one();
        until("a round of live flows", || {
            assert!(!self.running.as_ref().is_none_or(JoinHandle::is_finished), "the flows' thread panicked");
            let state = self.record.lock();
            if state.begun.is_some_and(|begun| begun >= now) { state.all.clone() } else { None }
        })
    }

    /// Ends it after another whole round; the flows, and what became of the datagrams until then.
    ///
    /// # Panics
    /// If the thread panicked.
    #[must_use]
    pub fn end(mut self) -> (Flows, Round) {
        let so_far = self.look();
        self.stop();
        let joined = self.running.take().map(JoinHandle::join);
        let flows = joined.and_then(Result::ok).expect("the flows' thread panicked");
        // It may have begun another round meanwhile.
        let all = self.record.lock().all.take();
        (flows, all.unwrap_or(so_far))
    }

    fn stop(&self) {
        self.record.lock().stop = true;
        self.record.hurry.notify_one();
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.stop();
        if let Some(running) = self.running.take() {
            // A thread that panicked has said so.
            let _ = running.join();
        }
    }
}
