//! Work that may take long: in a thread of its own, or on the daemon's loop in slices. And measuring how long one
//! step keeps the loop from everything else.

use std::cell::Cell;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::sync::oneshot;
use tracing::debug;

/// Longest time of one step of the daemon's loop (ARCHITECTURE.md, invariant 8).
pub const BOUND: Duration = Duration::from_millis(200);

/// Time after which a long piece of work lets other tasks run.
const SLICE: Duration = Duration::from_millis(5);

/// Steps that take longer than this are logged.
const LONG: Duration = Duration::from_millis(50);

/// Runs `work` in a new thread. The thread has the rights that the daemon has at that moment.
pub async fn in_thread<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let (done, wait) = oneshot::channel();
    let work = move || drop(done.send(work()));
    std::thread::Builder::new()
        .name(what.into())
        .spawn(work)
        .with_context(|| format!("cannot start a thread for {what}"))?;
    wait.await.with_context(|| format!("{what} failed; see above"))
}

/// Runs `work` in a new thread; if none can be started, in this one: the machine may have no process id left.
pub async fn in_thread_or_here<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let work = Arc::new(Mutex::new(Some(work)));
    let taken = work.clone();
    let take = |work: &Mutex<Option<_>>| work.lock().unwrap_or_else(PoisonError::into_inner).take();
    match in_thread(what, move || take(&taken).map(|work| work())).await {
        Ok(done) => done.context("done twice"),
        Err(error) => take(&work).map(|work| work()).ok_or(error),
    }
}

/// Runs `work` in a new thread, and fails if it does not end within `limit`, as on a file system that does not answer;
/// the thread then goes on.
pub async fn in_thread_within<T: Send + 'static>(
    limit: Duration,
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    match tokio::time::timeout(limit, in_thread(what, work)).await {
        Ok(done) => done,
        Err(_) => bail!("no answer within {limit:?}"),
    }
}

/// A long piece of work on the loop.
pub struct Slices {
    begun: Instant,
}

impl Slices {
    /// Begins the first slice.
    #[must_use]
    pub fn begin() -> Self {
        Self { begun: Instant::now() }
    }

    /// Whether the slice is over, and other tasks are to run.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.begun.elapsed() >= SLICE
    }

    /// Lets other tasks run if the slice is over.
    pub async fn turn(&mut self) {
        if self.is_over() {
            tokio::task::yield_now().await;
            *self = Self::begin();
        }
    }
}

thread_local! {
    static LONGEST: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// The longest step of this thread so far.
#[must_use]
pub fn longest() -> Duration {
    LONGEST.get()
}

/// Runs `task` and measures each of its steps.
pub async fn measured<T>(what: &str, task: impl Future<Output = T>) -> T {
    let mut task = pin!(task);
    std::future::poll_fn(|context| {
        let begun = Instant::now();
        let polled = task.as_mut().poll(context);
        let took = begun.elapsed();
        LONGEST.set(LONGEST.get().max(took));
        if took > LONG {
            debug!("{what} took {took:?} in one step");
        }
        if polled.is_ready() { polled } else { Poll::Pending }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(task: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(task)
    }

    #[test]
    fn what_does_not_answer_is_given_up_and_what_panics_is_an_error() {
        let (hold, wait) = std::sync::mpsc::channel::<()>();
        let stuck = in_thread_within(Duration::from_millis(20), "waiting", move || wait.recv());
        assert!(block_on(stuck).unwrap_err().to_string().contains("no answer within 20ms"));
        drop(hold);
        assert!(block_on(in_thread("panicking", || panic!("on purpose"))).is_err());
        assert_eq!(block_on(in_thread("counting", || 7)).ok(), Some(7));
    }

    #[test]
    fn the_longest_step_is_remembered() {
        let step = || std::thread::sleep(Duration::from_millis(20));
        block_on(measured("a test", async {
            step();
            tokio::task::yield_now().await;
            step();
        }));
        assert!(longest() >= Duration::from_millis(20) && longest() < Duration::from_millis(40));
    }

    #[test]
    fn others_get_their_turn_between_slices() {
        let counted = Cell::new(0);
        let long = async {
            let mut slices = Slices::begin();
            while counted.get() < 3 {
                slices.turn().await;
            }
        };
        let other = async {
            for _ in 0..3 {
                counted.set(counted.get() + 1);
                tokio::task::yield_now().await;
            }
        };
        block_on(async { tokio::join!(long, other) });
    }
}
