//! What goes on in a thread, or a process, of its own until it is told to end.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// A process; killed on drop.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // One that has ended is fine as well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process and those that it starts, like a script's; all killed on drop.
pub struct KilledAll(Killed);

impl KilledAll {
    /// Starts it.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        Self(Killed(command.process_group(0).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))))
    }

    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.0.0.id()).expect("a process id")
    }
}

impl Drop for KilledAll {
    fn drop(&mut self) {
        // All may have ended.
        let _ = killpg(Pid::from_raw(self.pid()), Signal::SIGKILL);
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
