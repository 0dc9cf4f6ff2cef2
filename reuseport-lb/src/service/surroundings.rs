//! What the services of a daemon share.

use std::cell::{OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::process::Rlimit;
use socket2::Socket;
use tokio::sync::{Mutex, mpsc};
use tokio::time::sleep;

use super::Claims;
use super::event_log::EventLog;
use crate::domain::listener::Listener;
use crate::kernel::addresses::{self, Held, Taken};
use crate::kernel::attached::GroupPrograms;
use crate::kernel::bpffs::Pins;
use crate::kernel::cgroup::Cgroups;
use crate::kernel::connections::Connections;
use crate::kernel::output::Output;
use crate::kernel::systemd::Starting;
use crate::kernel::waits::Waits;
use crate::offload::in_thread;

/// What the services of a daemon share.
pub struct Surroundings {
    /// The directory of pins.
    pub pins: Pins,
    /// SO_COOKIE of every socket of every service; other sockets on these ports are strangers.
    pub ours: RefCell<HashSet<u64>>,
    /// Which service decides for which address.
    pub claims: Claims,
    /// Addresses that no other daemon may serve.
    pub held: RefCell<HashMap<Listener, Weak<Held>>>,
    /// Makes the cgroups of workers.
    pub cgroups: Cgroups,
    /// The directory of notification sockets and state files.
    pub runtime_dir: PathBuf,
    /// What sees more of the kernel than calls tell.
    pub sight: Sight,
    /// RLIMIT_NOFILE of workers.
    pub open_files: Rlimit,
    /// Errors while a service starts; they end the daemon.
    pub failures: mpsc::UnboundedSender<anyhow::Error>,
    /// Output of workers that may not be written yet.
    pub outputs: Outputs,
    /// What happened to the daemon and its services.
    pub events: Rc<EventLog>,
    /// Tells the service manager when all services are up.
    pub starting: Starting,
}

/// What sees more of the kernel than calls tell.
#[derive(Default)]
pub struct Sight {
    /// Sees whether a worker waits for work on a socket; `None` where the kernel does not allow that.
    pub waits: Option<Waits>,
    /// Sees which program a group has; loaded when a service adopts sockets of others.
    programs: OnceCell<Result<GroupPrograms, String>>,
    /// Counts live connections, while a service wants that.
    connections: Mutex<Weak<Connections>>,
}

impl Sight {
    /// With what sees who waits for work.
    #[must_use]
    pub fn new(waits: Option<Waits>) -> Self {
        Self { waits, ..Self::default() }
    }

    /// What sees which program a group has; an error says why that cannot be seen.
    pub(super) fn programs(&self) -> Result<&GroupPrograms, String> {
        let loaded =
            self.programs.get_or_init(|| GroupPrograms::load().map_err(|error| format!("{error:#}")));
        loaded.as_ref().map_err(Clone::clone)
    }
}

/// Output of the workers of a daemon.
#[derive(Default)]
pub struct Outputs(RefCell<Vec<Weak<Output>>>);

impl Outputs {
    pub(super) fn add(&self, output: &Rc<Output>) {
        let mut all = self.0.borrow_mut();
        all.retain(|output| output.strong_count() > 0);
        all.push(Rc::downgrade(output));
    }

    /// Waits until all that was written so far has gone where it belongs; for half a second at most.
    pub async fn are_written_soon(&self) {
        let begun = Instant::now();
        let waits = || self.0.borrow().iter().filter_map(Weak::upgrade).any(|output| !output.is_written());
        while waits() && begun.elapsed() < LAST_WORDS {
            sleep(LOOK).await;
        }
    }
}

/// How long the end of the daemon waits for the output of workers that have ended.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long a daemon that has ended may seem to hold an address: a process that it was just starting has its open files
/// until the process's `exec`.
const ENDED: Duration = Duration::from_secs(1);

/// How often holding the address is tried until then.
const LOOK: Duration = Duration::from_millis(10);

impl Surroundings {
    /// Keeps other daemons from serving an address as long as any service has the returned value. Fails if another
    /// daemon holds the address.
    pub(super) async fn hold(&self, listener: &Listener) -> Result<Option<Rc<Held>>> {
        // For port 0 the kernel chooses another port each time.
        if listener.address.port() == 0 {
            return Ok(None);
        }
        let begun = Instant::now();
        loop {
            if let Some(held) = self.held.borrow().get(listener).and_then(Weak::upgrade) {
                return Ok(Some(held));
            }
            let over = begun.elapsed() > ENDED;
            let held =
                if over { addresses::hold(listener).map(Some) } else { Ok(addresses::try_hold(listener)) };
            match held {
                Ok(Some(held)) => {
                    let held = Rc::new(held);
                    let mut all = self.held.borrow_mut();
                    all.retain(|_, held| held.strong_count() > 0);
                    all.insert(*listener, Rc::downgrade(&held));
                    return Ok(Some(held));
                }
                Ok(None) => sleep(LOOK).await,
                Err(Taken { pid }) => {
                    let who = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
                    bail!(
                        "another reuseport-lb{who} serves {listener} in this network namespace, with another runtime \
                         directory: stop that one first, or give this one another address"
                    );
                }
            }
        }
    }

    /// What counts live connections for all services that want it; begins if none did.
    pub(super) async fn connections(&self) -> Result<Rc<Connections>> {
        let mut shared = self.sight.connections.lock().await;
        if let Some(connections) = shared.upgrade() {
            return Ok(connections);
        }
        let root = self.pins.root().to_owned();
        let opened = Rc::new(in_thread("counting", move || Connections::open(&root)).await??);
        *shared = Rc::downgrade(&opened);
        Ok(opened)
    }

    /// Notes that a service does not need `connections` any more; counting ends with the last one.
    pub(super) fn ends_counting(&self, connections: Rc<Connections>) {
        if let Some(last) = Rc::into_inner(connections) {
            last.remove();
        }
    }

    /// Does the regular checks of all held addresses ([`Held::look`]).
    pub fn look(&self) {
        self.held.borrow().values().filter_map(Weak::upgrade).for_each(|held| held.look());
    }

    /// Whether any thread waits for work on `socket`; `None` where that cannot be seen, or if the socket is closed or
    /// shut down.
    pub(super) fn waits_on(&self, socket: &Socket) -> Option<bool> {
        self.sight.waits.as_ref()?.on(socket).ok()
    }
}
