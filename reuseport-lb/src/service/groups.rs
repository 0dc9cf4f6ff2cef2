//! A listener of a service with its group in the kernel, and the reader of that group's log.

use std::ops::Deref;
use std::rc::Rc;

use anyhow::Result;
use reuseport_lb_common::activity::Activity;
use reuseport_lb_common::load::Fitness;
use reuseport_lb_common::table::Table;
use socket2::Socket;
use tokio::task::JoinHandle;
use tracing::warn;

use super::Surroundings;
use super::trace::{self, Tracer};
use crate::config;
use crate::domain::buckets::{Buckets, FlowCounter, SharedMemory};
use crate::domain::listener::Listener;
use crate::kernel::addresses::Held;
use crate::kernel::group::{GroupMemory, PinnedGroup, Policy, Totals};
use crate::kernel::{recover, socket};
use crate::offload::in_thread;

/// What threads do that make groups.
const LOADING: &str = "loading";

impl SharedMemory for GroupMemory {
    fn table(&self) -> &Table {
        self.table()
    }

    fn set_fitness(&self, slot: u16, fitness: Fitness) {
        self.load().line(slot).set_fitness(fitness);
    }

    fn tracks(&self) -> bool {
        self.tracks()
    }

    fn activity(&self) -> Option<impl Deref<Target = Activity>> {
        self.activity()
    }
}

impl From<&config::ServiceConfig> for Policy {
    /// That of a service's groups.
    fn from(service: &config::ServiceConfig) -> Self {
        Self { affinity: service.affinity, when_busy: service.when_busy }
    }
}

/// A listener with its group.
pub(super) struct ListenerGroup {
    /// As the configuration says, perhaps with port 0.
    pub(super) asked: Listener,
    pub(super) group: PinnedGroup,
    pub(super) buckets: Buckets,
    /// The name of its directory of pins.
    pub(super) name: String,
    /// It was made at a takeover because nothing was left of the one before.
    pub(super) is_new: bool,
    reader: JoinHandle<std::io::Result<()>>,
    /// Of when a slot became free for the last time: right for all that are free since then.
    counted: Option<Totals>,
    service: String,
    surroundings: Rc<Surroundings>,
    /// Keeps the address from other daemons.
    _held: Option<Rc<Held>>,
}

/// For whom a group is made.
pub(super) struct Owner<'a> {
    pub(super) config: &'a config::ServiceConfig,
    pub(super) surroundings: &'a Rc<Surroundings>,
    pub(super) tracer: &'a Tracer,
}

impl Drop for ListenerGroup {
    fn drop(&mut self) {
        self.reader.abort();
        self.surroundings.claims.withdraw(&self.asked, &self.service);
    }
}

impl ListenerGroup {
    /// Makes a group for `listener`; `at` tells listeners apart that are written alike: with port 0,
    /// which becomes another port each.
    pub(super) async fn make(listener: &Listener, at: u64, owner: &Owner<'_>) -> Result<Self> {
        let held = owner.surroundings.hold(listener).await?;
        let name = format!("{at}-{}", listener.plain_name());
        let pins = owner.surroundings.pins.directory(&owner.config.name, &name)?;
        let (which, policy) = (*listener, Policy::from(owner.config));
        let group = in_thread(LOADING, move || PinnedGroup::load(&which, policy, &pins)).await??;
        Self::with(*listener, group, name, held, owner)
    }

    /// Goes on with the group of an earlier daemon, or of the same with another policy. It decides
    /// only once it is attached.
    pub(super) async fn take_over(
        (asked, bound): (&Listener, &Listener),
        name: &str,
        layout: u32,
        owner: &Owner<'_>,
    ) -> Result<Self> {
        let pins = owner.surroundings.pins.directory(&owner.config.name, name)?;
        let (which, policy) = (*bound, Policy::from(owner.config));
        let group =
            in_thread(LOADING, move || PinnedGroup::take_over(&which, policy, &pins, layout)).await??;
        let held = hold_anyway(asked, owner.surroundings).await;
        Self::with(*asked, group, name.to_owned(), held, owner)
    }

    /// Instead of the group of an earlier daemon, of which nothing is left but the sockets.
    pub(super) async fn make_anew(
        (asked, bound): (&Listener, &Listener),
        name: &str,
        owner: &Owner<'_>,
    ) -> Result<Self> {
        let pins = owner.surroundings.pins.directory(&owner.config.name, name)?;
        let (which, policy) = (*bound, Policy::from(owner.config));
        let group = in_thread(LOADING, move || recover::make_anew(&which, policy, &pins)).await??;
        let held = hold_anyway(asked, owner.surroundings).await;
        let made = Self::with(*asked, group, name.to_owned(), held, owner)?;
        Ok(Self::renewed(made))
    }

    fn renewed(mut made: Self) -> Self {
        made.is_new = true;
        made
    }

    fn with(
        asked: Listener,
        mut group: PinnedGroup,
        name: String,
        held: Option<Rc<Held>>,
        owner: &Owner<'_>,
    ) -> Result<Self> {
        let log = group.take_log(owner.tracer.sink(group.listener().to_string()))?;
        let reader = tokio::task::spawn_local(trace::follow(log));
        let (service, surroundings) = (owner.config.name.clone(), owner.surroundings.clone());
        group.decides = surroundings.claims.claim(asked, &service);
        Ok(Self {
            asked,
            group,
            buckets: Buckets::default(),
            name,
            is_new: false,
            reader,
            counted: None,
            service,
            surroundings,
            _held: held,
        })
    }

    /// For what a free slot has been selected.
    pub(super) fn counted(&mut self, slot: u16) -> Result<u64> {
        if self.counted.is_none() {
            self.counted = Some(self.group.totals()?);
        }
        Ok(self.counted.as_ref().map_or(0, |totals| totals.selected[usize::from(slot)]))
    }

    /// Another slot is free.
    pub(super) fn forget_counted(&mut self) {
        self.counted = None;
    }

    /// What is shared with the program.
    pub(super) fn memory(&self) -> &GroupMemory {
        self.group.memory()
    }

    /// What counts the flows, anywhere; `None` for TCP. They are the same as long as there were no other `decisions`.
    pub(super) fn flow_counter(&self, decisions: u64) -> Option<FlowCounter<GroupMemory>> {
        self.buckets.flow_counter(self.memory(), (decisions, self.group.merges()))
    }

    /// Opens another socket of the group; before the first one the kernel may choose a port.
    pub(super) fn open(&mut self, backlog: u32, first: bool) -> Result<Socket> {
        if self.group.listener().address.port() == 0 {
            self.group.bound(socket::choose_port(self.group.listener())?);
        }
        socket::open(&self.group, backlog, first)
    }
}

/// What serves goes on, also if another daemon has come to the address meanwhile.
async fn hold_anyway(listener: &Listener, surroundings: &Surroundings) -> Option<Rc<Held>> {
    surroundings.hold(listener).await.inspect_err(|error| warn!("{error:#}")).ok().flatten()
}
