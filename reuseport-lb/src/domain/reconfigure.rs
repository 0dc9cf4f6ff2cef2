//! Settings of a running service and how they are replaced, PURE: which of them a process is started with, and what a
//! failed change goes back to. Not: applying them (`engine/applying.rs`).

use xxhash_rust::xxh3::xxh3_64;

use super::observed::User;
use crate::config::process::ProcessConfig;
use crate::config::{ServiceConfig, SocketOwner, SocketSource};

/// The settings of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The settings in force.
    pub config: ServiceConfig,
    /// The settings as configured, without what `scale` and `drain` changed.
    pub configured: ServiceConfig,
    /// The user of the service's workers; `None`: the daemon's.
    pub user: Option<User>,
    /// The users whose processes may join, besides root; `None`: [`Settings::user`].
    pub join: Option<Vec<User>>,
}

/// The settings that a failed change goes back to.
#[derive(Clone, Debug, PartialEq)]
pub struct Undo(Settings);

impl Settings {
    /// A hash of the settings that a process is started with, which a running worker cannot be told. A change back to
    /// earlier settings makes the workers current again that were started with those.
    #[must_use]
    pub fn revision(&self) -> u64 {
        revision_of(&self.config)
    }

    /// The users whose processes may join, besides root.
    #[must_use]
    pub fn may_join(&self) -> &[User] {
        self.join.as_deref().unwrap_or(self.user.as_slice())
    }

    /// The user that the sockets belong to; `None`: the daemon's.
    #[must_use]
    pub fn socket_owner(&self) -> Option<&User> {
        self.user.as_ref().filter(|_| self.config.socket_owner == SocketOwner::User)
    }

    /// Replaces these settings by `next`; returns those to go back to if new processes do not work.
    pub fn replace(&mut self, next: Self) -> Undo {
        Undo(std::mem::replace(self, next))
    }

    /// Goes back to the settings of `undo` that a process is started with. Other settings stay as changed; a start with
    /// the old file changes them back.
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
    pub fn config(&self) -> &ServiceConfig {
        &self.0.config
    }
}

/// `rest` with those settings of `start` that a process is started with (see [`revision_of`]), with how it is told to
/// end, and with whose its sockets are. But not its connection ids of QUIC: the program that reads them stays.
fn starting_as(start: ServiceConfig, rest: ServiceConfig) -> ServiceConfig {
    let ServiceConfig { listen, command, embedded, user, sockets, socket_owner, process, .. } = start;
    let (watchdog, stop) = (start.watchdog, start.stop);
    ServiceConfig { listen, command, embedded, user, sockets, socket_owner, process, watchdog, stop, ..rest }
}

/// Hash of the settings that a process is started with: see [`Settings::revision`].
fn revision_of(config: &ServiceConfig) -> u64 {
    let listen: Vec<_> = config.listeners().collect();
    let started = (&listen, &config.command, config.embedded, &config.user, config.watchdog);
    let mut text = format!("{started:?}");
    // An older daemon has saved the hash of a service without names, and without settings of its processes.
    let names: Vec<_> = config.listen.iter().map(|it| &it.name).collect();
    if names.iter().any(|name| name.is_some()) {
        text += &format!("{names:?}");
    }
    if config.process != ProcessConfig::default() {
        text += &format!("{:?}", config.process);
    }
    if config.socket_owner != SocketOwner::default() {
        text += "sockets of the user";
    }
    if config.sockets != SocketSource::default() {
        text += "opens its sockets";
    }
    if let Some(quic) = &config.quic {
        text += &format!("{quic:?}");
    }
    xxh3_64(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ListenerConfig, QuicRouting};

    fn settings(change: impl FnOnce(&mut ServiceConfig)) -> Settings {
        let mut config = ServiceConfig::new("web", Vec::new(), 2);
        change(&mut config);
        Settings { configured: config.clone(), config, user: None, join: None }
    }

    #[test]
    fn a_revision_is_what_a_running_worker_cannot_be_told() {
        let plain = settings(|_| {});
        let other = settings(|config| config.command = vec!["other".into()]);
        assert_ne!(plain.revision(), other.revision());
        assert_eq!(plain.revision(), settings(|config| config.workers = 7).revision());
        let listen = |name: Option<&str>, freebind| {
            let listener = "tcp://127.0.0.1:80".parse().expect("a listener");
            let name = name.map(str::to_owned);
            settings(|config| config.listen = vec![ListenerConfig { listener, name, freebind }]).revision()
        };
        assert!(
            listen(Some("a"), false) != listen(None, false)
                && listen(Some("a"), false) != listen(Some("b"), false)
        );
        assert_eq!(listen(Some("a"), true), listen(Some("a"), false), "sockets that are there stay bound");
        // What an older daemon has hashed.
        let before = "([Listener { protocol: Tcp, address: 127.0.0.1:80 }], [], false, None, None)";
        assert_eq!(listen(None, false), xxh3_64(before.as_bytes()));
        let quic = |length| {
            let quic = QuicRouting { server_id_length: 4, offset: 1, cid_length: length, env: None };
            settings(|config| config.quic = Some(quic)).revision()
        };
        assert!(quic(11) != plain.revision() && quic(11) != quic(12));
        let umask = |umask| settings(|config| config.process.umask = umask).revision();
        assert_eq!(plain.revision(), umask(None));
        assert_ne!(plain.revision(), settings(|config| config.socket_owner = SocketOwner::User).revision());
        assert!(umask(Some(0)) != plain.revision() && umask(Some(0)) != umask(Some(7)));
    }

    #[test]
    fn going_back_keeps_what_has_changed_since_and_starts_no_worker_anew() {
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
