//! A listener of a service: its group in the kernel and the reader of that group's log.

use std::rc::Rc;

use anyhow::Result;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::flows::keeps;
use super::workers::{Id, Worker};
use super::{Service, Surroundings};
use crate::config;
use crate::domain::health::Health;
use crate::domain::listener::{Listener, Protocol};
use crate::domain::table::Table;
use crate::domain::worker::State;
use crate::kernel::addresses::Held;
use crate::kernel::group::{Group, Policy, Totals};
use crate::kernel::{recover, socket};
use crate::offload::{Slices, in_thread};
use crate::service::trace::{self, Tracer};

/// What threads do that make groups.
const LOADING: &str = "loading";

/// One listener.
pub(super) struct Door {
    /// As the configuration says, perhaps with port 0.
    pub(super) asked: Listener,
    pub(super) group: Group,
    /// Whether workers that are started from now on get a socket of it.
    pub(super) wanted: bool,
    /// The name of its directory of pins.
    pub(super) name: String,
    /// Of TCP workers here.
    pub(super) health: Health<Id>,
    /// Decisions for each slot when something last waited.
    pub(super) selected: Box<[u64]>,
    reader: JoinHandle<std::io::Result<()>>,
    /// Of when a slot became free for the last time: right for all that are free since then.
    counted: Option<Totals>,
    service: String,
    surroundings: Rc<Surroundings>,
    /// Keeps the address from other daemons.
    _held: Option<Rc<Held>>,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.reader.abort();
        self.surroundings.claims.withdraw(&self.asked, &self.service);
    }
}

impl Door {
    /// Makes a group for `listener`; `at` tells listeners apart that are written alike: with port 0,
    /// which becomes another port each.
    pub(super) async fn make(
        config: &config::Service,
        listener: &Listener,
        at: u64,
        surroundings: &Rc<Surroundings>,
        tracer: &Tracer,
    ) -> Result<Self> {
        let held = surroundings.hold(listener).await?;
        let name = format!("{at}-{}", listener.plain_name());
        let pins = surroundings.pins.directory(&config.name, &name)?;
        let (which, policy) = (*listener, Policy::of(config));
        let group = in_thread(LOADING, move || Group::load(&which, policy, &pins)).await??;
        Self::with(config, *listener, group, name, held, surroundings, tracer)
    }

    /// Goes on with the group of an earlier daemon, or of the same with another policy. It decides
    /// only once it is attached.
    pub(super) async fn take_over(
        config: &config::Service,
        (asked, bound): (&Listener, &Listener),
        name: &str,
        layout: u32,
        surroundings: &Rc<Surroundings>,
        tracer: &Tracer,
    ) -> Result<Self> {
        let pins = surroundings.pins.directory(&config.name, name)?;
        let (which, policy) = (*bound, Policy::of(config));
        let group = in_thread(LOADING, move || Group::take_over(&which, policy, &pins, layout)).await??;
        let held = hold_anyway(asked, surroundings).await;
        Self::with(config, *asked, group, name.to_owned(), held, surroundings, tracer)
    }

    /// Instead of the group of an earlier daemon, of which nothing is left but the sockets.
    pub(super) async fn make_anew(
        config: &config::Service,
        (asked, bound): (&Listener, &Listener),
        name: &str,
        surroundings: &Rc<Surroundings>,
        tracer: &Tracer,
    ) -> Result<Self> {
        let pins = surroundings.pins.directory(&config.name, name)?;
        let (which, policy) = (*bound, Policy::of(config));
        let group = in_thread(LOADING, move || recover::make_anew(&which, policy, &pins)).await??;
        let held = hold_anyway(asked, surroundings).await;
        Self::with(config, *asked, group, name.to_owned(), held, surroundings, tracer)
    }

    fn with(
        config: &config::Service,
        asked: Listener,
        mut group: Group,
        name: String,
        held: Option<Rc<Held>>,
        surroundings: &Rc<Surroundings>,
        tracer: &Tracer,
    ) -> Result<Self> {
        let log = group.take_log(tracer.sink(group.listener().to_string()))?;
        let reader = tokio::task::spawn_local(trace::follow(log));
        let (service, surroundings) = (config.name.clone(), surroundings.clone());
        group.decides = surroundings.claims.claim(asked, &service);
        Ok(Self {
            asked,
            group,
            wanted: true,
            name,
            health: Health::default(),
            selected: Box::default(),
            reader,
            counted: None,
            service,
            surroundings,
            _held: held,
        })
    }

    /// Whether connections are to be accepted here.
    pub(super) fn is_tcp(&self) -> bool {
        self.group.listener().protocol == Protocol::Tcp
    }

    /// For what free slots have been selected.
    pub(super) fn counted(&mut self) -> Result<&[u64]> {
        if self.counted.is_none() {
            self.counted = Some(self.group.totals()?);
        }
        Ok(self.counted.as_ref().map_or(&[], |totals| &totals.selected))
    }

    /// Another slot is free.
    pub(super) fn forget_counted(&mut self) {
        self.counted = None;
    }

    /// Points all buckets to where the table says; flows stay with those who keep theirs.
    pub(super) fn publish(&self, table: &Table, keepers: &[u16]) {
        self.group.publish((0..=u16::MAX).zip(table.owners().iter().copied()), keeps(keepers));
    }

    /// Opens another socket of the group; before the first one the kernel may choose a port.
    pub(super) fn open(&mut self, backlog: u32, first: bool) -> Result<socket2::Socket> {
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

/// The door of `listener`, unless it is gone.
pub(super) fn door_of<'a>(doors: &'a mut [Door], listener: &Listener) -> Option<&'a mut Door> {
    doors.iter_mut().find(|door| door.group.listener() == listener)
}

/// The index of the door of `listener`, which most often is `at`.
pub(super) fn index_near(doors: &[Door], at: usize, listener: &Listener) -> Option<usize> {
    let is = |door: &Door| door.group.listener() == listener;
    if doors.get(at).is_some_and(is) { Some(at) } else { doors.iter().position(is) }
}

/// The door of `listener`, to look at; most often it is the one with index `at`.
pub(super) fn door_at<'a>(doors: &'a [Door], at: usize, listener: &Listener) -> Option<&'a Door> {
    index_near(doors, at, listener).map(|at| &doors[at])
}

/// The door of `listener`; most often it is the one with index `at`.
pub(super) fn door_near<'a>(doors: &'a mut [Door], at: usize, listener: &Listener) -> Option<&'a mut Door> {
    index_near(doors, at, listener).map(|at| &mut doors[at])
}

impl Service {
    /// Takes listeners over from other services once all of its own workers are ready on them.
    pub(super) fn take_listeners(&mut self) {
        let name = self.config.name.clone();
        let around = self.surroundings.clone();
        if !around.claims.may_take() && !self.stopping {
            return;
        }
        let waits = |door: &Door| {
            door.wanted && !door.group.decides.get() && !around.claims.is_lost(&door.asked, &name)
        };
        if !self.doors.iter().any(waits) || self.stopping {
            let done = std::mem::take(&mut self.tell_decides);
            // Whoever asked may have gone away.
            for answer in done {
                let _ = answer.send(());
            }
            return;
        }
        let staying = self.staying();
        for at in (0..self.doors.len()).filter(|at| waits(&self.doors[*at])).collect::<Vec<usize>>() {
            let door = &self.doors[at];
            let listener = *door.group.listener();
            let serves = |id: &Id| {
                let ready =
                    |it: &&Worker| it.is_member() && it.life.admitted() && it.life.state() == State::Ready;
                let worker = self.workers.get(id).filter(ready);
                worker.is_some_and(|it| it.places.iter().any(|place| place.listener == listener))
            };
            if !staying.iter().all(serves) || (staying.is_empty() && self.config.workers > 0) {
                continue;
            }
            let before = around.claims.take(&door.asked, &name);
            self.tell_rosters(None);
            match self.attach_door(at) {
                Ok(()) => info!(service = name, from = before.unwrap_or_default(), "takes {listener} over"),
                // It is tried again each second.
                Err(error) => warn!("{error:#}"),
            }
            self.unsaved = true;
        }
    }

    /// Removes the pins of all groups.
    pub(super) async fn pull_down(&mut self) {
        let mut slices = Slices::begin();
        for door in std::mem::take(&mut self.doors) {
            slices.turn().await;
            self.surroundings.pins.forget(&self.config.name, &door.name);
        }
    }
}
