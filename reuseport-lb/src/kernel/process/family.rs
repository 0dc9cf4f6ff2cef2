//! Processes that may have a worker's sockets, whether or not they belong to it.

use super::{Kin, Process};
use crate::kernel::liveness;

impl Process {
    /// All processes that may have the worker's sockets: [`Process::all`], and of one that has joined its descendants.
    #[must_use]
    pub fn family(&self) -> Vec<i32> {
        if self.kin != Kin::Joined {
            return self.all();
        }
        let mut rest: Vec<(i32, i32)> =
            liveness::all_processes().map(|(pid, stat)| (pid, stat.parent)).collect();
        let mut found = vec![self.pid()];
        let mut at = 0;
        while let Some(parent) = found.get(at).copied() {
            found.extend(rest.extract_if(.., |(_, its)| *its == parent).map(|(pid, _)| pid));
            at += 1;
        }
        found
    }
}
