//! Making everything that can fail, before anything serves: for a new service, and for new settings of a running one.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use reuseport_lb_common::LAYOUT_VERSION;
use tokio::sync::mpsc;
use tracing::warn;

use super::command::Prepare;
use super::dataplane::Groups;
use super::groups::{ListenerGroup, Owner};
use super::processes::ProcessTable;
use super::trace::Tracer;
use super::{Service, Surroundings};
use crate::config;
use crate::domain::engine::{Engine, NewGroup, Reconfiguration, Settings};
use crate::domain::listener::Listener;
use crate::domain::observed::User;
use crate::domain::ports::ListenerId;
use crate::kernel::connections::Connections;
use crate::kernel::group::Policy;
use crate::kernel::strangers::{self, Census};
use crate::kernel::{host, owner, socket};
use crate::offload::{Slices, in_thread, in_thread_within};

/// How long looking up a user (NSS) may take.
const LOOKING_UP: Duration = Duration::from_secs(10);

/// The user that embedded workers run as, unless one is configured.
const NOBODY: &str = "nobody";

impl Service {
    /// Loads a program for each listener and opens the sockets of all workers; starts no process.
    pub async fn open(configured: config::ServiceConfig, surroundings: Rc<Surroundings>) -> Result<Self> {
        let settings = look_up(configured).await?;
        let (name, tracer) = (settings.config.name.clone(), Tracer::default());
        let (send, events) = mpsc::unbounded_channel();
        let connections = connections_of(&settings.config, &surroundings).await?;
        let mut groups = Groups::new(&settings, &surroundings, &tracer, connections.clone(), None);
        let processes =
            ProcessTable::new(&name, (groups.sockets(), groups.opened()), groups.word(), send, &surroundings);
        let mut listeners = Vec::new();
        let (connections, word) = (connections.as_ref(), groups.word());
        let owner = Owner {
            config: &settings.config,
            surroundings: &surroundings,
            tracer: &tracer,
            connections,
            word,
        };
        for (at, asked) in (1..).zip(&settings.config.listen) {
            match ListenerGroup::make(asked, at, &owner).await {
                Ok(group) => groups.add(ListenerId(at), group),
                Err(error) => {
                    groups.take_all().iter().for_each(|group| surroundings.pins.forget(&name, &group.name));
                    groups.end_counting();
                    return Err(error.context(format!("service {name}")));
                }
            }
            listeners.push((ListenerId(at), asked.listener));
        }
        let engine = Engine::new(settings, listeners, (groups, processes), Instant::now());
        let mut service = Self::new(engine, events, tracer, &surroundings);
        surroundings.starting.begun();
        service.starting = true;
        if let Err(error) = service.add_workers().await {
            service.discard().await;
            return Err(anyhow!(error).context(format!("service {name}")));
        }
        service.engine.ports().0.begin();
        service.look_for_strangers().await?;
        Ok(service)
    }

    async fn add_workers(&mut self) -> Result<(), String> {
        let mut slices = Slices::begin();
        while self.engine.add_configured()? {
            slices.turn().await;
        }
        Ok(())
    }

    /// Takes back what [`Service::open`] made.
    pub async fn discard(mut self) {
        let mut slices = Slices::begin();
        for id in self.engine.pool().ids(|_| true) {
            self.engine.discard(id, Instant::now());
            slices.turn().await;
        }
        self.started();
        self.unpin_all().await;
    }

    async fn look_for_strangers(&self) -> Result<()> {
        if self.engine.pool().is_empty() {
            return Ok(());
        }
        let groups = self.engine.listeners().filter_map(|it| self.engine.dataplane().get(it.id));
        let listeners: Vec<Listener> = groups.map(|group| *group.group.listener()).collect();
        let taken = listeners.clone();
        let Ok(census) = in_thread("sockets", move || Census::take(&taken)).await? else { return Ok(()) };
        for listener in &listeners {
            let name = &self.engine.settings().config.name;
            if self.surroundings.claims.holder(listener).is_some_and(|holder| holder != *name) {
                // The other sockets are that service's.
                continue;
            }
            if let strangers @ 1.. = census.count(listener, &self.surroundings.ours.borrow()) {
                warn!(
                    "{strangers} other sockets are on the port of {listener} (`ss -ltunp sport = :{}`): those in its \
                     group get nothing from now on",
                    listener.address.port()
                );
            }
        }
        Ok(())
    }

    /// Makes everything that new settings need and that can fail; [`Command::Commit`](super::Command::Commit) then
    /// applies them.
    pub(super) async fn prepare(&mut self, request: Prepare) -> Result<(), String> {
        let Prepare { config: configured, if_changed } = request;
        self.forget_prepared();
        let settings = self.engine.settings();
        if if_changed && configured == settings.configured {
            return Ok(());
        }
        let name = &settings.config.name;
        if self.engine.is_stopping() {
            return Err(format!("service {name} is ending"));
        }
        // A daemon's start (`if_changed`) must not fail because the daemon before was replacing workers.
        if self.engine.is_replacing() && !if_changed {
            return Err(format!(
                "workers of service {name} are being replaced right now: try again when that is done"
            ));
        }
        let (before, after) = (&settings.configured, &configured);
        let adopts = before.adopt.is_some() || after.adopt.is_some();
        if adopts && (before.adopt != after.adopt || !before.listeners().eq(after.listeners())) {
            return Err(format!(
                "service {name}: `adopt`, and the listeners of a service that has it, cannot be changed while it runs: give                  the service another name, or reload once without it"
            ));
        }
        let service = configured.name.clone();
        let prepared = self.make_ready(configured).await.with_context(|| format!("service {service}"));
        self.prepared = Some(Box::new(prepared.map_err(|error| format!("{error:#}"))?));
        self.engine.set_prepared(true);
        Ok(())
    }

    /// Fails if the sockets cannot be given to the user of new settings: the kernel lets sockets of one user only onto
    /// an address, and those of other programs and services stay theirs.
    fn require_owner(&self, settings: &Settings) -> Result<()> {
        let owner = owner_of(settings);
        if owner == owner_of(self.engine.settings()) {
            return Ok(());
        }
        let own = self.engine.dataplane().sockets().borrow().keys().map(|cookie| cookie.0).collect();
        let uid = owner.unwrap_or_else(host::own_uid);
        for id in self.engine.listeners().map(|it| it.id) {
            let Some(group) = self.engine.dataplane().get(id) else { continue };
            let listener = group.group.listener();
            owner::try_to_give(listener, owner)?;
            // Where the kernel does not list its sockets, the next one that is opened says what is wrong.
            let others = strangers::users(listener, &own).unwrap_or_default();
            if let Some(other) = others.into_iter().find(|it| *it != uid) {
                bail!(
                    "the sockets of {listener} cannot become those of user id {uid}: user id {other} has sockets there as \
                     well (`ss -ltunpe sport = :{}`), and the kernel takes sockets of one user only; end those first, or \
                     leave `socket_owner` and `user` as they are",
                    listener.address.port()
                );
            }
        }
        Ok(())
    }

    async fn make_ready(&mut self, configured: config::ServiceConfig) -> Result<Reconfiguration> {
        let settings = look_up(configured).await?;
        self.require_owner(&settings)?;
        let connections = connections_of(&settings.config, &self.surroundings).await?;
        let mut prepared = BTreeMap::new();
        let made = self.make_groups(&settings, connections.as_ref(), &mut prepared).await;
        self.engine.ports().0.prepare(prepared, connections);
        match made {
            Ok((groups, serial)) => {
                self.engine.reserve(serial);
                Ok(Reconfiguration { settings, groups })
            }
            Err(error) => {
                self.engine.ports().0.forget_prepared();
                Err(error)
            }
        }
    }

    /// Makes the groups of new listeners, and those that decide in another way, into `made`; returns which, and the last
    /// serial number. What an error leaves there has pins.
    async fn make_groups(
        &self,
        settings: &Settings,
        connections: Option<&Rc<Connections>>,
        made: &mut BTreeMap<ListenerId, ListenerGroup>,
    ) -> Result<(Vec<NewGroup>, u64)> {
        let mut serial = self.engine.pool().serial();
        let mut groups = Vec::new();
        let mut known: Vec<ListenerId> = self.engine.listeners().map(|it| it.id).collect();
        let (surroundings, tracer) = (&self.surroundings, &self.tracer);
        let dataplane = self.engine.dataplane();
        let word = dataplane.word();
        let owner = Owner { config: &settings.config, surroundings, tracer, connections, word };
        let decides_as_before =
            Policy::from(&settings.config) == Policy::from(&self.engine.settings().config);
        for asked in &settings.config.listen {
            let same =
                |id: &ListenerId| dataplane.get(*id).is_some_and(|group| group.asked == asked.listener);
            let id = match known.iter().position(same) {
                None => {
                    serial += 1;
                    let id = ListenerId(serial);
                    let group =
                        made.entry(id).insert_entry(ListenerGroup::make(asked, serial, &owner).await?);
                    socket::probe(&group.get().group, owner_of(settings))?;
                    id
                }
                Some(at) => {
                    let id = known.remove(at);
                    let Some(group) = dataplane.get(id) else { continue };
                    if decides_as_before {
                        continue;
                    }
                    let which = (&group.asked, group.group.listener());
                    made.insert(
                        id,
                        ListenerGroup::take_over(which, &group.name, LAYOUT_VERSION, &owner).await?,
                    );
                    id
                }
            };
            groups.push(NewGroup { id, asked: asked.listener });
        }
        Ok((groups, serial))
    }
}

/// What counts the live connections of a service, if it wants that.
pub(super) async fn connections_of(
    config: &config::ServiceConfig,
    surroundings: &Surroundings,
) -> Result<Option<Rc<Connections>>> {
    if !config.counts_connections() {
        return Ok(None);
    }
    let opened = surroundings.connections().await;
    opened.map(Some).with_context(|| format!("service {}: its connections cannot be counted", config.name))
}

/// User id that the sockets belong to; `None`: the daemon's.
fn owner_of(settings: &Settings) -> Option<u32> {
    settings.socket_owner().map(|user| user.uid)
}

/// Looks up the user that workers run as, and those that may join, in a thread: the name service may be slow.
pub(super) async fn look_up(configured: config::ServiceConfig) -> Result<Settings> {
    let asked = configured.clone();
    let look = move || {
        let (config, user) = with_user(asked)?;
        // Names are checked when the file is read. At a takeover a user may be gone.
        let found = |it: &String| host::user(it, None).inspect_err(|error| warn!("join: {error:#}")).ok();
        let join = config.join.as_ref().map(|join| join.iter().filter_map(found).collect());
        Ok::<_, anyhow::Error>((config, user, join))
    };
    let (config, user, join) = in_thread_within(LOOKING_UP, "looking up a user", look).await??;
    Ok(Settings { config, configured, user, join })
}

/// Looks up the user that workers run as. Embedded workers run as `nobody`, if there is such a user.
pub fn with_user(mut config: config::ServiceConfig) -> Result<(config::ServiceConfig, Option<User>)> {
    if config.embedded && config.user.is_none() {
        // The embedded worker needs no rights at all.
        config.user = host::user(NOBODY, None).ok().map(|user| user.name);
    }
    let group = config.process.group.as_deref();
    let user = config.user.as_deref().map(|user| host::user(user, group)).transpose()?;
    Ok((config, user))
}
