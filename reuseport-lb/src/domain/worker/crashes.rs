//! Ends of a worker's processes, PURE: when the next one is started.

use std::time::Duration;

/// A process that was ready for this long has shown that it works: the back-off starts anew.
pub(super) const PROVEN: Duration = Duration::from_secs(1);

/// First pause before a restart; doubles with every further crash in a row.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Longest pause between the restarts of a worker that has not failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// So many exits in a row, each before the process had been ready for [`PROVEN`], make a worker `failed`.
const FAILED_AFTER: u32 = 8;

/// Pause between the restarts of a failed worker: what its command lacked may have come back.
pub(super) const FAILED_PAUSE: Duration = Duration::from_secs(30);

/// Pause between attempts to start a process that the machine has no resources for.
pub(super) const MACHINE_PAUSE: Duration = Duration::from_secs(1);

/// A process that was killed after it had been ready for this long has not ended by its own fault.
pub(super) const NOT_ITS_FAULT: Duration = Duration::from_millis(100);

/// The ends of a worker's processes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Crashes {
    /// How often a process was started again.
    restarts: u32,
    /// How many of those because SIGKILL had ended the process.
    kills: u32,
    /// Exits in a row by a process's own fault.
    streak: u32,
    /// How many of those came before the process had been ready for [`PROVEN`].
    unproven: u32,
}

/// When the next process is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// After this pause.
    After(Duration),
    /// After this pause, as a worker that is `failed`.
    Failed(Duration),
}

impl Crashes {
    pub(super) fn of(restarts: u32, kills: u32) -> Self {
        Self { restarts, kills, ..Self::default() }
    }

    pub(super) fn kills(self) -> u32 {
        self.kills
    }

    pub(super) fn restarts(self) -> u32 {
        self.restarts
    }

    /// Whether the last process ended by its own fault.
    pub(super) fn is_suspect(self) -> bool {
        self.streak > 0
    }

    /// Notes the end of a process that had been ready for `ready_for`, if it had been ready. `killed`: by SIGKILL, so
    /// not by its own fault.
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
            // A process that became ready and was killed does not count, however soon that was.
            self.unproven += u32::from(!(proven || killed && ready_for.is_some()));
        }
        self.restarts += 1;
        self.kills += u32::from(killed);
        if self.unproven >= FAILED_AFTER { Next::Failed(FAILED_PAUSE) } else { Next::After(pause) }
    }
}
