//! What has happened to a service since it began, in numbers, PURE; they go on from one daemon to the next.

use serde::{Deserialize, Serialize};

use super::incident::IncidentKind;

/// Upper bounds of the groups of [`Tally::drains`], in seconds; the last group has none.
pub const DRAIN_BOUNDS: [f64; 8] = [0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 300.0];

/// What has happened to a service since it began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// Connections that other workers got, because the one that was removed did not accept them.
    pub handed_over: u64,
    /// Replacements of workers that replaced all that were meant.
    pub rollouts_done: u64,
    /// Replacements that did not.
    pub rollouts_failed: u64,
    /// Removed workers by the time since their buckets moved ([`DRAIN_BOUNDS`]).
    pub drains: [u64; DRAIN_BOUNDS.len() + 1],
    /// The sum of these times, in seconds.
    pub drain_seconds: f64,
}

impl Tally {
    /// Counts an incident.
    pub fn note(&mut self, kind: &IncidentKind) {
        match kind {
            IncidentKind::Replaced { all: true, .. } => self.rollouts_done += 1,
            IncidentKind::Replaced { all: false, .. } => self.rollouts_failed += 1,
            IncidentKind::Removed { took, handed_over, .. } => {
                let seconds = took.as_secs_f64();
                let group = DRAIN_BOUNDS.iter().filter(|bound| seconds > **bound).count();
                self.drains[group] += 1;
                self.drain_seconds += seconds;
                self.handed_over += handed_over;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn drains_are_grouped_by_their_time() {
        let mut tally = Tally::default();
        for seconds in [0.1, 0.2, 600.0] {
            let took = Duration::from_secs_f64(seconds);
            tally.note(&IncidentKind::Removed { took, handed_over: 2, flows_cut: 0 });
        }
        tally.note(&IncidentKind::Replaced { workers: 1, all: false });
        assert_eq!(tally.drains, [1, 1, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!((tally.handed_over, tally.rollouts_done, tally.rollouts_failed), (6, 0, 1));
        assert!((tally.drain_seconds - 600.3).abs() < 1e-9);
    }
}
