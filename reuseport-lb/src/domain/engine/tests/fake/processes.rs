//! The fake processes behind `Processes`.

use super::{Broken, Fake, Process, Stage};
use crate::config::{Replace, StopSettings};
use crate::domain::listener::Listener;
use crate::domain::observed::{CallId, Pulse};
use crate::domain::ports::*;

impl Processes for Fake {
    fn spawn(&mut self, spawn: &Spawn<'_>) -> Result<(), String> {
        let mut world = self.0.borrow_mut();
        world.fails(Broken::Spawn)?;
        let sockets: Vec<Cookie> = spawn.sockets.iter().map(|(cookie, _)| *cookie).collect();
        for cookie in &sockets {
            match world.sockets.get_mut(cookie) {
                Some(socket) => drop(socket.holders.insert(spawn.key)),
                None => return Err("a socket is gone".into()),
            }
        }
        let number = spawn.key.worker.number;
        let beside = |(key, it): &(&ProcessKey, &Process)| {
            key.worker.number == number && it.known && !it.joined && it.stage != Stage::Gone
        };
        let stop_first = spawn.settings.config.replace == Replace::StopFirst;
        if let Some((key, _)) = world.processes.iter().find(beside).filter(|_| stop_first) {
            let wrong = format!("{:?} is started beside {key:?}", spawn.key);
            world.wrong.push(wrong);
        }
        let process = Process {
            stage: Stage::Blocked,
            joined: false,
            told: false,
            stop: None,
            killed: false,
            hangs: false,
            waits: false,
            switches: 0,
            suspended: false,
            sockets,
            known: true,
        };
        world.processes.insert(spawn.key, process);
        Ok(())
    }

    fn adopt(&mut self, key: ProcessKey, _name: &str, _listeners: &[Listener]) -> Result<(), String> {
        let mut world = self.0.borrow_mut();
        world.fails(Broken::Adopt)?;
        let process = Process {
            stage: Stage::Runs,
            joined: true,
            told: false,
            stop: None,
            killed: false,
            hangs: false,
            waits: false,
            switches: 0,
            suspended: false,
            sockets: Vec::new(),
            known: true,
        };
        world.processes.insert(key, process);
        Ok(())
    }

    fn note(&mut self, process: ProcessKey, pid: i32) {
        self.0.borrow_mut().noted.insert(process, pid);
    }

    fn unblock(&mut self) {
        for process in self.0.borrow_mut().processes.values_mut() {
            if process.stage == Stage::Blocked {
                process.stage = Stage::Runs;
            }
        }
    }

    fn pid(&self, process: ProcessKey) -> Option<i32> {
        let noted = self.0.borrow().noted.get(&process).copied();
        noted.or_else(|| i32::try_from(process.incarnation).ok())
    }

    fn is_ours(&self, process: ProcessKey) -> bool {
        self.0.borrow().processes.get(&process).is_some_and(|process| !process.joined)
    }

    fn terminate(&mut self, process: ProcessKey, stop: StopSettings) {
        if let Some(process) = self.0.borrow_mut().processes.get_mut(&process) {
            process.told = true;
            process.stop = Some(stop);
        }
    }

    fn kill(&mut self, process: ProcessKey) {
        if let Some(process) = self.0.borrow_mut().processes.get_mut(&process) {
            process.killed = true;
        }
    }

    fn expect_end(&mut self, _process: ProcessKey) {}

    fn suspend(&mut self, process: ProcessKey) -> bool {
        let mut world = self.0.borrow_mut();
        match world.processes.get_mut(&process) {
            Some(process) if !process.joined && process.stage == Stage::Runs => {
                !std::mem::replace(&mut process.suspended, true)
            }
            _ => false,
        }
    }

    fn resume(&mut self, process: ProcessKey) {
        if let Some(process) = self.0.borrow_mut().processes.get_mut(&process) {
            process.suspended = false;
        }
    }

    fn pulse(&self, process: ProcessKey) -> Option<Pulse> {
        let world = self.0.borrow();
        let process = world.processes.get(&process).filter(|process| process.stage != Stage::Gone)?;
        Some(Pulse { stopped: process.suspended, switches: process.switches, ticks: 0 })
    }

    fn restore_notify(&mut self, _process: ProcessKey) -> bool {
        false
    }

    fn forget(&mut self, process: ProcessKey) -> Vec<String> {
        if let Some(process) = self.0.borrow_mut().processes.get_mut(&process) {
            process.known = false;
        }
        Vec::new()
    }

    fn closed(&self, process: ProcessKey, sockets: &[Cookie]) -> Vec<Cookie> {
        let world = self.0.borrow();
        let has = |cookie: &Cookie| {
            let opened = world.opened.get(cookie).is_some_and(|it| it.process == process);
            opened || world.processes.get(&process).is_some_and(|it| it.sockets.contains(cookie))
        };
        sockets.iter().filter(|cookie| !has(cookie)).copied().collect()
    }

    fn answer(&mut self, process: ProcessKey, call: CallId, answer: CallOutcome) {
        let mut world = self.0.borrow_mut();
        if let CallOutcome::Instead(socket) = answer {
            world.give(process, socket);
        }
        world.answers.insert(call, answer);
    }

    fn look_for_foreign(&mut self, _processes: &[ProcessKey], _listeners: &[Listener]) {}
}
