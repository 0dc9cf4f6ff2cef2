//! Applies a configuration to all services of a daemon, or to none. Not: applying it to one service
//! (`service/opening.rs`, `domain/engine/applying.rs`).

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;

use reuseport_lb_client::api::Requester;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::listener_moves::Moves;
use super::services::Registry;
use crate::config;
use crate::domain::listener::Listener;
use crate::handle::ServiceHandle;
use crate::kernel::host;
use crate::service::{Command, Prepare, START, Service, Surroundings, coming};

/// Why a configuration is not applied while another one is.
pub(super) const BUSY: &str = "the configuration is being changed already: try again when that is done";

/// When the configuration is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occasion {
    /// At the daemon's start: services that were taken over keep the changes by `scale` and `drain` if their
    /// configuration is the same, and waiting goes on in the background.
    Start,
    /// By a reload, whose caller waits.
    Reload,
}

/// Applies configurations, one at a time.
pub(super) struct Configurator {
    pub(super) registry: Rc<Registry>,
    pub(super) surroundings: Rc<Surroundings>,
    pub(super) changing: Cell<bool>,
    /// Services that the command `adopt` made.
    pub(super) adopted: RefCell<Vec<config::ServiceConfig>>,
    /// Who asked for the change that is being made.
    asker: RefCell<Option<Requester>>,
    /// Counts changes of the configuration.
    changes: Cell<u64>,
}

/// Changes that have begun.
#[derive(Default)]
struct Changes {
    lines: Vec<String>,
    removed: Vec<String>,
    answers: Vec<(String, oneshot::Receiver<Result<String, String>>)>,
}

/// Everything that is prepared, so that applying it cannot fail.
#[derive(Default)]
struct Prepared {
    /// Running services that have prepared their new settings.
    known: Vec<ServiceHandle>,
    /// New services that are open.
    opened: Vec<(String, Service)>,
}

impl Configurator {
    pub(super) fn new(registry: Rc<Registry>, surroundings: Rc<Surroundings>) -> Rc<Self> {
        Rc::new(Self {
            registry,
            surroundings,
            changing: Cell::new(false),
            adopted: RefCell::default(),
            asker: RefCell::default(),
            changes: Cell::new(0),
        })
    }

    /// Applies a configuration: new services are started, others changed or ended. If anything fails, nothing is
    /// changed. Returns what has changed, one line a service.
    pub(super) async fn apply(
        self: &Rc<Self>,
        wanted: Vec<config::ServiceConfig>,
        occasion: Occasion,
        asker: Option<Requester>,
    ) -> Result<String, String> {
        let names: Vec<String> = wanted.iter().map(|config| config.name.clone()).collect();
        let wanted = self.with_adopted(wanted)?;
        if self.changing.replace(true) {
            return Err(BUSY.into());
        }
        self.asker.replace(asker);
        self.changes.update(|changes| changes + 1);
        let claims = &self.surroundings.claims;
        claims.hold(true);
        let moves = Moves::find(&wanted, |listener| claims.holder(listener));
        let if_changed = occasion == Occasion::Start;
        let begun = match self.check(moves.losers(&wanted), if_changed).await {
            Ok(()) => self.begin(moves.meanwhile(&wanted), &moves, if_changed).await,
            Err(error) => Err(error),
        };
        claims.hold(false);
        let begun = begun.inspect_err(|_| self.changing.set(false))?;
        // All programs are loaded by now.
        host::trim_memory();
        self.forget_adopted(|name| names.iter().any(|configured| configured == name));
        let finishing = self.clone().finish(begun, moves, wanted);
        if occasion == Occasion::Reload {
            return finishing.await;
        }
        tokio::task::spawn_local(async move {
            match finishing.await {
                Ok(changes) => info!("configured: {}", changes.replace('\n', "; ")),
                Err(error) => warn!("the configuration is not what serves: {error}"),
            }
        });
        Ok(String::new())
    }

    /// Waits until changes are complete. A listener that moves from one service to another is served by both
    /// until the new one is ready; only then the old one gives it up.
    async fn finish(
        self: Rc<Self>,
        begun: Changes,
        moves: Moves,
        wanted: Vec<config::ServiceConfig>,
    ) -> Result<String, String> {
        let done = self.finish_moves(begun, moves, wanted).await;
        self.changing.set(false);
        done.map(|lines| lines.join("\n"))
    }

    async fn finish_moves(
        self: &Rc<Self>,
        begun: Changes,
        moves: Moves,
        wanted: Vec<config::ServiceConfig>,
    ) -> Result<Vec<String>, String> {
        let mut lines = self.settle(begun).await?;
        if moves.is_empty() {
            return Ok(lines);
        }
        if tokio::time::timeout(START, self.decide(&moves)).await.is_err() {
            let late = format!("{moves} when that is ready, which it was not within {START:?}");
            self.clone().try_again(moves, wanted);
            return Err(late);
        }
        let changes = self.begin(wanted, &Moves::default(), true).await?;
        let changed = self.settle(changes).await?.into_iter();
        lines.extend(changed.filter(|line| !line.ends_with(": not changed")));
        Ok(lines)
    }

    /// Waits until the services that get listeners decide for them.
    async fn decide(&self, moves: &Moves) {
        for name in moves.takers() {
            self.registry.decides(name).await;
        }
    }

    /// Goes on with moves of listeners that take longer, unless the configuration is changed again before.
    fn try_again(self: Rc<Self>, moves: Moves, wanted: Vec<config::ServiceConfig>) {
        let changes = self.changes.get();
        let again: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move {
            self.decide(&moves).await;
            if self.changes.get() != changes || self.changing.get() {
                return;
            }
            match self.apply(wanted, Occasion::Start, None).await {
                Ok(_) => info!("ready at last: {moves}"),
                Err(error) => warn!("the configuration is not what serves: {error}"),
            }
        });
        tokio::task::spawn_local(again);
    }

    /// Prepares everything that can fail; then starts new services, and tells the others to apply their part.
    async fn begin(
        &self,
        wanted: Vec<config::ServiceConfig>,
        moves: &Moves,
        if_changed: bool,
    ) -> Result<Changes, String> {
        let listen: Vec<(String, Vec<Listener>)> = wanted
            .iter()
            .map(|service| (service.name.clone(), service.listeners().copied().collect()))
            .collect();
        let is_wanted = |name: &str| listen.iter().any(|(wanted, _)| wanted == name);
        let mut prepared = Prepared::default();
        if let Err(error) = self.prepare(wanted, if_changed, &mut prepared).await {
            for service in prepared.known {
                let _ = service.tell(Command::Abort);
            }
            for (_, service) in prepared.opened {
                service.discard().await;
            }
            self.registry.forget(is_wanted);
            return Err(error);
        }
        // So that no service takes a listener which it is about to give up: no other one would then get it.
        let claims = &self.surroundings.claims;
        for (name, listen) in &listen {
            claims.leave_only(listen, name);
        }
        let mut changes = Changes::default();
        for (name, service) in prepared.opened {
            changes.lines.push(format!("{name}: new"));
            self.registry.add(name, service);
        }
        for service in self.registry.services.all() {
            let name = service.name();
            if is_wanted(name) || moves.is_loser(name) {
                continue;
            }
            info!(service = name, "it is not in the configuration any more");
            claims.leave_only(&[], name);
            let _ = service.clone().asked_by(self.asker.borrow().clone()).tell(Command::Stop);
            changes.lines.push(format!("{name}: ended"));
            changes.removed.push(name.to_owned());
        }
        for service in prepared.known {
            let (answer, receive) = oneshot::channel();
            changes.answers.push((service.name().to_owned(), receive));
            let _ = service.asked_by(self.asker.borrow().clone()).tell(Command::Commit(answer));
        }
        Ok(changes)
    }

    /// Waits until workers are replaced and removed services have ended.
    async fn settle(&self, changes: Changes) -> Result<Vec<String>, String> {
        let Changes { mut lines, removed, answers } = changes;
        let mut errors = Vec::new();
        for (name, answer) in answers {
            match answer.await {
                Ok(Ok(line)) => lines.push(line),
                Ok(Err(error)) => errors.push(error),
                Err(_) => errors.push(format!("service {name} ended meanwhile")),
            }
        }
        while removed.iter().any(|name| self.registry.services.contains(name)) {
            self.registry.ended.notified().await;
        }
        if errors.is_empty() { Ok(lines) } else { Err(errors.join("; ")) }
    }

    /// Fails if settings of a running service cannot be applied; changes nothing.
    async fn check(&self, wanted: Vec<config::ServiceConfig>, if_changed: bool) -> Result<(), String> {
        for config in wanted.into_iter().filter(|config| self.registry.is_there(&config.name)) {
            let Ok(service) = self.registry.services.find(&config.name) else { continue };
            let (answer, receive) = oneshot::channel();
            let _ = service.tell(Command::Prepare(Box::new(Prepare { config, if_changed }), answer));
            let prepared = receive.await;
            let _ = service.tell(Command::Abort);
            prepared.unwrap_or(Ok(()))?;
        }
        Ok(())
    }

    async fn prepare(
        &self,
        wanted: Vec<config::ServiceConfig>,
        if_changed: bool,
        prepared: &mut Prepared,
    ) -> Result<(), String> {
        // New services last: their sockets are in the kernel's groups as soon as they are open.
        let (known, new): (Vec<_>, Vec<_>) =
            wanted.into_iter().partition(|config| self.registry.is_there(&config.name));
        for config in &new {
            self.registry.expect(coming(config, "is being opened"));
        }
        for config in known.into_iter().chain(new) {
            let name = config.name.clone();
            if !self.registry.is_there(&name) {
                if !config.command.is_empty() && config.user.is_none() {
                    let user = if host::is_root() { "root" } else { "the daemon's own user" };
                    warn!("service {name}: its workers run as {user}; `user` sets another one");
                }
                let service = Service::open(config, self.surroundings.clone()).await;
                prepared.opened.push((name, service.map_err(|error| format!("{error:#}"))?));
                continue;
            }
            let service = self.registry.services.find(&name).map_err(|error| error.to_string())?;
            let (answer, receive) = oneshot::channel();
            let _ = service.tell(Command::Prepare(Box::new(Prepare { config, if_changed }), answer));
            receive.await.map_err(|_| format!("service {name} is just ending: try again"))??;
            prepared.known.push(service);
        }
        Ok(())
    }
}
