//! Worker processes: starting, signalling and watching them through a pidfd, so that a later process with the same
//! id is never taken for a worker.

mod family;
mod identity;
mod signals;
mod spawn;
mod watched;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{self, PipeWriter, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};
use tokio::sync::{Mutex, Notify};

use super::cgroup::Cgroup;
use super::liveness::{self, Stat};
use super::marks::is_marked;
use crate::domain::observed::Exit;

pub use identity::{Identity, Kin};
use identity::{is_same, signal_same};
pub use spawn::{Launch, spawn};
use watched::Watched;

/// Interval between looks for the remaining processes of a worker that is ending: at first, and at most.
const LOOK: Duration = Duration::from_millis(5);
const LOOK_AT_MOST: Duration = Duration::from_millis(100);

/// How long the end of a main process is not reported: it may have said just before which one is the main one from now on.
const LAST_WORD: Duration = Duration::from_millis(1);

/// How many times the remaining processes of a killed worker are killed again.
const KILLS: usize = 50;

/// Without cgroups, a search reads the whole of /proc: one worker's at a time, with a turn for other tasks between.
static SEARCH: Mutex<()> = Mutex::const_new(());

/// A worker's main process, which the daemon watches, and its descendants. Dropping this ends the watching, not the process.
pub struct Process {
    /// The first process: its id is that of the worker's process group and session.
    leader: Identity,
    /// `None` if an earlier daemon has seen the end of the leader.
    first: Option<Rc<Watched>>,
    /// The process whose end is the end of the worker: the first one, unless the worker has named another one.
    main: RefCell<Rc<Watched>>,
    main_changed: Notify,
    kin: Kin,
    /// The cgroup that was made for this process and its descendants; `entered` says whether it is used.
    cgroup: Option<Cgroup>,
    entered: Cell<bool>,
    /// Path of the worker's notification socket: a process with that in its environment descends from this one.
    mark: Option<PathBuf>,
    /// The process was asked to end: its descendants get the time to finish as well.
    ending: Cell<bool>,
    /// The process was killed: its descendants are not waited for.
    killed: Cell<bool>,
    /// The process is reaped, and its descendants have ended.
    gone: Cell<bool>,
    /// The child waits for a byte from this pipe before it becomes the worker.
    go: Cell<Option<PipeWriter>>,
}

/// How thoroughly processes of a worker are searched for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Search {
    /// By /proc/PID/stat alone.
    Quick,
    /// By the environment of each process as well.
    Thorough,
}

impl Process {
    fn new(main: Watched, kin: Kin) -> Self {
        let main = Rc::new(main);
        let [ending, killed, gone, entered] = [false; 4].map(Cell::new);
        Self {
            leader: main.identity(),
            first: Some(main.clone()),
            main: RefCell::new(main),
            main_changed: Notify::new(),
            kin,
            cgroup: None,
            entered,
            mark: None,
            ending,
            killed,
            gone,
            go: Cell::default(),
        }
    }

    /// Watches a process that joined.
    pub fn joined(pid: i32, pidfd: OwnedFd) -> Result<Self> {
        let pid = Pid::from_raw(pid).context("a process without an id")?;
        Ok(Self::new(Watched::by(pid, pidfd)?, Kin::Joined))
    }

    /// Watches a process that an earlier daemon has watched; `None` if it has ended. `leader` is the worker's first
    /// process, `cgroup` was made for it, and `mark` is its notification socket.
    #[must_use]
    pub fn find(
        identity: Identity,
        leader: Identity,
        kin: Kin,
        cgroup: Option<Cgroup>,
        mark: Option<PathBuf>,
    ) -> Option<Self> {
        let mut found = Self { leader, cgroup, mark, ..Self::new(Watched::find(identity)?, kin) };
        if leader != identity {
            found.first = Watched::find(leader).map(Rc::new);
        }
        found.has_entered();
        Some(found)
    }

    /// Takes the process `pid`, one of the worker's, for its main one from now on; false if it is that already. Fails if
    /// it is not one of the worker's.
    pub fn follow(&self, pid: i32) -> Result<bool> {
        if pid == self.pid() {
            return Ok(false);
        }
        if self.kin == Kin::Joined {
            bail!("a worker that has joined is the process that has joined");
        }
        let found = Pid::from_raw(pid).and_then(|pid| Watched::open(pid).ok());
        let main = found.filter(|it| !it.has_ended()).context("there is no such process")?;
        let stat = Stat::read(pid).context("there is no such process")?;
        if !(self.accepts_message_of(pid) || self.has_marked(pid, &stat)) {
            bail!("it is not one of the worker's processes");
        }
        self.main.replace(Rc::new(main));
        self.main_changed.notify_one();
        Ok(true)
    }

    /// The directory of the process's cgroup, if one was made for it.
    #[must_use]
    pub fn cgroup(&self) -> Option<&Path> {
        self.cgroup.as_ref().map(Cgroup::path)
    }

    /// Whether descendants of the process belong to the worker: not of a joined one.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.kin != Kin::Joined
    }

    /// What the next daemon finds this process by.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.main.borrow().identity()
    }

    /// What the next daemon finds the worker's process group and session by.
    #[must_use]
    pub fn leader(&self) -> Identity {
        self.leader
    }

    /// Process id of the worker's main process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.identity().pid
    }

    /// Lets the child become the worker. If the daemon dies before that, the child ends.
    pub fn unblock(&self) {
        if let Some(mut go) = self.go.take() {
            // The child may have ended.
            let _ = go.write_all(&[1]);
        }
    }

    /// Gives the descendants time to finish when the process ends by itself, as after [`Process::terminate`].
    pub fn expect_end(&self) {
        self.ending.set(true);
    }

    /// Whether the leader's id, which is the group's id as well, still belongs to it: no other process gets it before
    /// this one is reaped.
    fn has_id(&self) -> bool {
        let has = |first: &Rc<Watched>| self.kin == Kin::Child || !first.has_ended();
        !self.gone.get() && self.first.as_ref().is_some_and(has)
    }

    /// Whether the main process is still there, perhaps as a zombie.
    fn has_main(&self) -> bool {
        let main = self.main.borrow();
        if main.identity() == self.leader { self.has_id() } else { !self.gone.get() && !main.has_ended() }
    }

    /// Whether the process is in its cgroup, or was when it ended. As root it may have moved itself to another.
    fn has_entered(&self) -> bool {
        let Some(cgroup) = &self.cgroup else { return false };
        if self.has_main() {
            self.entered.set(cgroup.has(self.pid()));
        }
        self.entered.get()
    }

    /// All processes of the worker: this one and its descendants.
    #[must_use]
    pub fn all(&self) -> Vec<i32> {
        let own = self.has_id().then_some(self.leader.pid);
        own.into_iter().chain(self.others(Search::Quick).into_keys()).collect()
    }

    /// Processes of the worker that have not ended, but for the leader.
    fn others(&self, search: Search) -> HashMap<i32, Stat> {
        if self.kin == Kin::Joined || self.gone.get() {
            return HashMap::new();
        }
        let mut others = if self.has_entered() { HashMap::new() } else { self.search(search) };
        if let Some(cgroup) = &self.cgroup {
            // `has` is asked after `read`: another process may have the id by then.
            let stat = |pid: i32| Some((pid, Stat::read(pid).filter(|_| cgroup.has(pid))?));
            others.extend(cgroup.processes().into_iter().filter_map(stat));
        }
        others.retain(|pid, stat| *pid != self.leader.pid && !stat.is_zombie());
        others
    }

    /// The worker's processes without a cgroup: of its process group and session, its descendants, and those with
    /// its mark. Reads the whole of /proc.
    fn search(&self, search: Search) -> HashMap<i32, Stat> {
        let mut rest: HashMap<i32, Stat> = liveness::all_processes().collect();
        let (has_id, has_main, replaced) = (self.has_id(), self.has_main(), self.is_replaced());
        let main = self.pid();
        let mut found: HashMap<i32, Stat> = rest
            .extract_if(|pid, stat| {
                (has_id && *pid == self.leader.pid)
                    || (has_main && *pid == main)
                    || (!replaced && self.leads(stat))
                    || (search == Search::Thorough && self.has_marked(*pid, stat))
            })
            .collect();
        loop {
            let children: Vec<_> = rest.extract_if(|_, stat| found.contains_key(&stat.parent)).collect();
            if children.is_empty() {
                return found;
            }
            found.extend(children);
        }
    }

    /// Whether the leader leads the group or session of the process that `stat` was read of; true only unless
    /// [`Process::is_replaced`].
    fn leads(&self, stat: &Stat) -> bool {
        stat.group == self.leader.pid || stat.session == self.leader.pid
    }

    fn has_marked(&self, pid: i32, stat: &Stat) -> bool {
        self.mark.as_ref().is_some_and(|mark| is_marked(pid, stat, mark, self.leader.started))
    }

    /// Whether another process has the leader's id by now. Then the group and session of the worker had become empty,
    /// and those that have the id now are not the worker's.
    fn is_replaced(&self) -> bool {
        let started = || Stat::read(self.leader.pid).and_then(|stat| stat.started);
        !self.has_id() && started().is_some_and(|started| started != self.leader.started)
    }

    /// Whether a message of the process `pid` is taken as the worker's: the process is one of the worker's, or
    /// has ended since, like a helper that only sends one message.
    #[must_use]
    pub fn accepts_message_of(&self, pid: i32) -> bool {
        if self.has_id() && pid == self.leader.pid {
            return true;
        }
        let Some(stat) = Stat::read(pid) else { return true };
        self.cgroup.as_ref().is_some_and(|cgroup| cgroup.has(pid))
            || (self.has_id() && liveness::descends(&stat, self.leader.pid))
            || self.is_of_main(pid, &stat)
            || (!self.is_replaced() && self.leads(&stat))
    }

    /// Whether the process `pid`, which `stat` was read of, is the main one or descends from it.
    fn is_of_main(&self, pid: i32, stat: &Stat) -> bool {
        self.has_main() && (pid == self.pid() || liveness::descends(stat, self.pid()))
    }

    /// Whether the process `pid` can speak of the end of the worker: not one of an earlier generation, before that which
    /// the worker has named its main process.
    #[must_use]
    pub fn is_current(&self, pid: i32) -> bool {
        self.identity() == self.leader || Stat::read(pid).is_some_and(|stat| self.is_of_main(pid, &stat))
    }

    /// Waits until the process ends. Its descendants are killed then, or, if the process was asked to end, waited
    /// for. To be followed by [`Process::clean_up`].
    pub async fn wait(&self) -> io::Result<Exit> {
        let exit = self.main_ended().await?;
        if self.kin == Kin::Joined {
            return Ok(exit);
        }
        if !self.ending.get() {
            self.kill();
        }
        let mut look = LOOK;
        let mut left = HashMap::new();
        while !self.killed.get() {
            left.retain(|pid, stat: &mut Stat| is_same(*pid, stat));
            if left.is_empty() {
                left = self.look_for_others().await;
                if left.is_empty() {
                    break;
                }
            }
            tokio::time::sleep(look).await;
            look = (look * 2).min(LOOK_AT_MOST);
        }
        Ok(exit)
    }

    async fn look_for_others(&self) -> HashMap<i32, Stat> {
        if self.has_entered() {
            return self.others(Search::Thorough);
        }
        let turn = SEARCH.lock().await;
        let others = self.others(Search::Thorough);
        tokio::task::yield_now().await;
        drop(turn);
        others
    }

    /// Reaps the process and removes its cgroup; until then no other process gets its id, or its group's. Before,
    /// descendants of a killed process are killed until none is left: they need a moment to end, and may just have
    /// started further ones.
    pub async fn clean_up(&self) {
        let mut look = LOOK;
        for _ in 0..KILLS {
            if !self.killed.get() || self.look_for_others().await.is_empty() {
                break;
            }
            self.kill();
            tokio::time::sleep(look).await;
            look = (look * 2).min(LOOK_AT_MOST);
        }
        self.reap();
        self.gone.set(true);
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove();
        }
    }

    fn reap(&self) {
        if self.kin == Kin::Joined {
            return;
        }
        let reap = |whom| waitid(whom, WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        if let Some(first) = self.first.as_ref().filter(|_| self.kin == Kin::Child) {
            let _ = reap(WaitId::PidFd(first.fd()));
        }
        // Where the daemon is the init of a container, orphans become its children.
        let main = self.main.borrow();
        let _ = reap(WaitId::PidFd(main.fd()));
        while let Ok(Some(_)) = reap(WaitId::Pgid(Pid::from_raw(self.leader.pid))) {}
    }

    /// Waits for the end of the process that is the main one then.
    async fn main_ended(&self) -> io::Result<Exit> {
        loop {
            let main = self.main.borrow().clone();
            let child = self.kin == Kin::Child && main.identity() == self.leader;
            tokio::select! {
                exit = main.ended(child) => {
                    tokio::time::sleep(LAST_WORD).await;
                    if Rc::ptr_eq(&main, &self.main.borrow()) {
                        return exit;
                    }
                }
                () = self.main_changed.notified() => {}
            }
        }
    }
}

/// Kills the remaining processes of a worker that ended while no daemon watched it; `leader` was its first process.
pub fn kill_rest(leader: Identity, cgroup: Option<&Cgroup>, mark: &Path) {
    if let Some(cgroup) = cgroup {
        return cgroup.kill();
    }
    for (pid, stat) in
        liveness::all_processes().filter(|(pid, stat)| is_marked(*pid, stat, mark, leader.started))
    {
        signal_same(pid, &stat, Signal::KILL);
    }
}
