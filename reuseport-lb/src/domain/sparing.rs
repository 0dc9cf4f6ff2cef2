//! What anybody may make happen again and again is said now and then, PURE: who it is about → whether it is said
//! now, and how often it was not.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// So often, at most, something is said of the same.
pub const PAUSE: Duration = Duration::from_secs(60);

/// Who said how much; of so many at a time.
const MOST: usize = 1024;

/// Of whom something was said lately.
#[derive(Debug)]
pub struct Sparing<K>(HashMap<K, Said>);

#[derive(Debug)]
struct Said {
    at: Instant,
    unsaid: u64,
}

impl<K> Default for Sparing<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Sparing<K> {
    /// It has happened again. If it is to be said: how often it was not since the last time.
    pub fn again(&mut self, who: K, now: Instant) -> Option<u64> {
        if self.0.len() >= MOST {
            self.0.retain(|_, said| now - said.at < PAUSE);
        }
        let full = self.0.len() >= MOST;
        match self.0.get_mut(&who) {
            Some(said) if now - said.at < PAUSE => {
                said.unsaid += 1;
                None
            }
            Some(said) => {
                said.at = now;
                Some(std::mem::take(&mut said.unsaid))
            }
            // Too many at once: nobody can be told apart any more.
            None if full => None,
            None => {
                self.0.insert(who, Said { at: now, unsaid: 0 });
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
        let mut it = Sparing::default();
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!([it.again(7, at(0)), it.again(7, at(1)), it.again(8, at(2))], [Some(0), None, Some(0)]);
        assert_eq!([it.again(7, at(59)), it.again(7, at(60)), it.again(7, at(61))], [None, Some(2), None]);
        for who in 100..5_000 {
            it.again(who, at(62));
        }
        assert_eq!(it.0.len(), MOST);
        assert_eq!(it.again(9, at(200)), Some(0), "there is room again");
    }
}
