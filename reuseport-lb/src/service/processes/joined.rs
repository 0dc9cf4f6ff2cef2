//! Processes that have joined: watched like others, and with a keeper for their calls if they open their sockets themselves.

use anyhow::{Context, Result};

use super::super::calls::PendingCalls;
use super::super::joining::Joining;
use super::super::sd_notify;
use super::{ProcessTable, Running, kept};
use crate::config::process::LogTo;
use crate::domain::listener::Listener;
use crate::domain::ports::ProcessKey;
use crate::kernel::calls::Calls;
use crate::kernel::output::Output;
use crate::kernel::process::Process;

impl ProcessTable {
    /// Watches a process that joins.
    pub(super) fn adopt_joined(
        &mut self,
        joining: Option<Joining>,
        key: ProcessKey,
        name: &str,
        listeners: &[Listener],
    ) -> Result<()> {
        let (peer, notifier) = joining.context("no process asks to join")?;
        let path = sd_notify::path_of_joined(&self.surroundings.runtime_dir);
        let notify = self.listen_to(key, name, path, Some((peer.uid, peer.gid)))?;
        let process = Process::joined(peer.pid, peer.pidfd)?;
        let keep = |notifier| Output::of_calls(kept(name, &LogTo::Inherit), Calls::of(notifier)?);
        let output = notifier.map(keep).transpose()?.map(|output| self.look_after(output));
        let calls = output
            .as_ref()
            .and_then(|output| PendingCalls::hear(key, name, output, listeners, &self.opened, &self.events));
        self.watch(key, process, notify, output, calls);
        Ok(())
    }
}

impl Running {
    /// Lets the calls of a process that had joined go on by themselves from now on: it may live on.
    pub(super) fn let_go(&self) {
        if let Some(calls) = self.calls.as_ref().filter(|_| !self.process.is_leader()) {
            calls.let_go();
        }
    }
}
