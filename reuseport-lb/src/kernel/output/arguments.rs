//! What a keeper is told, as the words of its command line.

use std::ffi::OsString;
use std::os::fd::RawFd;

use crate::config::process::{LogFile, LogTo};

/// The hidden command that a keeper is.
const COMMAND: &str = "keep";

/// Its last word, if what goes with the daemon's log is JSON.
const JSON: &str = "json";

/// The beginning of its last word but that: the descriptors by which it sorts calls.
const CALLS: &str = "calls=";

/// The beginning of that word for a keeper that only sorts calls.
const ONLY_CALLS: &str = "only-calls=";

/// What a keeper is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeeperArguments {
    /// The worker's name.
    pub name: String,
    /// Where its output goes.
    pub log: LogTo,
    /// What goes with the daemon's log is JSON.
    pub json: bool,
    /// The descriptors that it inherits to sort calls of bind(2) and listen(2); empty: there are none to sort.
    pub calls: Vec<RawFd>,
    /// Sorting them is all that it does: the worker's output goes where the worker has it.
    pub only_calls: bool,
}

impl KeeperArguments {
    pub(super) fn line(&self) -> Vec<OsString> {
        let mut line: Vec<OsString> = vec![COMMAND.into(), self.name.clone().into()];
        if let LogTo::File(LogFile { path, max, keep }) = &self.log {
            line.extend([path.into(), max.to_string().into(), keep.to_string().into()]);
        }
        if !self.calls.is_empty() {
            let calls: Vec<String> = self.calls.iter().map(ToString::to_string).collect();
            let what = if self.only_calls { ONLY_CALLS } else { CALLS };
            line.push(format!("{what}{}", calls.join(",")).into());
        }
        if self.json {
            line.push(JSON.into());
        }
        line
    }

    /// What this command line tells, if it is one for a keeper. Read before any other: the parser of the others takes more
    /// memory than all the rest of a keeper.
    pub fn of(line: impl Iterator<Item = OsString>) -> Option<Self> {
        let words: Option<Vec<String>> = line.skip(1).map(|word| word.into_string().ok()).collect();
        let words = words?;
        let (words, json) = match words.as_slice() {
            [words @ .., last] if last == JSON => (words, true),
            words => (words, false),
        };
        let only_calls = words.last().is_some_and(|last| last.starts_with(ONLY_CALLS));
        let what = if only_calls { ONLY_CALLS } else { CALLS };
        let (words, calls) = match words {
            [words @ .., last] if last.starts_with(what) => {
                let calls = last[what.len()..].split(',').map(|fd| fd.parse().ok());
                (words, calls.collect::<Option<Vec<RawFd>>>()?)
            }
            words => (words, Vec::new()),
        };
        let (name, log) = match words {
            [command, name] if command == COMMAND => (name, LogTo::Inherit),
            [command, name, path, max, keep] if command == COMMAND => {
                let (max, keep) = (max.parse().ok()?, keep.parse().ok()?);
                (name, LogTo::File(LogFile { path: path.clone(), max, keep }))
            }
            _ => return None,
        };
        Some(Self { name: name.clone(), log, json, calls, only_calls })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keeper_understands_what_the_daemon_tells_it() {
        let file = LogFile { path: "/var/log/a b-{index}.log".into(), max: 7, keep: 3 };
        for log in [LogTo::Inherit, LogTo::File(file)] {
            for (json, calls) in [(false, vec![]), (true, vec![]), (true, vec![7, 12]), (false, vec![4])] {
                for only_calls in [false, !calls.is_empty()] {
                    let (log, calls) = (log.clone(), calls.clone());
                    let told = KeeperArguments { name: "web/2".into(), log, json, calls, only_calls };
                    let line = ["reuseport-lb".into()].into_iter().chain(told.line());
                    assert_eq!(KeeperArguments::of(line), Some(told));
                }
            }
        }
        for other in
            [&["reuseport-lb", "run"][..], &["reuseport-lb", "keep"], &["reuseport-lb", "keep", "a", "b"]]
        {
            assert_eq!(KeeperArguments::of(other.iter().map(OsString::from)), None);
        }
    }
}
