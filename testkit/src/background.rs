//! What goes on in a thread, or a process, of its own until it is told to end.

use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// A process; killed on drop.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // One that has ended is fine as well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Work in this thread's namespace, which ends when it looks at its flag next.
pub struct Background<T> {
    over: Arc<AtomicBool>,
    running: JoinHandle<T>,
}

impl<T: Send + 'static> Background<T> {
    /// Starts `work`, which goes on until the flag that it gets is set.
    #[must_use]
    pub fn start(work: impl FnOnce(&AtomicBool) -> T + Send + 'static) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let flag = over.clone();
        Self { over, running: std::thread::spawn(move || work(&flag)) }
    }

    /// Ends it; what came of it.
    ///
    /// # Panics
    /// If the thread panicked.
    #[must_use]
    pub fn end(self) -> T {
        self.over.store(true, Ordering::Relaxed);
        self.running.join().expect("what went on in the background panicked")
    }
}

/// Sets a flag on drop, also when a test fails: what looks at it ends.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Does `act` beside `work`, which goes on until the flag that it gets is set; what came of both.
///
/// # Panics
/// If one of them panics.
pub fn beside<T, W: Send>(work: impl FnOnce(&AtomicBool) -> W + Send, act: impl FnOnce() -> T) -> (T, W) {
    let flag = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = Over(&flag);
        let working = scope.spawn(|| work(&flag));
        let acted = act();
        drop(over);
        (acted, working.join().expect("what went on beside it panicked"))
    })
}
