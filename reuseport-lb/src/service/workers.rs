//! A worker as its service knows it: its place in the service, its sockets and its process.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::Socket;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::warn;

use super::membership::Drained;
use crate::domain::listener::{Listener, Protocol};
use crate::domain::worker::{Life, Origin, State};
use crate::kernel::opened::Opened;
use crate::kernel::output::Output;
use crate::kernel::process::{Exit, Process};
use crate::kernel::socket;
use crate::service::sd_notify::Notify;

/// A process that ends so soon after its start has not served.
const SOON: Duration = Duration::from_secs(2);

/// Which worker. A successor has the number of the worker that it is to replace, and both are there
/// for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    pub(super) number: usize,
    /// A later one has a higher one.
    pub(super) instance: u64,
}

/// One worker.
pub(super) struct Worker {
    pub(super) id: Id,
    pub(super) name: String,
    pub(super) slot: u16,
    /// Whether `slot` is its own: not yet, or not any more, if another worker of its name has it.
    pub(super) holds_slot: bool,
    /// It is to replace another, and has no part in the service before it has shown that it works.
    pub(super) trial: bool,
    /// It is about to be released: it has neither buckets nor flows any more.
    pub(super) parting: bool,
    /// The service's `release` that it was started with.
    pub(super) release: u64,
    pub(super) weight: u32,
    pub(super) life: Life,
    /// One per listener, in their order.
    pub(super) places: Vec<Place>,
    pub(super) process: Option<Running>,
    /// When its process was started, or found.
    pub(super) started: Option<Instant>,
    /// It was seen to wait for work on each of its sockets.
    pub(super) seen_waiting: bool,
    /// What its processes opened to be reached at, instead of its sockets.
    pub(super) opened: Option<Opened>,
    /// The log says what it does not wait for yet.
    pub(super) unready_said: bool,
    /// What it has said is heard once more before its watchdog bites.
    pub(super) last_chance: bool,
    /// Why its process cannot be started.
    pub(super) not_started: Option<String>,
    /// A socket of it takes no program any more: the listener.
    pub(super) locked: Option<String>,
    /// When its watchdog bites.
    pub(super) bite_at: Option<Instant>,
    /// It was killed because it hung.
    pub(super) hung: bool,
    /// What its last process wrote before it ended by its own fault.
    pub(super) last_words: Vec<String>,
    pub(super) farewell: Farewell,
}

/// One socket of a worker.
pub(super) struct Place {
    pub(super) listener: Listener,
    /// Reports look at it in a thread.
    pub(super) socket: Arc<Socket>,
    /// SO_COOKIE.
    pub(super) cookie: u64,
    /// What the counter of the slot said when this worker got it.
    pub(super) selected_before: u64,
    /// What it had been selected for when it lost the slot.
    pub(super) selected_after: Option<u64>,
}

impl Place {
    /// One that cannot be asked any more has nothing that could be waited for.
    pub(super) fn queue(&self) -> u64 {
        socket::queue(&self.socket, self.listener.protocol).map_or(0, |queue| u64::from(queue.queue))
    }
}

/// A worker's process.
pub(super) struct Running {
    pub(super) incarnation: u64,
    pub(super) process: Rc<Process>,
    /// Its end closes the notification socket.
    pub(super) notify: Notify,
    /// Kept if its predecessor ended by its own fault.
    pub(super) output: Option<Output>,
    /// Waits for its end.
    pub(super) watching: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // A child that ends later must be reaped; a guest is not ours.
        if !self.process.is_leader() {
            self.watching.abort();
        }
    }
}

/// How a worker leaves, for those who wait for it.
#[derive(Default)]
pub(super) struct Farewell {
    pub(super) begun: Option<Instant>,
    pub(super) queue: u64,
    pub(super) handed_over: u64,
    /// As they were counted before its buckets moved away.
    pub(super) flows: Option<u64>,
    pub(super) flows_cut: u64,
    pub(super) end: Option<String>,
    pub(super) waiting: Vec<oneshot::Sender<Result<Drained, String>>>,
}

impl Worker {
    /// A worker in a slot of its own that does not run yet.
    pub(super) fn new(id: Id, name: String, slot: u16, origin: Origin, places: Vec<Place>) -> Self {
        Self {
            id,
            name,
            slot,
            holds_slot: true,
            trial: false,
            parting: false,
            release: 0,
            weight: 1,
            life: Life::new(origin),
            places,
            process: None,
            started: None,
            seen_waiting: false,
            opened: None,
            unready_said: false,
            last_chance: false,
            not_started: None,
            locked: None,
            bite_at: None,
            hung: false,
            last_words: Vec::new(),
            farewell: Farewell::default(),
        }
    }

    /// Its socket of `listener`; most often the one with index `at`.
    pub(super) fn place_near(&self, at: usize, listener: &Listener) -> Option<&Place> {
        let is = |place: &&Place| place.listener == *listener;
        self.places.get(at).filter(is).or_else(|| self.places.iter().find(is))
    }

    /// Whether it takes part in the service, as far as its life allows.
    pub(super) fn is_member(&self) -> bool {
        self.holds_slot && !self.trial && !self.parting
    }

    /// Whether it will be there: it serves, or will again.
    pub(super) fn stays(&self) -> bool {
        self.life.state() != State::Draining || self.life.returns()
    }

    /// What waits in all of its sockets: connections, or bytes of datagrams.
    pub(super) fn queue(&self) -> u64 {
        self.places.iter().map(Place::queue).sum()
    }

    /// Connections that wait in its sockets.
    pub(super) fn connections(&self) -> u64 {
        self.places.iter().filter(|place| place.listener.protocol == Protocol::Tcp).map(Place::queue).sum()
    }

    /// It has shown that it is alive.
    pub(super) fn alive(&mut self, watchdog: Option<Duration>) {
        self.bite_at = watchdog.map(|time| Instant::now() + time);
        self.last_chance = false;
    }

    /// Makes its notification socket again if somebody has removed it; whether it could not be heard for a while. Then
    /// it gets the time of its watchdog anew, and need not say again that it is ready.
    pub(super) fn restore_hearing(&mut self, watchdog: Option<Duration>) -> bool {
        let unheard = self.process.as_mut().is_some_and(|running| running.notify.restore());
        if unheard {
            self.life.lose_word();
            if self.bite_at.is_some() {
                self.alive(watchdog);
            }
        }
        unheard
    }

    /// Passes on some of what its process has written, if that is kept; false if there is more.
    pub(super) fn pass_on_output(&mut self, last: bool) -> bool {
        let Some(output) = self.process.as_mut().and_then(|running| running.output.as_mut()) else {
            return true;
        };
        let all = output.forward(last);
        if let Some(bytes) = output.dropped() {
            let worker = &self.name;
            warn!(
                worker,
                "{bytes} bytes of its output were dropped: nobody read them in time, and the end was kept"
            );
        }
        all
    }

    /// What to add to how its process ended: a command that ends in order right after its start has
    /// perhaps gone to the background.
    pub(super) fn advice_on(&self, exit: Exit) -> &'static str {
        let soon = self.started.is_some_and(|started| started.elapsed() < SOON);
        let own = self.life.origin() == Origin::Started && self.life.state() != State::Draining;
        if exit != Exit::Status(0) || !own || !soon {
            return "";
        }
        " (what goes to the background cannot be watched: keep it in the foreground, with nginx -g 'daemon off;', \
         haproxy -db, for others --foreground, --no-daemon or the like)"
    }

    pub(super) fn end_of_process(&mut self, exit: Exit) {
        while !self.pass_on_output(true) {}
        if let Some(output) = self.process.take().and_then(|mut running| running.output.take()) {
            self.last_words = output.last_lines();
        }
        self.bite_at = None;
        self.farewell.end = Some(exit.to_string());
    }
}
