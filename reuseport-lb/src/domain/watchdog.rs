//! Whether a worker says `WATCHDOG=1` in time, PURE. Not: ending it (`engine/`).

use std::time::{Duration, Instant};

/// A daemon that checks later than this after the deadline has stood still itself: messages of the process may be
/// unread, so the process gets this time once more.
const LATE: Duration = Duration::from_millis(100);

/// The watchdog of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Watchdog {
    /// No pings are expected.
    #[default]
    Off,
    /// A ping is due by this time.
    Armed(Instant),
    /// No ping came in time; messages are read once more before the process is killed.
    LastChance(Instant),
    /// The process was killed.
    Killed,
}

impl Watchdog {
    /// The watchdog after a ping, or a start; `every`: longest time between two pings.
    #[must_use]
    pub fn fed(every: Option<Duration>, now: Instant) -> Self {
        every.map_or(Self::Off, |every| Self::Armed(now + every))
    }

    /// When to call [`Watchdog::expires`].
    #[must_use]
    pub fn deadline(self) -> Option<Instant> {
        match self {
            Self::Armed(at) | Self::LastChance(at) => Some(at),
            Self::Off | Self::Killed => None,
        }
    }

    /// Whether pings are expected.
    #[must_use]
    pub fn is_armed(self) -> bool {
        self.deadline().is_some()
    }

    /// Whether the process is to be killed now; to be called at the deadline.
    pub fn expires(&mut self, now: Instant) -> bool {
        let Some(at) = self.deadline() else { return false };
        let late = now.saturating_duration_since(at) > LATE;
        match self {
            Self::LastChance(_) if !late => {
                *self = Self::Killed;
                true
            }
            // A ping may wait to be read, if the daemon stood still (SIGSTOP, a pause of the machine).
            _ if late => {
                *self = Self::Armed(now + LATE);
                false
            }
            _ => {
                *self = Self::LastChance(now + LATE);
                false
            }
        }
    }

    /// Whether the watchdog has had the process killed.
    #[must_use]
    pub fn has_killed(self) -> bool {
        self == Self::Killed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_process_is_heard_once_more_and_a_daemon_that_stood_still_is_patient() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut dog = Watchdog::fed(Some(Duration::from_millis(500)), begun);
        assert_eq!(dog, Watchdog::Armed(at(500)));
        assert!(!dog.expires(at(500)) && dog == Watchdog::LastChance(at(600)));
        assert!(dog.expires(at(600)) && dog.has_killed() && dog.deadline().is_none());

        let mut dog = Watchdog::fed(Some(Duration::from_millis(500)), begun);
        assert!(!dog.expires(at(5_000)) && dog == Watchdog::Armed(at(5_100)), "the daemon stood still");
        assert!(!dog.expires(at(5_100)) && !dog.expires(at(9_000)), "and again");
        assert_eq!(dog, Watchdog::Armed(at(9_100)));
        assert_eq!(Watchdog::fed(None, begun).deadline(), None);
    }
}
