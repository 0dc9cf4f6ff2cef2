//! Other settings for a service that runs, PURE: what a process is started with, what has changed, and what to go back
//! to. Not: applying it (`engine/applying.rs`).

use xxhash_rust::xxh3::xxh3_64;

use super::observed::User;
use crate::config::Service;

/// The settings of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// As they are.
    pub config: Service,
    /// As they were configured, before `scale` and `drain`.
    pub configured: Service,
    /// Whom its workers run as; `None`: as the daemon.
    pub user: Option<User>,
}

/// What a reload that failed goes back to.
#[derive(Clone, Debug, PartialEq)]
pub struct Undo(Settings);

impl Settings {
    /// A hash of what a process is started with: the settings that a running worker cannot be told. Going
    /// back to settings of before makes workers current that were started with them.
    #[must_use]
    pub fn revision(&self) -> u64 {
        revision_of(&self.config)
    }

    /// Replaces these by `next`; what to go back to if its processes do not work.
    pub fn replace(&mut self, next: Self) -> Undo {
        Undo(std::mem::replace(self, next))
    }

    /// The processes of `undo` did not work there: what a process is started with is as before. Other settings have
    /// changed, and stay; a start with the old file changes them back.
    pub fn undo(&mut self, undo: Undo) {
        let Undo(before) = undo;
        self.config = starting_as(before.config, self.config.clone());
        self.configured = starting_as(before.configured, self.configured.clone());
        self.user = before.user;
    }
}

impl Undo {
    /// The revision of the settings that were in force.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.0.revision()
    }

    /// The settings that were in force.
    #[must_use]
    pub fn config(&self) -> &Service {
        &self.0.config
    }
}

/// `rest`, with processes started as in `start`: see [`revision_of`].
fn starting_as(start: Service, rest: Service) -> Service {
    let Service { listen, command, embedded, user, watchdog, .. } = start;
    Service { listen, command, embedded, user, watchdog, ..rest }
}

/// See [`Settings::revision`].
fn revision_of(config: &Service) -> u64 {
    let started = (&config.listen, &config.command, config.embedded, &config.user, config.watchdog);
    xxh3_64(format!("{started:?}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(change: impl FnOnce(&mut Service)) -> Settings {
        let mut config = Service::new("web", Vec::new(), 2);
        change(&mut config);
        Settings { configured: config.clone(), config, user: None }
    }

    #[test]
    fn a_revision_is_what_a_running_worker_cannot_be_told() {
        let plain = settings(|_| {});
        let other = settings(|config| config.command = vec!["other".into()]);
        assert_ne!(plain.revision(), other.revision());
        assert_eq!(plain.revision(), settings(|config| config.workers = 7).revision());
    }

    #[test]
    fn going_back_keeps_what_has_changed_since_and_starts_nobody_anew() {
        let mut it = settings(|config| config.command = vec!["old".into()]);
        let before = it.revision();
        let undo = it.replace(settings(|config| {
            config.command = vec!["new".into()];
            config.backlog = 7;
        }));
        assert_eq!(undo.config().command, ["old"]);
        it.config.workers = 5;
        it.undo(undo);
        assert_eq!((it.revision(), it.config.backlog, it.config.workers), (before, 7, 5));
        assert_eq!((&*it.configured.command[0], it.configured.backlog), ("old", 7));
    }
}
