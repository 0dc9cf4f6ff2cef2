//! Finds the sockets of servers that others have started, and takes duplicates of them for a moment. Not: what becomes of
//! them (`domain/engine/adopting.rs`).
//!
//! The kernel's list (sock_diag) says which sockets there are, and is cheap to ask; only for those that are not known yet
//! the descriptors of processes are looked at. No duplicate is kept: a socket closes when its processes have closed it.

mod processes;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use socket2::{SockRef, Socket};

use super::fd_passing::{descriptor_of, each_descriptor};
use super::strangers::{self, Found};
use crate::domain::listener::Listener;
use crate::domain::whose::Whose;

pub use processes::pin;

/// Pause between looks, and while processes or sockets have changed within [`UNREST`].
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_IN_UNREST: Duration = Duration::from_millis(20);
const UNREST: Duration = Duration::from_secs(2);

/// Descriptors of processes that have not changed are looked at again after this time for what was not found before.
const AGAIN: Duration = Duration::from_secs(5);

/// The pause after a search is at least this many times as long as the search.
const REST: u32 = 10;

/// A socket that can be adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketLocation {
    /// The listener whose address it has.
    pub listener: Listener,
    /// SO_COOKIE.
    pub cookie: u64,
    /// A process that has the socket, and its descriptor there.
    pub holder: (i32, RawFd),
    /// The process that waits for its events, if that is known.
    pub poller: Option<i32>,
}

impl SocketLocation {
    /// The process that serves, as far as that is known.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.poller.unwrap_or(self.holder.0)
    }

    /// A duplicate of the socket; `None` if the process has it no longer at that descriptor.
    #[must_use]
    pub fn duplicate(&self) -> Option<Socket> {
        let (pid, fd) = self.holder;
        let socket = Socket::from(descriptor_of(pid, fd)?);
        socket.cookie().is_ok_and(|cookie| cookie == self.cookie).then_some(socket)
    }
}

/// What was found in one look.
#[derive(Clone, Debug, Default)]
pub struct Sighting {
    /// All sockets: for each listener in the order in which the processes have them.
    pub places: Vec<SocketLocation>,
    /// Why there is none for a listener.
    pub lacks: Option<String>,
}

/// Looks for sockets again and again.
pub struct Finder {
    whose: Whose,
    listeners: Vec<Listener>,
    processes: Vec<i32>,
    /// By SO_COOKIE.
    holders: HashMap<u64, (i32, RawFd)>,
    /// By inode.
    pollers: HashMap<u64, i32>,
    /// Cookies of all sockets on the addresses at the last look, also of others' sockets.
    there: BTreeSet<u64>,
    changed: Option<Instant>,
    /// The end of the last search, and how long it took.
    searched: Option<(Instant, Duration)>,
    /// Descriptors are to be searched.
    due: bool,
    /// Why processes could not be looked at.
    forbidden: Option<String>,
}

impl Finder {
    /// Looks for the sockets of `whose` on the addresses of `listeners`.
    #[must_use]
    pub fn new(whose: Whose, listeners: Vec<Listener>) -> Self {
        Self {
            whose,
            listeners,
            processes: Vec::new(),
            holders: HashMap::new(),
            pollers: HashMap::new(),
            there: BTreeSet::new(),
            changed: None,
            searched: None,
            due: false,
            forbidden: None,
        }
    }

    /// How long to wait until the next look.
    #[must_use]
    pub fn pause(&self) -> Duration {
        let unrest = self.changed.is_some_and(|at| at.elapsed() < UNREST);
        if unrest { PAUSE_IN_UNREST } else { PAUSE }
    }

    /// Looks once. Takes some milliseconds where processes or sockets have changed.
    pub fn look(&mut self) -> Sighting {
        let (processes, none) = match processes::of(&self.whose) {
            Ok(processes) => (processes, None),
            // Those that still run may serve on, or their main process is just being replaced.
            Err(why) => (processes::alive(&self.processes), Some(why)),
        };
        let mut all: Vec<(Listener, Found)> = Vec::new();
        for listener in &self.listeners {
            match strangers::at(listener) {
                Ok(found) => all.extend(found.into_iter().map(|it| (*listener, it))),
                Err(error) => return Sighting { places: Vec::new(), lacks: Some(format!("{error:#}")) },
            }
        }
        let there: BTreeSet<u64> = all.iter().map(|(_, found)| found.cookie).collect();
        // Which processes there are at all changes all the time.
        let changed = there != self.there || (processes != self.processes && self.whose != Whose::Any);
        if changed {
            self.changed = Some(Instant::now());
        }
        self.holders.retain(|cookie, (pid, _)| there.contains(cookie) && processes.contains(pid));
        let missing = there.iter().any(|cookie| !self.holders.contains_key(cookie))
            || all.iter().any(|(_, found)| !self.pollers.contains_key(&found.inode));
        let unrest = self.changed.is_some_and(|at| at.elapsed() < UNREST);
        let again = unrest || self.searched.is_none_or(|(at, _)| at.elapsed() > AGAIN);
        (self.processes, self.there) = (processes, there);
        self.due |= changed || (missing && again);
        // Of processes with many descriptors a search is long.
        if self.due && self.searched.is_none_or(|(at, took)| at.elapsed() >= took * REST) {
            self.search();
        }
        self.sighting(&all, none)
    }

    fn sighting(&self, all: &[(Listener, Found)], none: Option<String>) -> Sighting {
        let order = |place: &SocketLocation| {
            let (pid, fd) = place.holder;
            (self.processes.iter().position(|it| *it == pid), fd)
        };
        let (mut places, mut lacks) = (Vec::new(), none);
        for listener in &self.listeners {
            let of = || all.iter().filter(|(at, _)| at == listener).map(|(_, found)| found);
            let place = |found: &Found| {
                let holder = *self.holders.get(&found.cookie)?;
                let poller = self.pollers.get(&found.inode).copied();
                Some(SocketLocation { listener: *listener, cookie: found.cookie, holder, poller })
            };
            let mut found: Vec<SocketLocation> = of().filter_map(place).collect();
            found.sort_unstable_by_key(order);
            if found.is_empty() && lacks.is_none() {
                lacks = Some(match (&self.forbidden, of().next()) {
                    (Some(forbidden), Some(_)) => forbidden.clone(),
                    (_, None) => format!("nobody has a socket on {listener}"),
                    (None, Some(_)) => format!("{} has no socket on {listener}; others have", self.whose),
                });
            }
            places.extend(found);
        }
        Sighting { places, lacks }
    }

    /// Looks through the descriptors of all processes.
    fn search(&mut self) {
        let begun = Instant::now();
        (self.due, self.forbidden) = (false, None);
        self.pollers.clear();
        let (mut holders, mut pollers) = (HashMap::new(), HashMap::new());
        for pid in &self.processes {
            let looked = each_descriptor(*pid, |fd, descriptor| {
                match SockRef::from(&descriptor).cookie() {
                    Ok(cookie) if self.there.contains(&cookie) => {
                        holders.entry(cookie).or_insert((*pid, fd));
                    }
                    Ok(_) => {}
                    Err(_) => polled(&descriptor).for_each(|inode| {
                        pollers.entry(inode).or_insert(*pid);
                    }),
                }
                ControlFlow::Continue(())
            });
            if let Err(error) = looked
                && self.whose != Whose::Any
            {
                self.forbidden = Some(format!(
                    "the descriptors of process {pid} cannot be had: {error} (it takes CAP_SYS_PTRACE, and \
                     kernel.yama.ptrace_scope below 3)"
                ));
            }
        }
        (self.holders, self.pollers) = (holders, pollers);
        self.searched = Some((Instant::now(), begun.elapsed()));
    }
}

/// The inodes of what an epoll object waits for (`tfd:` in /proc/PID/fdinfo, proc_pid_fdinfo(5)); of what is none,
/// nothing.
fn polled(descriptor: &OwnedFd) -> impl Iterator<Item = u64> + use<> {
    let fd = descriptor.as_raw_fd();
    let kind = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
    let is_epoll = kind.to_str() == Some("anon_inode:[eventpoll]");
    let about =
        if is_epoll { fs::read_to_string(format!("/proc/self/fdinfo/{fd}")) } else { Ok(String::new()) };
    let inode = |line: &str| {
        let fields = line.strip_prefix("tfd:")?.split_ascii_whitespace();
        u64::from_str_radix(fields.into_iter().find_map(|field| field.strip_prefix("ino:"))?, 16).ok()
    };
    let inodes: Vec<u64> = about.unwrap_or_default().lines().filter_map(inode).collect();
    inodes.into_iter()
}

#[cfg(test)]
mod tests {
    use rustix::event::epoll;
    use socket2::{Domain, Type};
    use std::net::SocketAddr;

    use super::*;

    fn listener() -> (Socket, Listener) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(1).unwrap();
        let at = format!("tcp://{}", socket.local_addr().unwrap().as_socket().unwrap()).parse().unwrap();
        (socket, at)
    }

    /// Looks until all that has changed was searched for.
    fn look(finder: &mut Finder) -> Sighting {
        loop {
            let found = finder.look();
            if !finder.due {
                return found;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn sockets_are_found_with_who_polls_them_and_no_duplicate_is_kept() {
        let (first, at) = listener();
        let second = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        second.set_reuse_port(true).unwrap();
        second.bind(&first.local_addr().unwrap()).unwrap();
        let pid = std::process::id().cast_signed();
        let mut finder = Finder::new(Whose::Pid { pid, started: None }, vec![at]);
        let found = look(&mut finder);
        let cookies = |found: &Sighting| found.places.iter().map(|it| it.cookie).collect::<Vec<u64>>();
        assert_eq!(cookies(&found), [first.cookie().unwrap()], "the second one does not listen yet");
        assert_eq!((found.places[0].poller, found.places[0].holder), (None, (pid, first.as_raw_fd())));
        second.listen(1).unwrap();
        let events = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        epoll::add(&events, &second, epoll::EventData::new_u64(0), epoll::EventFlags::IN).unwrap();
        let found = look(&mut finder);
        let mut both = [&first, &second];
        both.sort_unstable_by_key(|socket| socket.as_raw_fd());
        assert_eq!(cookies(&found), both.map(|socket| socket.cookie().unwrap()));
        let place = |socket: &Socket| {
            let cookie = socket.cookie().unwrap();
            *found.places.iter().find(|it| it.cookie == cookie).unwrap()
        };
        let (of_first, of_second) = (place(&first), place(&second));
        assert_eq!((of_first.poller, of_second.poller), (None, Some(pid)));
        let duplicate = of_second.duplicate().unwrap();
        assert_eq!(duplicate.cookie().unwrap(), second.cookie().unwrap());
        drop((duplicate, first));
        assert!(of_first.duplicate().is_none(), "another descriptor, or none, is at that number");
        assert_eq!(cookies(&look(&mut finder)), [second.cookie().unwrap()]);
        drop((second, events));
        let found = look(&mut finder);
        assert!(found.places.is_empty() && found.lacks.unwrap().contains("nobody has a socket"));
    }

    #[test]
    fn sockets_of_others_are_not_found() {
        let (_socket, at) = listener();
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = other.id().cast_signed();
        let found = Finder::new(Whose::Pid { pid, started: None }, vec![at]).look();
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(found.places.is_empty());
        let lacks = found.lacks.unwrap();
        assert!(lacks.contains(&format!("process {pid} has no socket on {at}; others have")), "{lacks}");
        let found = Finder::new(Whose::Any, vec![at]).look();
        assert!(found.places.is_empty(), "this process itself is the daemon");
    }
}
