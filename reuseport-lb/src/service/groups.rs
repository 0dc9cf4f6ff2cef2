//! A listener of a service with its group in the kernel, and the reader of that group's log.

use std::ops::Deref;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::Result;
use reuseport_lb_common::activity::Activity;
use reuseport_lb_common::directed::DirectedPorts;
use reuseport_lb_common::load::Fitness;
use reuseport_lb_common::table::{Table, attention};
use socket2::Socket;
use tokio::task::JoinHandle;
use tracing::warn;

use super::Surroundings;
use super::trace::{self, Tracer};
use crate::config;
use crate::domain::buckets::{Buckets, FlowCounter, SharedMemory};
use crate::domain::listener::Listener;
use crate::domain::ports::Rosters;
use crate::kernel::addresses::Held;
use crate::kernel::connections::Connections;
use crate::kernel::group::{GroupMemory, PinnedGroup, Policy, Totals};
use crate::kernel::owner::Siblings;
use crate::kernel::{recover, socket};
use crate::offload::in_thread;

/// Name of the threads that load programs.
const LOADING: &str = "loading";

impl SharedMemory for GroupMemory {
    fn table(&self) -> &Table {
        self.table()
    }

    fn set_fitness(&self, slot: u16, fitness: Fitness) {
        self.load().line(slot).set_fitness(fitness);
    }

    fn directed(&self) -> &DirectedPorts {
        &self.load().directed
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
        Self {
            affinity: service.affinity.clone(),
            when_busy: service.when_busy,
            balance: service.connections.balance,
            counts: service.counts_connections(),
            flows: service.flows,
            // With the service's word only once the group is made.
            quic: service.quic.as_ref().map(|quic| quic.format(0)),
        }
    }
}

/// A listener with its group.
pub(super) struct ListenerGroup {
    /// The listener as the configuration says, perhaps with port 0.
    pub(super) asked: Listener,
    pub(super) group: PinnedGroup,
    pub(super) buckets: Buckets,
    /// Ports of this daemon's own connections, and the buckets that they come to.
    pub(super) ports: Vec<(u16, u16)>,
    /// Name of the group's directory of pins.
    pub(super) name: String,
    /// The group was made at a takeover because only sockets were left of the one before.
    pub(super) is_new: bool,
    reader: JoinHandle<std::io::Result<()>>,
    /// Counters read since a slot last became free: those of a free slot do not change, so they are right for every
    /// slot that is still free.
    counted: Option<Totals>,
    service: String,
    surroundings: Rc<Surroundings>,
    /// Keeps other daemons from serving the address.
    _held: Option<Rc<Held>>,
}

/// The service that a group is made for.
pub(super) struct Owner<'a> {
    pub(super) config: &'a config::ServiceConfig,
    pub(super) surroundings: &'a Rc<Surroundings>,
    pub(super) tracer: &'a Tracer,
    /// What counts the service's live connections, if anything does.
    pub(super) connections: Option<&'a Rc<Connections>>,
    /// What the tags of its workers are made with.
    pub(super) word: u64,
}

impl Owner<'_> {
    fn policy(&self) -> Policy {
        let quic = self.config.quic.as_ref().map(|quic| quic.format(self.word));
        Policy { quic, ..Policy::from(self.config) }
    }

    /// Where the accounts are pinned.
    fn accounts(&self) -> Option<PathBuf> {
        self.connections.map(|it| it.pins().to_owned())
    }
}

impl Drop for ListenerGroup {
    fn drop(&mut self) {
        self.reader.abort();
        self.surroundings.claims.withdraw(&self.asked, &self.service);
    }
}

impl ListenerGroup {
    /// Makes a group for `listener`. `at` tells apart listeners that are written alike: with port 0, for which the
    /// kernel chooses another port each time.
    pub(super) async fn make(asked: &config::ListenerConfig, at: u64, owner: &Owner<'_>) -> Result<Self> {
        let listener = &asked.listener;
        let held = owner.surroundings.hold(listener).await?;
        let name = format!("{at}-{}", listener.plain_name());
        let pins = owner.surroundings.pins.directory(&owner.config.name, &name)?;
        let (which, policy, accounts) = (*listener, owner.policy(), owner.accounts());
        let load = move || PinnedGroup::load(&which, &policy, &pins, accounts.as_deref());
        let group = in_thread(LOADING, load).await??;
        group.freebind.set(asked.freebind);
        Self::with(*listener, group, name, held, owner)
    }

    /// Goes on with the maps of a group that an earlier daemon made, or this one with another policy. The new program
    /// decides only once it is attached.
    pub(super) async fn take_over(
        (asked, bound): (&Listener, &Listener),
        name: &str,
        layout: u32,
        owner: &Owner<'_>,
    ) -> Result<Self> {
        let pins = owner.surroundings.pins.directory(&owner.config.name, name)?;
        let (which, policy, accounts) = (*bound, owner.policy(), owner.accounts());
        let load = move || PinnedGroup::take_over(&which, &policy, &pins, accounts.as_deref(), layout);
        let group = in_thread(LOADING, load).await??;
        let held = hold_or_warn(asked, owner.surroundings).await;
        Self::with(*asked, group, name.to_owned(), held, owner)
    }

    /// Makes a group instead of one of an earlier daemon of which only the sockets are left.
    pub(super) async fn make_anew(
        (asked, bound): (&Listener, &Listener),
        name: &str,
        owner: &Owner<'_>,
    ) -> Result<Self> {
        let pins = owner.surroundings.pins.directory(&owner.config.name, name)?;
        let (which, policy, accounts) = (*bound, owner.policy(), owner.accounts());
        let load = move || recover::make_anew(&which, &policy, &pins, accounts.as_deref());
        let group = in_thread(LOADING, load).await??;
        let held = hold_or_warn(asked, owner.surroundings).await;
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
        let attention = &group.memory().table().attention;
        let open = if owner.config.adopt.is_some() { attention::OPEN } else { 0 };
        // Connections that an earlier daemon made for itself are over.
        attention.set(attention.get() & !attention::DIRECT | open);
        Ok(Self {
            asked,
            group,
            buckets: Buckets::default(),
            ports: Vec::new(),
            name,
            is_new: false,
            reader,
            counted: None,
            service,
            surroundings,
            _held: held,
        })
    }

    /// How often a slot that is free now has been selected so far.
    pub(super) fn counted(&mut self, slot: u16) -> Result<u64> {
        if self.counted.is_none() {
            self.counted = Some(self.group.totals()?);
        }
        Ok(self.counted.as_ref().map_or(0, |totals| totals.selected[usize::from(slot)]))
    }

    /// Reads the counters again next time, because another slot has become free.
    pub(super) fn forget_counted(&mut self) {
        self.counted = None;
    }

    /// The maps that are shared with the program.
    pub(super) fn memory(&self) -> &GroupMemory {
        self.group.memory()
    }

    /// A counter of the group's flows that can be sent to another thread; `None` for TCP. Counts are reused as long as
    /// the number of `decisions` stays the same.
    pub(super) fn flow_counter(&self, decisions: u64) -> Option<FlowCounter<GroupMemory>> {
        self.buckets.flow_counter(self.memory(), (decisions, self.group.merges()))
    }

    /// Tells the program which slots there are for what.
    pub(super) fn set_rosters(&self, rosters: &Rosters) {
        let Rosters { ready, weights, waiting, by_cpu } = rosters;
        self.group.set_weights(ready, weights);
        self.group.set_rosters(ready, waiting, by_cpu);
    }

    /// Opens another socket of the group. For port 0 the kernel chooses a port before the first socket.
    pub(super) fn open(&mut self, backlog: u32, first: bool, siblings: &Siblings) -> Result<Socket> {
        if self.group.listener().address.port() == 0 {
            self.group.bound(socket::choose_port(self.group.listener(), self.group.freebind.get())?);
        }
        socket::open(&self.group, backlog, first, siblings)
    }
}

/// Holds an address that is served already; where another daemon has got it meanwhile, that is logged, and the group
/// serves on.
async fn hold_or_warn(listener: &Listener, surroundings: &Surroundings) -> Option<Rc<Held>> {
    surroundings.hold(listener).await.inspect_err(|error| warn!("{error:#}")).ok().flatten()
}
