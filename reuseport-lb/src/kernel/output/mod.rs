//! The output of a worker: a pipe, and a process that reads it beside the worker (`keeper.rs`). The daemon has both ends'
//! inode in its state file and the reading end open, so that a keeper that is killed can be replaced, and reads nothing.

mod arguments;
mod backlog;
mod file;
mod keeper;
mod lines;
mod page;
mod sink;
mod style;

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, fchmod, fcntl_getfl, fcntl_setfl, fstat};
use rustix::io::ioctl_fionread;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;
use tracing::warn;

use super::calls::Calls;
use super::fd_passing::descriptor_of;
use super::liveness::{self, Stat};
use super::process::Identity;
use super::{host, systemd, watch};
pub use arguments::KeeperArguments;
pub use keeper::keep;
pub(crate) use lines::AT_ONCE;
pub use lines::Amount;
use page::{Doing, Page, Record};

/// Others may write: a worker may become another user, and then open /dev/stderr. Only processes that have the pipe, or
/// may trace one that has it, find its name in /proc.
const MODE: Mode = Mode::from_raw_mode(0o622);

/// How long the end of a worker waits for its last lines.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Interval between looks until then.
const LOOK: Duration = Duration::from_millis(1);

/// How long after the start of a keeper another one is started in its place, at least.
const AGAIN: Duration = Duration::from_secs(1);

/// What the next daemon finds the output of a worker by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputIdentity {
    /// The keeper.
    pub keeper: Identity,
    /// Inode of the pipe.
    pub pipe: u64,
}

/// The output of one worker's process.
pub struct Output {
    arguments: KeeperArguments,
    /// The end that the keeper reads.
    pipe: OwnedFd,
    page: Page,
    keeper: RefCell<Rc<Keeper>>,
    /// The calls that the keeper sorts, if the worker opens its sockets itself.
    calls: Option<Calls>,
    /// All output has been read, or nobody looks after it any more.
    over: Cell<bool>,
}

/// A keeper's process.
struct Keeper {
    identity: Identity,
    pidfd: AsyncFd<OwnedFd>,
    begun: Instant,
}

impl Keeper {
    fn of(pid: i32) -> Result<Self> {
        let process = Pid::from_raw(pid).context("a process without an id")?;
        let pidfd =
            pidfd_open(process, PidfdFlags::NONBLOCK).context("cannot watch a process (pidfd_open)")?;
        let started = Stat::read(pid).and_then(|stat| stat.started);
        let started = started.context("cannot read when a process was started")?;
        Ok(Self {
            identity: Identity { pid, started },
            pidfd: watch::readable(pidfd)?,
            begun: Instant::now(),
        })
    }

    fn has_ended(&self) -> bool {
        let mut wanted = [PollFd::new(self.pidfd.get_ref(), PollFlags::IN)];
        poll(&mut wanted, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Waits for its end, and reaps it if it is a child of this daemon.
    async fn ended(&self) {
        while !self.has_ended() {
            match self.pidfd.readable().await {
                Ok(mut guard) => guard.clear_ready(),
                Err(_) => return,
            }
        }
        let _ = waitid(
            WaitId::PidFd(self.pidfd.get_ref().as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        );
    }
}

impl Output {
    /// Makes a pipe for a new process of a worker, and starts its keeper, which with `calls` sorts those. Returns the end
    /// for the worker as well.
    pub fn start(arguments: KeeperArguments, calls: Option<Calls>) -> Result<(Self, PipeWriter)> {
        let (pipe, worker) = io::pipe().context("cannot make a pipe")?;
        fchmod(&worker, MODE).context("cannot open a pipe for others")?;
        let pipe = OwnedFd::from(pipe);
        Ok((Self::with(arguments, pipe, Page::make()?, calls)?, worker))
    }

    fn with(arguments: KeeperArguments, pipe: OwnedFd, page: Page, calls: Option<Calls>) -> Result<Self> {
        // The reading end only: each end has its own flags.
        fcntl_setfl(&pipe, fcntl_getfl(&pipe)? | OFlags::NONBLOCK).context("cannot read a pipe")?;
        let keeper = RefCell::new(Rc::new(start(&arguments, &pipe, &page, calls.as_ref())?));
        Ok(Self { arguments, pipe, page, keeper, calls, over: Cell::new(false) })
    }

    /// Goes on with the output of a worker of an earlier daemon, whose process is `pid`; with another keeper if there is
    /// none any more. `None` if nobody has the pipe.
    #[must_use]
    pub fn find(arguments: KeeperArguments, known: OutputIdentity, pid: i32) -> Option<Self> {
        let is_it = |pipe: &OwnedFd| fstat(pipe).is_ok_and(|about| about.st_ino == known.pipe);
        let kept = |keeper: &Keeper| {
            let pipe = descriptor_of(keeper.identity.pid, 0).filter(is_it)?;
            Some((pipe, Page::of(File::from(descriptor_of(keeper.identity.pid, 1)?))?))
        };
        let same =
            Keeper::of(known.keeper.pid).ok().filter(|it| it.identity == known.keeper && !it.has_ended());
        // A keeper may have been replaced after the last save.
        let keeper = same.or_else(|| readers(known.pipe).find_map(|pid| Keeper::of(pid).ok()));
        if let Some(keeper) = keeper
            && let Some((pipe, page)) = kept(&keeper)
        {
            let calls = Calls::find(keeper.identity.pid);
            let keeper = RefCell::new(Rc::new(keeper));
            return Some(Self { arguments, pipe, page, keeper, calls, over: Cell::new(false) });
        }
        let worker = [1, 2].into_iter().find_map(|fd| descriptor_of(pid, fd).filter(is_it))?;
        let name = arguments.name.clone();
        let opened =
            File::open(format!("/proc/self/fd/{}", worker.as_raw_fd())).context("cannot open its pipe");
        let found = opened.and_then(|pipe| Self::with(arguments, pipe.into(), Page::make()?, None));
        match &found {
            Ok(_) => warn!(
                worker = name,
                "nobody kept its output while no daemon ran; from now on it is kept again"
            ),
            Err(error) => warn!(worker = name, "its output goes nowhere: {error:#}"),
        }
        found.ok()
    }

    /// Starts a keeper that only sorts the calls of a process of the worker `name`, whose output it does not have.
    pub fn of_calls(arguments: KeeperArguments, calls: Calls) -> Result<Self> {
        Self::start(KeeperArguments { only_calls: true, ..arguments }, Some(calls)).map(|(output, _)| output)
    }

    /// The calls that the keeper sorts.
    #[must_use]
    pub fn calls(&self) -> Option<&Calls> {
        self.calls.as_ref()
    }

    /// What the next daemon finds it by.
    #[must_use]
    pub fn identity(&self) -> OutputIdentity {
        let pipe = fstat(&self.pipe).map_or(0, |about| about.st_ino);
        OutputIdentity { keeper: self.keeper.borrow().identity, pipe }
    }

    /// Starts another keeper whenever the one that runs is killed, until nobody can write the output any more; each is
    /// counted in `replaced`.
    pub async fn look_after(&self, replaced: &Cell<u64>) {
        loop {
            let keeper = self.keeper.borrow().clone();
            keeper.ended().await;
            if self.has_ended() {
                break self.over.set(true);
            }
            if self.arguments.only_calls {
                let (worker, pid) = (&self.arguments.name, keeper.identity.pid);
                warn!(worker, pid, "the process that answered its calls of bind and listen is gone");
            } else {
                self.count_lost(&keeper);
            }
            sleep(AGAIN.saturating_sub(keeper.begun.elapsed())).await;
            match start(&self.arguments, &self.pipe, &self.page, self.calls.as_ref()) {
                Ok(next) => {
                    self.keeper.replace(Rc::new(next));
                    if let Some(Err(error)) = self.calls.as_ref().map(Calls::tell_again) {
                        warn!(worker = self.arguments.name, "{error:#}");
                    }
                    replaced.set(replaced.get() + 1);
                }
                Err(error) => {
                    warn!(worker = self.arguments.name, "its output is not kept, and waits: {error:#}");
                    sleep(AGAIN).await;
                }
            }
        }
    }

    /// Counts as dropped what a keeper held that was killed.
    fn count_lost(&self, keeper: &Keeper) {
        let Record { doing, mut dropped, held, last } = self.page.read();
        dropped += held;
        let last = lines::LastLines::of(last);
        let pid = keeper.identity.pid;
        let more = if doing == Doing::Reads { ", and what it had just read" } else { "" };
        warn!(
            worker = self.arguments.name,
            pid, "the process that kept its output is gone: {held} that it held are lost{more}"
        );
        if let Err(error) = self.page.write(Doing::Waits, (dropped, Amount::default()), &last) {
            warn!(worker = self.arguments.name, "cannot count what is lost of its output: {error}");
        }
    }

    /// Whether nobody can write the output any more, and all of it was read; without it, whether there are no calls any more.
    fn has_ended(&self) -> bool {
        if self.arguments.only_calls {
            return self.calls.as_ref().is_none_or(Calls::are_over);
        }
        let seen = self.seen();
        seen.contains(PollFlags::HUP) && !seen.contains(PollFlags::IN)
    }

    /// What poll(2) says of the end that is read.
    fn seen(&self) -> PollFlags {
        let mut ends = [PollFd::new(&self.pipe, PollFlags::IN)];
        let looked = poll(&mut ends, Some(&Timespec::default()));
        looked.map_or(PollFlags::empty(), |_| ends[0].revents())
    }

    /// Whether all that was written so far is read.
    fn is_read(&self) -> bool {
        if self.arguments.only_calls {
            return true;
        }
        // The page last: the keeper says that it reads before it does.
        let (seen, left) = (self.seen(), ioctl_fionread(&self.pipe).unwrap_or(1));
        let doing = self.page.read().doing;
        let all = if seen.contains(PollFlags::HUP) { doing == Doing::Ends } else { doing == Doing::Waits };
        left == 0 && all
    }

    /// Whether all that was written so far has gone where it belongs, or is counted.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.over.get() || (self.is_read() && self.page.read().held == Amount::default())
    }

    /// Waits until all that was written so far is read, which takes a moment unless the keeper is held up.
    pub async fn is_read_soon(&self) {
        let begun = Instant::now();
        while !self.is_read() && begun.elapsed() < LAST_WORDS {
            sleep(LOOK).await;
        }
    }

    /// How much was dropped, because nobody took it in time.
    #[must_use]
    pub fn dropped(&self) -> Amount {
        self.page.dropped()
    }

    /// The last lines, without control characters.
    #[must_use]
    pub fn last_lines(&self) -> Vec<String> {
        // A worker's output must not control the terminal on which it is shown.
        let clean = |line: &[u8]| {
            let text = String::from_utf8_lossy(line);
            text.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
        };
        self.page.read().last.iter().map(|line| clean(line)).collect()
    }
}

/// Starts a keeper: runs this program again.
fn start(arguments: &KeeperArguments, pipe: &OwnedFd, page: &Page, calls: Option<&Calls>) -> Result<Keeper> {
    let inherited = calls.map(Calls::for_keeper).transpose().context("cannot share a channel")?;
    let inherited = inherited.unwrap_or_default();
    let fds: Vec<RawFd> = inherited.iter().map(AsRawFd::as_raw_fd).collect();
    let mut command = Command::new("/proc/self/exe");
    command.arg0("reuseport-lb");
    command.args(KeeperArguments { calls: fds.clone(), ..arguments.clone() }.line());
    command.stdin(pipe.try_clone().context("cannot share a pipe")?);
    command.stdout(page.file().try_clone().context("cannot share a file in memory")?);
    for variable in systemd::OURS.iter().chain(&systemd::DAEMONS) {
        command.env_remove(variable);
    }
    // SAFETY: between fork and exec only fcntl runs, which is async-signal-safe.
    unsafe { command.pre_exec(move || fds.iter().try_for_each(|fd| host::keep_at_exec(*fd))) };
    let started = command.spawn().context("cannot start the process that keeps its output")?;
    drop(inherited);
    Keeper::of(started.id() as i32)
}

/// Keepers that read the pipe with this inode. Reads the whole of /proc.
fn readers(pipe: u64) -> impl Iterator<Item = i32> {
    let link = format!("pipe:[{pipe}]");
    let reads = move |pid: &i32| {
        host::program_of(*pid).as_bytes() == keeper::PROCESS.to_bytes()
            && std::fs::read_link(format!("/proc/{pid}/fd/0")).is_ok_and(|it| it.as_os_str() == &*link)
    };
    liveness::all_processes().map(|(pid, _)| pid).filter(reads)
}
