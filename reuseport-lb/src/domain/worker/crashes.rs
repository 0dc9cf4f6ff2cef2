//! How often the process of a worker has ended by its own fault, PURE: when it is started again.

use std::time::Duration;

/// A worker that was ready for this long has shown that it works: its back-off starts anew.
pub(super) const PROVEN: Duration = Duration::from_secs(1);

/// First pause before a restart; doubles with every further crash in a row.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Longest pause between the restarts of a worker that has not failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// So many exits in a row, none of them after it had proven itself, make a worker `failed`.
const FAILED_AFTER: u32 = 8;

/// A failed worker is still tried, this often: what it lacked may have come back.
pub(super) const FAILED_PAUSE: Duration = Duration::from_secs(30);

/// When the machine lacks what it takes to start a process, that is tried again after this time.
pub(super) const MACHINE_PAUSE: Duration = Duration::from_secs(1);

/// A worker that was killed after it had been ready for this long is not to blame for it.
pub(super) const NOT_ITS_FAULT: Duration = Duration::from_millis(100);

/// The ends of a worker's processes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Crashes {
    /// How often a process was started again.
    restarts: u32,
    /// Exits in a row that count against it.
    streak: u32,
    /// Of those, before it had proven itself.
    unproven: u32,
}

/// When another process is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// After this pause.
    After(Duration),
    /// It ended again and again before it had run for a while; after this pause, all the same.
    Failed(Duration),
}

impl Crashes {
    pub(super) fn of(restarts: u32) -> Self {
        Self { restarts, ..Self::default() }
    }

    pub(super) fn restarts(self) -> u32 {
        self.restarts
    }

    /// Whether the last process ended by its own fault.
    pub(super) fn is_suspect(self) -> bool {
        self.streak > 0
    }

    /// A process has ended that had been ready for so long, if it had been. `killed`: by SIGKILL, so not by its own
    /// fault.
    pub(super) fn ended(&mut self, ready_for: Option<Duration>, killed: bool) -> Next {
        let proven = ready_for.is_some_and(|time| time >= PROVEN);
        if proven {
            (self.streak, self.unproven) = (0, 0);
        }
        let pause = match self.streak {
            0 => Duration::ZERO,
            n => (FIRST_PAUSE * 2u32.saturating_pow(n - 1)).min(LONGEST_PAUSE),
        };
        if !(killed && ready_for.is_some_and(|time| time >= NOT_ITS_FAULT)) {
            self.streak += 1;
            // Who is ready and then killed has not failed, however soon it is.
            self.unproven += u32::from(!(proven || killed && ready_for.is_some()));
        }
        self.restarts += 1;
        if self.unproven >= FAILED_AFTER { Next::Failed(FAILED_PAUSE) } else { Next::After(pause) }
    }
}
