//! The engine's [`Processes`] port, implemented by [`ProcessTable`].

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tracing::warn;

use super::{ProcessTable, Running};
use crate::config::StopSettings;
use crate::domain::engine::ProcessEvent;
use crate::domain::listener::Listener;
use crate::domain::observed::{CallId, Pulse};
use crate::domain::ports::{CallOutcome, Cookie, ProcessKey, Processes, Spawn};
use crate::kernel::output::Amount;
use crate::kernel::process::Process;
use crate::kernel::{fd_passing, liveness, opened};
use crate::offload::in_thread;

/// How long to wait until a process has stopped after SIGSTOP; a process that takes longer is busy in the kernel.
const SUSPENDING: Duration = Duration::from_millis(3);

fn pulse_of(process: &Process) -> Option<Pulse> {
    liveness::of_all(process.all())
}

impl Processes for ProcessTable {
    fn spawn(&mut self, spawn: &Spawn<'_>) -> Result<(), String> {
        self.start(spawn).map_err(|error| format!("{error:#}"))
    }

    fn adopt(&mut self, process: ProcessKey, name: &str, listeners: &[Listener]) -> Result<(), String> {
        let joining = self.joining.take();
        self.adopt_joined(joining, process, name, listeners).map_err(|error| format!("{error:#}"))
    }

    fn note(&mut self, process: ProcessKey, pid: i32) {
        self.adopted.insert(process, pid);
    }

    fn unblock(&mut self) {
        for key in std::mem::take(&mut self.blocked) {
            self.process(key).into_iter().for_each(Process::unblock);
        }
    }

    fn pid(&self, process: ProcessKey) -> Option<i32> {
        self.process(process).map(Process::pid).or_else(|| self.adopted.get(&process).copied())
    }

    fn is_ours(&self, process: ProcessKey) -> bool {
        self.process(process).is_some_and(Process::is_leader)
    }

    fn terminate(&mut self, process: ProcessKey, stop: StopSettings) {
        self.process(process).into_iter().for_each(|process| process.terminate(stop));
    }

    fn kill(&mut self, process: ProcessKey) {
        self.process(process).into_iter().for_each(Process::kill);
    }

    fn expect_end(&mut self, process: ProcessKey) {
        self.process(process).into_iter().for_each(Process::expect_end);
    }

    fn suspend(&mut self, process: ProcessKey) -> bool {
        let runs =
            |process: &&Process| process.is_leader() && pulse_of(process).is_some_and(|pulse| !pulse.stopped);
        let Some(process) = self.process(process).filter(runs) else { return false };
        process.suspend();
        let begun = Instant::now();
        while begun.elapsed() < SUSPENDING && pulse_of(process).is_some_and(|pulse| !pulse.stopped) {}
        true
    }

    fn resume(&mut self, process: ProcessKey) {
        self.process(process).into_iter().for_each(Process::resume);
    }

    fn pulse(&self, process: ProcessKey) -> Option<Pulse> {
        match self.adopted.get(&process) {
            Some(pid) => liveness::of_process(*pid),
            None => self.process(process).and_then(pulse_of),
        }
    }

    fn restore_notify(&mut self, process: ProcessKey) -> bool {
        self.running.get_mut(&process).is_some_and(|running| running.notify.restore())
    }

    fn forget(&mut self, process: ProcessKey) -> Vec<String> {
        self.adopted.remove(&process);
        let running = self.running.remove(&process);
        running.iter().for_each(Running::let_go);
        let Some(output) = running.and_then(|it| it.output.clone()) else { return Vec::new() };
        let dropped = output.dropped();
        if dropped != Amount::default() {
            *self.dropped.entry(process.worker.number).or_default() += dropped;
        }
        output.last_lines()
    }

    fn closed(&self, process: ProcessKey, sockets: &[Cookie]) -> Vec<Cookie> {
        let Some(process) = self.process(process) else { return Vec::new() };
        let wanted: Vec<u64> = sockets.iter().map(|cookie| cookie.0).collect();
        let found = fd_passing::sockets_of_all(process.pid(), || process.family(), &wanted);
        // Of processes that may not be looked at nothing is known.
        let Ok(found) = found else { return Vec::new() };
        let is_held = |cookie: &&Cookie| found.iter().any(|(held, _)| *held == cookie.0);
        sockets.iter().filter(|cookie| !is_held(cookie)).copied().collect()
    }

    fn answer(&mut self, process: ProcessKey, call: CallId, answer: CallOutcome) {
        if let Some(calls) = self.running.get(&process).and_then(|running| running.calls.as_ref()) {
            calls.answer(call, answer, &self.sockets);
        }
    }

    fn look_for_foreign(&mut self, processes: &[ProcessKey], listeners: &[Listener]) {
        let suspects = processes.iter().filter_map(|key| Some((self.process(*key)?.pid(), *key)));
        let suspects: HashMap<i32, ProcessKey> = suspects.collect();
        let (listeners, events) = (listeners.to_vec(), self.events.clone());
        let ours = self.surroundings.ours.borrow().clone();
        let service = self.service.clone();
        tokio::task::spawn_local(async move {
            let groups: Vec<i32> = suspects.keys().copied().collect();
            let look = move || opened::by_groups(&groups, &listeners, &ours);
            match in_thread("looking", look).await.and_then(|found| found) {
                Ok(found) => {
                    let of = |(group, it)| suspects.get(&group).map(|key| (*key, ProcessEvent::Opened(it)));
                    // The service may have ended.
                    found.into_iter().filter_map(of).for_each(|it| drop(events.send(it)));
                }
                Err(error) => {
                    warn!(service, "cannot look for sockets that workers opened by themselves: {error:#}");
                }
            }
        });
    }
}
