//! Signals to the processes of a worker.

use rustix::process::{Pid, Signal, kill_process_group};

use super::identity::signal_same;
use super::{Kin, Process, Search};
use crate::config::{StopMode, StopSettings, StopSignal};

impl From<StopSignal> for Signal {
    fn from(signal: StopSignal) -> Self {
        match signal {
            StopSignal::Term => Self::TERM,
            StopSignal::Quit => Self::QUIT,
            StopSignal::Int => Self::INT,
            StopSignal::Hup => Self::HUP,
            StopSignal::Usr1 => Self::USR1,
            StopSignal::Usr2 => Self::USR2,
            StopSignal::Winch => Self::WINCH,
        }
    }
}

impl Process {
    /// Asks the process to end, and its descendants unless it tells them itself.
    pub fn terminate(&self, stop: StopSettings) {
        self.ending.set(true);
        match stop.mode {
            StopMode::Group => self.signal(stop.signal.into()),
            StopMode::Main => self.main.borrow().signal(stop.signal.into()),
        }
    }

    /// Ends the process and its descendants (SIGKILL).
    pub fn kill(&self) {
        self.killed.set(true);
        self.signal(Signal::KILL);
    }

    /// Stops the process (SIGSTOP) until [`Process::resume`]. A system call that it is in may still finish.
    pub fn suspend(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets the process run again (SIGCONT).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if self.gone.get() {
            return;
        }
        if self.kin == Kin::Joined {
            return self.main.borrow().signal(signal);
        }
        // Before the process group gets the signal: afterwards parents are gone, and descent is not known any more.
        let others = self.others(Search::Thorough);
        let group = self.has_id();
        let leader = Pid::from_raw(self.leader.pid).filter(|_| group);
        if leader.is_some_and(|leader| kill_process_group(leader, signal).is_err()) {
            // The process leads no group.
            self.first.iter().for_each(|first| first.signal(signal));
        }
        if signal == Signal::KILL
            && let Some(cgroup) = &self.cgroup
        {
            cgroup.kill();
        }
        // No process gets the signal twice: many programs take a second SIGTERM for "end at once".
        for (pid, stat) in others.iter().filter(|(_, stat)| !group || stat.group != self.leader.pid) {
            signal_same(*pid, stat, signal);
        }
    }
}
