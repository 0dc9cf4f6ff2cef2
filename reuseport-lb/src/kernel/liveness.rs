//! Signs of life of processes, from /proc. Not: what they mean (`domain/health`).
//!
//! Another process may have the id of one that was reaped: ask only about processes that are known to exist.

use std::fs::{self, File};
use std::io::{IoSliceMut, Read};

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::{SysconfVar, sysconf};

use super::host;
use crate::domain::observed::Pulse;

/// How many ancestors of a process are looked at.
const GENERATIONS: usize = 100;

/// More bytes than /proc/PID/stat has: 52 fields of up to 20 digits, and a name of up to 64 bytes (fs/proc/array.c).
const LONGEST_LINE: usize = 2048;

/// How many bytes of an environment are read.
const MOST_ENVIRONMENT: usize = 256 << 10;

/// Signs of life of the process `pid` with all its threads; `None` if it has ended.
#[must_use]
pub fn of_process(pid: i32) -> Option<Pulse> {
    let stat = Stat::read(pid)?;
    let mut switches = 0u64;
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        // A thread may end during the loop.
        let Ok(status) = fs::read(task.ok()?.path().join("status")) else { continue };
        threads += 1;
        switches += voluntary(&status).unwrap_or_default();
    }
    // A first thread that has ended is a zombie until all others have ended.
    if threads == 0 || (threads == 1 && matches!(stat.state, b'Z' | b'X')) {
        return None;
    }
    let [user, system, _] = stat.used;
    Some(Pulse { stopped: matches!(stat.state, b'T' | b't'), switches, ticks: user + system })
}

/// Signs of life of these processes together; `None` if all have ended.
#[must_use]
pub fn of_all(pids: impl IntoIterator<Item = i32>) -> Option<Pulse> {
    pids.into_iter().filter_map(of_process).reduce(|all, one| Pulse {
        stopped: all.stopped && one.stopped,
        switches: all.switches + one.switches,
        ticks: all.ticks + one.ticks,
    })
}

/// What the process `pid` has used so far, without its children; `None` if it has ended.
#[must_use]
pub fn usage(pid: i32) -> Option<Used> {
    let stat = Stat::read(pid)?;
    let [user, system, resident] = stat.used;
    // Of libc: rustix reads /proc/self/auxv, which a process that is not dumpable may not (Linux 6.1).
    let system_says = |what| sysconf(what).ok().flatten().and_then(|number| u64::try_from(number).ok());
    let (ticks, page) = (system_says(SysconfVar::CLK_TCK)? as f64, system_says(SysconfVar::PAGE_SIZE)?);
    Some(Used {
        start_time: host::boot_time() + stat.started? as f64 / ticks,
        cpu_seconds: (user + system) as f64 / ticks,
        resident_bytes: resident * page,
    })
}

/// What a process has used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Used {
    /// When it was started, in seconds since 1970.
    pub start_time: f64,
    /// CPU time of all its threads.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub resident_bytes: u64,
}

/// All processes that /proc shows. Reads the whole of it.
pub(super) fn all_processes() -> impl Iterator<Item = (i32, Stat)> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| Some((pid, Stat::read(pid)?)))
}

/// Whether the process descends from `ancestor`.
pub(super) fn descends(process: &Stat, ancestor: i32) -> bool {
    let mut parent = process.parent;
    for _ in 0..GENERATIONS {
        if parent == ancestor {
            return true;
        }
        match Stat::read(parent) {
            Some(stat) => parent = stat.parent,
            None => return false,
        }
    }
    false
}

/// The fields of /proc/PID/stat that are used here (proc_pid_stat(5)).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stat {
    state: u8,
    pub(super) parent: i32,
    pub(super) group: i32,
    pub(super) session: i32,
    threads: u32,
    /// Clock ticks from boot to the start of the process.
    pub(super) started: Option<u64>,
    /// Clock ticks of CPU time in user mode and in the kernel; resident pages.
    used: [u64; 3],
    /// First address and end of the environment in the process's memory; zeros if this process may not know them.
    environment: (usize, usize),
}

impl Stat {
    pub(super) fn read(pid: i32) -> Option<Self> {
        let mut line = [0; LONGEST_LINE];
        // One call reads all of it (fs/seq_file.c).
        let length = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut line).ok()?;
        Self::parse(&line[..length])
    }

    /// Whether the first thread is in an interruptible sleep, as one that waits for work.
    pub(super) fn sleeps(&self) -> bool {
        self.state == b'S'
    }

    /// Whether the process has ended and is not reaped. (A first thread that has ended is in that state as well
    /// while other threads go on.)
    pub(super) fn is_zombie(&self) -> bool {
        matches!(self.state, b'Z' | b'X') && self.threads <= 1
    }

    /// The environment with which the process `pid`, of which this was read, was started, as far as it is still
    /// there. Read from its memory: /proc/PID/environ of another user's process needs more than CAP_SYS_PTRACE.
    pub(super) fn read_environment(&self, pid: i32) -> Vec<u8> {
        let (start, end) = self.environment;
        let mut content = vec![0; end.saturating_sub(start).min(MOST_ENVIRONMENT)];
        let remote = RemoteIoVec { base: start, len: content.len() };
        let local = &mut [IoSliceMut::new(&mut content)];
        let read = process_vm_readv(nix::unistd::Pid::from_raw(pid), local, &[remote]);
        content.truncate(read.unwrap_or_default());
        content
    }

    /// Parses the line. The second field is a name in parentheses, which may contain any bytes, also `)` and line
    /// ends; later fields have no parentheses.
    fn parse(stat: &[u8]) -> Option<Self> {
        let name_end = stat.iter().rposition(|byte| *byte == b')')?;
        let mut fields = std::str::from_utf8(&stat[name_end + 1..]).ok()?.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let mut id = || fields.next()?.parse().ok();
        let (parent, group, session) = (id()?, id()?, id()?);
        let mut number = |skip| fields.nth(skip).and_then(|number| number.parse::<u64>().ok());
        let (user, system) = (number(7).unwrap_or_default(), number(0).unwrap_or_default());
        let threads = number(4).unwrap_or_default() as u32;
        let started = number(1);
        let resident = number(1).unwrap_or_default();
        let mut address = |skip| fields.nth(skip).and_then(|at| at.parse().ok()).unwrap_or_default();
        let environment = (address(25), address(0));
        let used = [user, system, resident];
        Some(Self { state, parent, group, session, threads, started, used, environment })
    }
}

/// The voluntary context switches in /proc/PID/task/TID/status, where line ends in names are escaped.
fn voluntary(status: &[u8]) -> Option<u64> {
    let line = status
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(b"voluntary_ctxt_switches:"))?;
    std::str::from_utf8(line).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};
    use std::time::{Duration, Instant};

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;

    struct Running(Child);

    impl Running {
        fn start(program: &str, arguments: &[&str]) -> Self {
            use std::os::unix::process::CommandExt;
            Self(Command::new(program).args(arguments).process_group(0).spawn().unwrap())
        }

        fn pid(&self) -> i32 {
            self.0.id().cast_signed()
        }

        fn signal(&self, signal: Signal) {
            kill_process(Pid::from_child(&self.0), signal).unwrap();
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn wait_until(what: impl Fn() -> bool) {
        let start = Instant::now();
        while !what() {
            assert!(start.elapsed() < Duration::from_secs(10), "it does not happen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_name_cannot_hide_the_state() {
        let ids = |stat: Stat| (char::from(stat.state), stat.parent, stat.group, stat.session);
        let parsed = |text: &[u8]| Stat::parse(text).map(ids);
        assert_eq!(parsed(b"7 (sleep) T 1 42 7 0 -1 4194304"), Some(('T', 1, 42, 7)));
        assert_eq!(parsed(b"7 (a) R 1 (\n) S 1 42 7 0 -1"), Some(('S', 1, 42, 7)));
        assert_eq!(parsed(b"7 (\xff\xfe) t 1 42 7"), Some(('t', 1, 42, 7)));
        assert_eq!(parsed(b"7 (sleep) T 1"), None);
        assert_eq!(parsed(b""), None);
        assert_eq!(
            voluntary(b"Name:\tx\nvoluntary_ctxt_switches:\t17\nnonvoluntary_ctxt_switches:\t3\n"),
            Some(17)
        );
        assert_eq!(voluntary(b"Name:\tx\nnonvoluntary_ctxt_switches:\t3\n"), None);
    }

    #[test]
    fn a_stopped_process_is_seen_and_a_dead_one_is_gone() {
        let mut sleep = Running::start("sleep", &["60"]);
        let pid = sleep.pid();
        wait_until(|| of_process(pid).is_some_and(|signs| !signs.stopped && signs.switches > 0));
        sleep.signal(Signal::STOP);
        wait_until(|| of_process(pid).is_some_and(|signs| signs.stopped));
        let before = of_process(pid);
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(of_process(pid), before);
        sleep.signal(Signal::CONT);
        wait_until(|| of_process(pid).is_some_and(|signs| !signs.stopped && Some(signs) != before));
        sleep.signal(Signal::KILL);
        // The child stays a zombie until `wait`.
        wait_until(|| of_process(pid).is_none());
        sleep.0.wait().unwrap();
        assert_eq!(of_process(pid), None);
        assert_eq!(of_process(0), None);
    }

    #[test]
    fn a_process_that_does_something_shows_it_with_any_of_its_threads() {
        let me = std::process::id().cast_signed();
        let before = of_process(me);
        std::thread::spawn(|| std::thread::sleep(Duration::from_millis(20))).join().unwrap();

        wait_until(|| of_process(me).is_some_and(|signs| !signs.stopped && Some(signs) != before));
    }

    #[test]
    fn a_group_is_stopped_when_all_of_it_is() {
        let shell = Running::start("sh", &["-c", "sleep 60 & sleep 61; true"]);
        let pid = shell.pid();
        let of_group =
            |group: i32| of_all(all_processes().filter(|(_, stat)| stat.group == group).map(|(pid, _)| pid));
        wait_until(|| {
            let (group, alone) = (of_group(pid), of_process(pid));
            group.zip(alone).is_some_and(|(group, alone)| group.switches > alone.switches + 1)
        });
        shell.signal(Signal::STOP);
        wait_until(|| of_process(pid).is_some_and(|signs| signs.stopped));
        assert!(of_group(pid).is_some_and(|signs| !signs.stopped));
        let group = Pid::from_child(&shell.0);
        rustix::process::kill_process_group(group, Signal::STOP).unwrap();
        wait_until(|| of_group(pid).is_some_and(|signs| signs.stopped));
        rustix::process::kill_process_group(group, Signal::KILL).unwrap();
        wait_until(|| of_group(pid).is_none());
    }
}
