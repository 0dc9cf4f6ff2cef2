//! Trials for `doctor` that leave nothing behind: what a user may access, whether the kernel loads the program, whether
//! a handed-over connection wakes up a waiting thread.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use reuseport_lb_common::connections::Tag;
use reuseport_lb_common::counters::Counter;
use reuseport_lb_common::entry::Entry;
use reuseport_lb_common::table::BUCKETS;
use rustix::event::epoll;
use rustix::fs::Access;
use rustix::process::{Resource, getrlimit};
use rustix::thread::{gettid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use socket2::Socket;

use super::bpffs::{self, Detached, MountPoint};
use super::connections::Connections;
use super::findings::{HandOver, Memory};
use super::group::{PinnedGroup, Policy};
use super::host;
use super::liveness::Stat;
use super::owner::Siblings;
use super::{rights, socket};
use crate::config::WhenBusy;
use crate::domain::listener::{Listener, Protocol};
use crate::domain::observed::User;

/// How long a waiting thread may take to wake up; usually it takes microseconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// Waits until something is so; false if it is not within [`PATIENCE`].
fn soon(is_so: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while !is_so() {
        if begun.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// The value of a setting below /proc/sys, for `net.` in this network namespace.
#[must_use]
pub fn sysctl(name: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new("/proc/sys").join(name.replace('.', "/"))).ok()?;
    Some(text.trim().to_owned())
}

/// The hard limit of open files.
#[must_use]
pub fn hard_open_files() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// Number of possible CPUs: a per-CPU map has a value for each.
#[must_use]
pub fn possible_cpus() -> u64 {
    aya::util::nr_cpus().map_or(1, |cpus| cpus as u64)
}

/// The lowest memory limit among this process's cgroups and those above them.
#[must_use]
pub fn memory() -> Option<Memory> {
    let lines = fs::read_to_string("/proc/self/cgroup").ok()?;
    let of = |(root, path, limit, used): (&str, &str, &str, &str)| {
        let own = Path::new(root).join(path.trim_start_matches('/'));
        let number = |file: PathBuf| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
        own.ancestors()
            .take_while(|directory| directory.starts_with(root))
            .filter_map(|directory| {
                // Without a limit, version 1 says a number near 2^63, version 2 the word `max`.
                let limit = number(directory.join(limit)).filter(|limit| *limit < 1 << 62)?;
                let used = number(directory.join(used)).unwrap_or_default();
                Some(Memory { cgroup: directory.display().to_string(), limit, used })
            })
            .min_by_key(|memory| memory.limit)
    };
    let found = lines.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        if controllers.is_empty() {
            of(("/sys/fs/cgroup", path, "memory.max", "memory.current"))
        } else if controllers.split(',').any(|one| one == "memory") {
            of(("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes"))
        } else {
            None
        }
    });
    found.min_by_key(|memory| memory.limit)
}

/// The first directory on the way to `path`, or `path` itself, that exists and that this process may not enter, with
/// its effective ids and rights.
#[must_use]
pub fn closed(path: &Path) -> Option<(PathBuf, io::Error)> {
    let mut way: Vec<&Path> = path.ancestors().collect();
    way.reverse();
    way.into_iter().find_map(|part| match host::reaches(part, Access::EXEC_OK) {
        Err(error) if error.kind() != ErrorKind::NotFound => Some((part.to_owned(), error)),
        _ => None,
    })
}

/// `path` if it exists, else the nearest directory above it that does.
#[must_use]
pub fn existing(path: &Path) -> &Path {
    path.ancestors().find(|part| part.exists()).unwrap_or(Path::new("/"))
}

/// Runs `act` in a thread that has become `user`; fails if this process may not become that user.
pub fn as_user<T: Send>(user: &User, act: impl FnOnce() -> T + Send) -> Result<T> {
    let name = std::ffi::CString::new(user.name.as_str())?;
    let groups = match user.is_listed {
        true => nix::unistd::getgrouplist(&name, nix::unistd::Gid::from_raw(user.gid))?,
        false => Vec::new(),
    };
    let groups: Vec<rustix::fs::Gid> =
        groups.iter().map(|group| rustix::fs::Gid::from_raw(group.as_raw())).collect();
    let (uid, gid) = (rustix::fs::Uid::from_raw(user.uid), rustix::fs::Gid::from_raw(user.gid));
    // These system calls change the credentials of the calling thread only, which ends afterwards.
    let become_user = || -> rustix::io::Result<()> {
        set_thread_groups(&groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        if uid.is_root() { Ok(()) } else { rights::drop_all() }
    };
    let done = std::thread::scope(|scope| scope.spawn(|| become_user().map(|()| act())).join());
    let Ok(done) = done else { bail!("the thread of user {} panicked", user.name) };
    done.with_context(|| format!("cannot become user {}", user.name))
}

/// A directory for pins that is removed on drop.
pub struct Scratch {
    place: PathBuf,
    /// A BPF file system of its own, if this process may make one; else `place` is a directory in a mounted one.
    detached: Option<Detached>,
}

impl Scratch {
    /// Makes the directory in a BPF file system of its own or, without the rights for that, in the one mounted at
    /// `bpffs`.
    pub fn make(bpffs: &Path) -> Result<Self> {
        if let Ok(detached) = Detached::new() {
            return Ok(Self { place: detached.path(), detached: Some(detached) });
        }
        if !matches!(bpffs::look(bpffs), Ok(MountPoint::Mounted)) {
            bail!("there is no BPF file system to pin it on");
        }
        let place = bpffs.join(format!("reuseport-lb-doctor-{}", std::process::id()));
        let made = fs::DirBuilder::new().mode(0o700).create(&place);
        made.with_context(|| format!("cannot make the directory {}", place.display()))?;
        Ok(Self { place, detached: None })
    }

    fn directory(&self, name: &str) -> Result<PathBuf> {
        let directory = self.place.join(name);
        let made = fs::DirBuilder::new().mode(0o700).create(&directory);
        made.with_context(|| format!("cannot make the directory {}", directory.display()))?;
        Ok(directory)
    }

    /// Loads the program that `listener` would get, and drops it.
    pub fn load(&self, name: &str, listener: &Listener, policy: &Policy) -> Result<()> {
        let counts = policy.counts.then(|| self.connections()).transpose()?;
        let accounts = counts.as_ref().map(Connections::pins);
        PinnedGroup::load(listener, policy, &self.directory(name)?, accounts).map(drop)
    }

    /// Counts connections until this goes.
    fn connections(&self) -> Result<Connections> {
        Connections::open(&self.place)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.detached.is_none() {
            // If this fails, what is left is an empty directory, or pins that nothing uses.
            let _ = fs::remove_dir_all(&self.place);
        }
    }
}

/// A group of two listening sockets on loopback, in slots 0 and 1.
struct Pair {
    group: PinnedGroup,
    to: SocketAddr,
    sockets: [Socket; 2],
}

impl Pair {
    fn make(scratch: &Scratch, name: &str, policy: &Policy) -> Result<Self> {
        let any = Listener::new(Protocol::Tcp, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let listener = socket::choose_port(&any, false)?;
        let mut group = PinnedGroup::load(&listener, policy, &scratch.directory(name)?, None)?;
        let siblings = Siblings::default();
        let sockets =
            [socket::open(&group, 64, true, &siblings)?, socket::open(&group, 64, false, &siblings)?];
        for (slot, socket) in (0..).zip(&sockets) {
            socket.set_nonblocking(true)?;
            group.insert(slot, socket)?;
        }
        group.set_rosters(&[0, 1], &[], &[]);
        let pair = Self { group, to: listener.address, sockets };
        pair.all_to(0);
        Ok(pair)
    }

    /// Gives all buckets to a slot.
    fn all_to(&self, slot: u16) {
        self.group.fill([Entry::steady(slot); BUCKETS]);
    }

    fn connect(&self) -> Result<TcpStream> {
        TcpStream::connect_timeout(&self.to, PATIENCE)
            .with_context(|| format!("cannot connect to {}", self.to))
    }

    fn has_queue(&self, slot: usize) -> bool {
        socket::queue(&self.sockets[slot], Protocol::Tcp).is_ok_and(|queue| queue.queue > 0)
    }

    /// Opens a connection and waits until it is in the queue of slot 0.
    fn queued(&self) -> Result<TcpStream> {
        let client = self.connect()?;
        if !soon(|| self.has_queue(0)) {
            bail!("the program did not give a connection to the socket that it should have had");
        }
        Ok(client)
    }
}

/// Whether the kernel program tells busy workers from waiting ones, in a group of two with empty queues: a connection
/// must find its worker busy while no thread sleeps for its socket, and waiting while one sleeps in epoll.
pub fn waiting(scratch: &Scratch) -> Result<bool> {
    let pair = Pair::make(scratch, "waiting", &Policy { when_busy: WhenBusy::Next, ..Policy::default() })?;
    let found_busy = || -> Result<u64> { Ok(pair.group.totals()?.events[Counter::OwnerBusy.index()]) };
    let first = pair.queued()?;
    let without_sleeper = found_busy()? == 1;
    pair.all_to(1);
    let events = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&events, &pair.sockets[1], epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
    let limit = PATIENCE.try_into().context("a time that is too long")?;
    let (tell, told) = mpsc::channel();
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(move || {
            let mut ready = Vec::with_capacity(1);
            let _ = tell.send(gettid());
            epoll::wait(&events, rustix::buffer::spare_capacity(&mut ready), Some(&limit)).is_ok()
        });
        let thread = told.recv()?.as_raw_nonzero().get();
        // If it does not sleep by then, it is found busy.
        soon(|| Stat::read(thread).is_some_and(|stat| stat.sleeps()));
        let second = pair.connect()?;
        let with_sleeper = pair.has_queue(1) && found_busy()? == 1;
        drop((first, second));
        let woken = sleeper.join().unwrap_or(false);
        Ok(without_sleeper && with_sleeper && woken)
    })
}

/// Whether the kernel counts a connection on loopback from its beginning to its end.
pub fn counting(scratch: &Scratch) -> Result<bool> {
    let connections = scratch.connections()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on loopback")?;
    let socket = Socket::from(listener.try_clone()?);
    let tag = Tag {
        socket: connections.give(),
        worker: connections.give(),
        service: connections.give(),
        counted: 0,
    };
    connections.set_tag(&socket, tag, false)?;
    let counted = |count: u32| soon(|| connections.live(tag.socket) == count);
    let client = TcpStream::connect(listener.local_addr()?).context("cannot connect on loopback")?;
    let begins = counted(1);
    let (server, _) = listener.accept()?;
    drop((server, client));
    Ok(begins && counted(0))
}

/// Lets a connection on loopback wait in one socket of a group of two, shuts that socket down, and finds out whether
/// epoll reports the connection for the other one.
pub fn hand_over(scratch: &Scratch) -> Result<HandOver> {
    let policy = Policy::default();
    let pair = Pair::make(scratch, "hand-over", &policy)?;
    let client = pair.queued()?;
    let [first, other] = &pair.sockets;
    let events = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&events, other, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
    pair.all_to(1);
    let begun = Instant::now();
    socket::shut_down(first)?;
    let limit = PATIENCE.try_into().context("a time that is too long")?;
    let mut ready = Vec::with_capacity(1);
    epoll::wait(&events, rustix::buffer::spare_capacity(&mut ready), Some(&limit))?;
    let woken = begun.elapsed();
    let accepted = other.accept();
    drop(client);
    Ok(match accepted {
        Ok(_) if !ready.is_empty() => HandOver::Woken(woken),
        Ok(_) => HandOver::Silent,
        Err(_) => HandOver::Lost,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_closed_directory_on_the_way_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("a/b");
        fs::create_dir_all(&inside).unwrap();
        assert!(closed(&inside).is_none());
        assert!(closed(&inside.join("not/there")).is_none());
        assert_eq!(existing(&inside.join("not/there")), inside);
        fs::write(inside.join("file"), "").unwrap();
        let (part, _) = closed(&inside.join("file/below")).unwrap();
        assert_eq!(part, inside.join("file"));
    }
}
