//! Load: clients that come and go and connections that are kept, all in one thread, and what became
//! of every request.

mod clients;
mod report;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::daemon::until;
use crate::patience::{at_most, fewer};

pub use report::{Ended, Ending, Failure, Latencies, Report, SLOW, Slow, Stage};

/// A load ends by itself after this time.
pub const LONGEST: Duration = Duration::from_secs(600);

/// A load ends by itself when so many requests failed, or so many kept connections ended.
pub const MOST: usize = 200_000;

/// What a load shall do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    to: SocketAddr,
    clients: usize,
    kept: usize,
    every: Duration,
    pause: Duration,
}

impl Plan {
    /// So many clients open a new connection for each request, one after the other; 32 unless told.
    #[must_use]
    pub fn clients(self, clients: usize) -> Self {
        Self { clients, ..self }
    }

    /// So many connections are kept, each with a request now and then; 500 unless told, fewer on a slow
    /// machine.
    #[must_use]
    pub fn kept(self, kept: usize) -> Self {
        Self { kept, ..self }
    }

    /// Time between two requests on a kept connection; 50 ms unless told, more on a slow machine. When there is too much to
    /// do for that, it gets longer and nothing is made up for: see [`Report::pace`].
    ///
    /// # Panics
    /// If it is nothing.
    #[must_use]
    pub fn every(self, every: Duration) -> Self {
        assert!(!every.is_zero(), "a kept connection needs some time between its requests");
        Self { every, ..self }
    }

    /// Time between two requests of a client; none unless told.
    #[must_use]
    pub fn pause(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// Starts it, in this thread's namespace. Returns when each kept connection has had its first
    /// answer, or has failed once.
    ///
    /// # Panics
    /// If there can be no runtime for it.
    #[must_use]
    pub fn start(self) -> Load {
        let record = Arc::new(Record(Mutex::new(Report::new(self.kept))));
        let (stop, stopping) = watch::channel(false);
        let (opened, all_opened) = mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("cannot make a runtime for the load");
        let recording = record.clone();
        let running = std::thread::spawn(move || runtime.block_on(run(self, &recording, stopping, opened)));
        // Nothing is ever sent: this waits until the last kept connection drops its sender.
        let _ = all_opened.recv();
        Load { record, stop, running: Some(running) }
    }
}

/// A running load; stopped on drop.
pub struct Load {
    record: Arc<Record>,
    stop: watch::Sender<bool>,
    running: Option<JoinHandle<()>>,
}

impl Load {
    #[must_use]
    pub fn to(to: SocketAddr) -> Plan {
        Plan {
            to,
            clients: 32,
            kept: fewer(500),
            every: at_most(Duration::from_millis(50)),
            pause: Duration::ZERO,
        }
    }

    /// What became of the requests until now.
    #[must_use]
    pub fn report_so_far(&self) -> Report {
        self.record.now()
    }

    /// Waits until so many more requests on new connections are answered.
    ///
    /// # Panics
    /// If that takes too long.
    pub fn until_answered(&self, more: u64) {
        let answered = || self.record.lock().requests;
        let enough = answered() + more;
        until("requests to be answered", || (answered() >= enough).then_some(()));
    }

    /// Ends it; requests that have begun come to their end.
    ///
    /// # Panics
    /// If its thread panicked, or if it gave up: see [`MOST`].
    #[must_use]
    pub fn end(mut self) -> Report {
        self.stop.send_replace(true);
        let lasted = self.record.lock().lasted();
        let joined = self.running.take().map(JoinHandle::join);
        assert!(matches!(joined, Some(Ok(()))), "the load's thread panicked");
        let mut report = self.record.now();
        report.lasted = lasted;
        assert!(!report.is_full(), "too much went wrong: {report}; the last: {:?}", report.failed.last());
        report
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(running) = self.running.take() {
            // A thread that panicked has said so.
            let _ = running.join();
        }
    }
}

/// The report that all clients write to.
struct Record(Mutex<Report>);

impl Record {
    fn lock(&self) -> MutexGuard<'_, Report> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Report {
        let mut report = self.lock().clone();
        report.lasted = report.lasted();
        report
    }
}

async fn run(plan: Plan, record: &Arc<Record>, stopping: watch::Receiver<bool>, opened: mpsc::Sender<()>) {
    let begun = Instant::now();
    let (stop, all_stopping) = watch::channel(false);
    let mut tasks = JoinSet::new();
    for _ in 0..plan.clients {
        tasks.spawn(clients::come_and_go(plan, record.clone(), all_stopping.clone()));
    }
    for nth in 0..plan.kept {
        tasks.spawn(clients::stay(plan, nth, record.clone(), all_stopping.clone(), opened.clone()));
    }
    drop(opened);
    while !*stopping.borrow() && begun.elapsed() < LONGEST && !record.lock().is_full() {
        tokio::time::sleep(Duration::from_millis(20)).await; // sleep: between two looks at the clock
    }
    stop.send_replace(true);
    // Each request has its own time limit, so this comes to an end.
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a client of the load panicked");
    }
}
