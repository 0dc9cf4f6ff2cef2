//! The services of a daemon: starting them, changing them together, and ending them. Not: what one
//! of them does (`service/`).

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;

use reuseport_lb_client::api::{Refusal, ServiceStatus};
use tokio::sync::{Notify, mpsc, oneshot};
use tracing::{info, warn};

use crate::api::join;
use crate::config;
use crate::domain::listener::Listener;
use crate::domain::listener_move::Moves;
use crate::kernel::host;
use crate::offload;
use crate::service::{Command, Prepare, Report, START, Service, Surroundings, coming};

/// How the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Workers finish; nothing is left.
    InOrder,
    /// Workers, sockets and buckets stay for the next daemon.
    Keep,
    /// As [`End::Keep`], because the start failed.
    Failed,
}

/// When the configuration is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// The daemon starts: services that were taken over keep what `scale` and `drain` did if their
    /// configuration is the same, and what takes its time goes on in the background.
    Start,
    /// Somebody asked, and waits.
    Reload,
}

/// What the daemon is asked to do.
pub enum Order {
    /// End.
    End(End),
    /// Read the configuration again; answered when that is done.
    Reload(oneshot::Sender<Result<String, Refusal>>),
}

/// All services.
pub struct Registry {
    all: RefCell<Vec<Entry>>,
    changing: Cell<bool>,
    /// Counts changes of the configuration.
    changes: Cell<u64>,
    /// A service's task has ended.
    pub ended: Notify,
    /// One that panicked.
    broken: RefCell<Option<String>>,
    /// To the daemon.
    pub orders: mpsc::UnboundedSender<Order>,
}

/// What was begun.
#[derive(Default)]
struct Changes {
    lines: Vec<String>,
    removed: Vec<String>,
    answers: Vec<(String, oneshot::Receiver<Result<String, String>>)>,
}

struct Entry {
    name: String,
    commands: mpsc::UnboundedSender<Command>,
    /// What waits for it while it is being opened or taken over; then its task has it.
    coming: Option<mpsc::UnboundedReceiver<Command>>,
    shown: Shown,
}

/// What is shown of a service while it is busy with something that takes its time.
pub type Shown = Rc<RefCell<Option<Report>>>;

impl Registry {
    /// No services yet.
    #[must_use]
    pub fn new(orders: mpsc::UnboundedSender<Order>) -> Rc<Self> {
        Rc::new(Self {
            all: RefCell::default(),
            changing: Cell::new(false),
            changes: Cell::new(0),
            ended: Notify::new(),
            broken: RefCell::default(),
            orders,
        })
    }

    /// Shows a service that is still being opened or taken over; what it is asked meanwhile waits for it.
    pub fn expect(&self, coming: ServiceStatus) {
        let mut all = self.all.borrow_mut();
        if all.iter().any(|entry| entry.name == coming.name) {
            return;
        }
        let (commands, receive) = mpsc::unbounded_channel();
        let (name, coming) = (coming.name.clone(), Rc::new(RefCell::new(Some(coming.into()))));
        all.push(Entry { name, commands, coming: Some(receive), shown: coming });
    }

    /// Forgets services that were expected and will not come.
    pub fn forget(&self, name: impl Fn(&str) -> bool) {
        self.all.borrow_mut().retain(|entry| entry.coming.is_none() || !name(&entry.name));
        self.ended.notify_waiters();
    }

    /// Whether the service `name` is there, and not only expected.
    fn is_there(&self, name: &str) -> bool {
        self.all.borrow().iter().any(|entry| entry.name == name && entry.coming.is_none())
    }

    /// Starts a service.
    pub fn add(self: &Rc<Self>, name: String, service: Service) {
        self.expect(coming(service.config(), "is being opened"));
        let expected = self.all.borrow_mut().iter_mut().find(|entry| entry.name == name).and_then(|entry| {
            let receive = entry.coming.take()?;
            Some((receive, entry.shown.clone()))
        });
        let Some((receive, shown)) = expected else { return };
        let task = tokio::task::spawn_local(offload::measured("a service", service.run(receive, shown)));
        let registry = self.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = task.await {
                *registry.broken.borrow_mut() = Some(format!("the task of service {name} failed: {error}"));
            }
            registry.all.borrow_mut().retain(|entry| entry.name != name);
            registry.ended.notify_waiters();
            registry.ended.notify_one();
        });
    }

    /// Whether every service has ended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.borrow().is_empty()
    }

    /// What is wrong with a service that ended without being told to.
    #[must_use]
    pub fn broken(&self) -> Option<String> {
        self.broken.borrow().clone()
    }

    /// Tells all services.
    pub fn tell(&self, command: impl Fn() -> Command) {
        for entry in self.all.borrow().iter() {
            // One that has ended already needs no telling.
            let _ = entry.commands.send(command());
        }
    }

    /// All services: how to ask them, and what is shown while they are busy.
    #[must_use]
    pub fn all(&self) -> Vec<(String, mpsc::UnboundedSender<Command>, Shown)> {
        let all = self.all.borrow();
        all.iter().map(|it| (it.name.clone(), it.commands.clone(), it.shown.clone())).collect()
    }

    /// Names, in the order in which they were added.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.all.borrow().iter().map(|entry| entry.name.clone()).collect()
    }

    /// How to tell the service `name` something; the error lists who is there.
    pub fn find(&self, name: &str) -> Result<mpsc::UnboundedSender<Command>, Refusal> {
        let all = self.all.borrow();
        let found = all.iter().find(|entry| entry.name == name).map(|entry| entry.commands.clone());
        found.ok_or_else(|| Refusal::unknown_service(name, all.iter().map(|entry| entry.name.as_str())))
    }

    /// Whether all workers of a service are ready; `None` if there is no such service.
    pub async fn is_ready(&self, name: &str) -> Option<bool> {
        let (answer, status) = oneshot::channel();
        self.find(name).ok()?.send(Command::Status(answer)).ok()?;
        let status = status.await.ok()?.ok()?;
        Some(status.service.workers.iter().all(|worker| worker.state == "ready"))
    }

    /// Waits until a service decides for all its listeners, or ends.
    pub async fn decides(&self, name: &str) {
        let (answer, decides) = oneshot::channel();
        if let Ok(commands) = self.find(name) {
            let _ = commands.send(Command::Decides(answer));
            // One that ends has no say any more.
            let _ = decides.await;
        }
    }

    /// Hands requests to join on to their services.
    pub async fn pass_on(self: Rc<Self>, mut requests: mpsc::UnboundedReceiver<join::Request>) {
        while let Some(request) = requests.recv().await {
            match self.find(&request.service) {
                // A service that is just ending drops the request, which says so to its sender.
                Ok(commands) => drop(commands.send(Command::Join(request))),
                Err(error) => drop(request.answer.send(Err(error.to_string()))),
            }
        }
    }

    /// Makes the services be these: new ones are started, others changed or ended. If anything
    /// cannot be done, nothing is. Returns what changed, one line a service.
    pub async fn apply(
        self: &Rc<Self>,
        wanted: Vec<config::Service>,
        occasion: Occasion,
        surroundings: &Rc<Surroundings>,
    ) -> Result<String, String> {
        if self.changing.replace(true) {
            return Err("the configuration is being changed already: try again when that is done".into());
        }
        self.changes.update(|changes| changes + 1);
        surroundings.claims.hold(true);
        let moves = Moves::find(&wanted, |listener| surroundings.claims.holder(listener));
        let if_changed = occasion == Occasion::Start;
        let begun = match self.check(moves.losers(&wanted), if_changed).await {
            Ok(()) => self.begin(moves.meanwhile(&wanted), &moves, if_changed, surroundings).await,
            Err(error) => Err(error),
        };
        surroundings.claims.hold(false);
        let begun = begun.inspect_err(|_| self.changing.set(false))?;
        let finishing = self.clone().finish(begun, moves, wanted, surroundings.clone());
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

    /// Waits until what was begun is done. Where listeners move from one service to another, both serve
    /// until the new one is ready, and only then the old one gives them up.
    async fn finish(
        self: Rc<Self>,
        begun: Changes,
        moves: Moves,
        wanted: Vec<config::Service>,
        surroundings: Rc<Surroundings>,
    ) -> Result<String, String> {
        let done = self.finish_moves(begun, moves, wanted, &surroundings).await;
        self.changing.set(false);
        done.map(|lines| lines.join("\n"))
    }

    async fn finish_moves(
        self: &Rc<Self>,
        begun: Changes,
        moves: Moves,
        wanted: Vec<config::Service>,
        surroundings: &Rc<Surroundings>,
    ) -> Result<Vec<String>, String> {
        let mut lines = self.settle(begun).await?;
        if moves.is_empty() {
            return Ok(lines);
        }
        if tokio::time::timeout(START, self.decide(&moves)).await.is_err() {
            let late = format!("{moves} when that is ready, which it was not within {START:?}");
            self.clone().try_again(moves, wanted, surroundings.clone());
            return Err(late);
        }
        let changes = self.begin(wanted, &Moves::default(), true, surroundings).await?;
        let changed = self.settle(changes).await?.into_iter();
        lines.extend(changed.filter(|line| !line.ends_with(": not changed")));
        Ok(lines)
    }

    /// Waits until those decide that listeners move to.
    async fn decide(&self, moves: &Moves) {
        for name in moves.takers() {
            self.decides(name).await;
        }
    }

    /// Goes on with moves that take their time, unless the configuration is changed again before.
    fn try_again(self: Rc<Self>, moves: Moves, wanted: Vec<config::Service>, surroundings: Rc<Surroundings>) {
        let changes = self.changes.get();
        let again: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move {
            self.decide(&moves).await;
            if self.changes.get() != changes || self.changing.get() {
                return;
            }
            match self.apply(wanted, Occasion::Start, &surroundings).await {
                Ok(_) => info!("ready at last: {moves}"),
                Err(error) => warn!("the configuration is not what serves: {error}"),
            }
        });
        tokio::task::spawn_local(again);
    }

    /// Everything that can fail; then what is new serves, and the rest is told.
    async fn begin(
        self: &Rc<Self>,
        wanted: Vec<config::Service>,
        moves: &Moves,
        if_changed: bool,
        surroundings: &Rc<Surroundings>,
    ) -> Result<Changes, String> {
        let mut prepared = Vec::new();
        let mut opened = Vec::new();
        let listen: Vec<(String, Vec<Listener>)> =
            wanted.iter().map(|service| (service.name.clone(), service.listen.clone())).collect();
        let names: Vec<String> = listen.iter().map(|(name, _)| name.clone()).collect();
        let outcome = self.prepare(wanted, if_changed, surroundings, &mut prepared, &mut opened).await;
        if let Err(error) = outcome {
            for (_, commands) in prepared {
                let _ = commands.send(Command::Abort);
            }
            for (_, service) in opened {
                service.discard().await;
            }
            self.forget(|name| names.iter().any(|wanted| wanted == name));
            return Err(error);
        }
        // A service that takes a listener which it is about to give up leaves that to nobody.
        for (name, listen) in &listen {
            surroundings.claims.leave_only(listen, name);
        }
        let mut changes = Changes::default();
        for (name, service) in opened {
            changes.lines.push(format!("{name}: new"));
            self.add(name, service);
        }
        let gone = |name: &String| !names.contains(name) && !moves.is_loser(name);
        changes.removed = self.names().into_iter().filter(gone).collect();
        for name in &changes.removed {
            info!(service = name, "it is not in the configuration any more");
            surroundings.claims.leave_only(&[], name);
            self.end(name);
            changes.lines.push(format!("{name}: ended"));
        }
        for (name, commands) in prepared {
            let (answer, receive) = oneshot::channel();
            let _ = commands.send(Command::Commit(answer));
            changes.answers.push((name, receive));
        }
        Ok(changes)
    }

    /// Waits for workers that are replaced or leave.
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
        while removed.iter().any(|name| self.names().contains(name)) {
            self.ended.notified().await;
        }
        if errors.is_empty() { Ok(lines) } else { Err(errors.join("; ")) }
    }

    /// Fails if one of these cannot be applied; changes nothing.
    async fn check(&self, wanted: Vec<config::Service>, if_changed: bool) -> Result<(), String> {
        for config in wanted {
            let Ok(commands) = self.find(&config.name) else { continue };
            if !self.is_there(&config.name) {
                continue;
            }
            let (answer, receive) = oneshot::channel();
            let _ = commands.send(Command::Prepare(Box::new(Prepare { config, if_changed }), answer));
            let prepared = receive.await;
            let _ = commands.send(Command::Abort);
            prepared.unwrap_or(Ok(()))?;
        }
        Ok(())
    }

    async fn prepare(
        &self,
        wanted: Vec<config::Service>,
        if_changed: bool,
        surroundings: &Rc<Surroundings>,
        prepared: &mut Vec<(String, mpsc::UnboundedSender<Command>)>,
        opened: &mut Vec<(String, Service)>,
    ) -> Result<(), String> {
        // New ones last: they take part in the kernel's groups from then on.
        let (known, new): (Vec<_>, Vec<_>) =
            wanted.into_iter().partition(|config| self.is_there(&config.name));
        for config in &new {
            self.expect(coming(config, "is being opened"));
        }
        for config in known.into_iter().chain(new) {
            let name = config.name.clone();
            if !self.is_there(&name) {
                if !config.command.is_empty() && config.user.is_none() {
                    let whom = if host::is_root() { "root" } else { "the daemon's own user" };
                    warn!("service {name}: its workers run as {whom}; `user` says whom else they may run as");
                }
                let service = Service::open(config, surroundings.clone()).await;
                opened.push((name, service.map_err(|error| format!("{error:#}"))?));
                continue;
            }
            let commands = self.find(&name).map_err(|error| error.to_string())?;
            let (answer, receive) = oneshot::channel();
            let _ = commands.send(Command::Prepare(Box::new(Prepare { config, if_changed }), answer));
            receive.await.map_err(|_| format!("service {name} is just ending: try again"))??;
            prepared.push((name, commands));
        }
        Ok(())
    }

    fn end(&self, name: &str) {
        for entry in self.all.borrow().iter().filter(|entry| entry.name == name) {
            let _ = entry.commands.send(Command::Stop);
        }
    }
}
