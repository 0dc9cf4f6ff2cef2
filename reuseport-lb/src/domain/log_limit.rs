//! Limits log lines that a client or worker can cause again and again, PURE: key → whether to log now, and how many
//! lines were left out.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Shortest time between two lines about one key.
pub const PAUSE: Duration = Duration::from_secs(60);

/// How many keys are remembered; lines about further ones are left out.
const MOST: usize = 1024;

/// The keys that a line was logged about lately.
#[derive(Debug)]
pub struct LogLimit<K>(HashMap<K, Said>);

#[derive(Debug)]
struct Said {
    at: Instant,
    suppressed: u64,
}

impl<K> Default for LogLimit<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> LogLimit<K> {
    /// Asks for a line about `key`: `None` if it is left out, else the number of lines left out since the last one.
    pub fn allow(&mut self, key: K, now: Instant) -> Option<u64> {
        if self.0.len() >= MOST {
            self.0.retain(|_, said| now - said.at < PAUSE);
        }
        let full = self.0.len() >= MOST;
        match self.0.get_mut(&key) {
            Some(said) if now - said.at < PAUSE => {
                said.suppressed += 1;
                None
            }
            Some(said) => {
                said.at = now;
                Some(std::mem::take(&mut said.suppressed))
            }
            None if full => None,
            None => {
                self.0.insert(key, Said { at: now, suppressed: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_heard_once_a_minute_and_the_rest_is_counted() {
        let mut it = LogLimit::default();
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!([it.allow(7, at(0)), it.allow(7, at(1)), it.allow(8, at(2))], [Some(0), None, Some(0)]);
        assert_eq!([it.allow(7, at(59)), it.allow(7, at(60)), it.allow(7, at(61))], [None, Some(2), None]);
        for who in 100..5_000 {
            it.allow(who, at(62));
        }
        assert_eq!(it.0.len(), MOST);
        assert_eq!(it.allow(9, at(200)), Some(0), "there is room again");
    }
}
