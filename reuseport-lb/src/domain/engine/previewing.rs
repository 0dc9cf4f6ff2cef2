//! What other settings would change, in the words in which `applying.rs` says what they have changed.

use super::super::denied::Denied;
use super::super::ports::{Dataplane, Processes, WorkerId};
use super::Engine;
use super::input::Reconfiguration;

impl<D: Dataplane, P: Processes> Engine<D, P> {
    /// What applying `change` would answer, if all goes well; changes nothing.
    #[must_use]
    pub fn preview(&self, change: Option<&Reconfiguration>) -> String {
        let name = &self.settings.config.name;
        let Some(Reconfiguration { settings, groups }) = change else {
            return format!("{name}: not changed");
        };
        let mut changes = Vec::new();
        for group in groups {
            changes.push(match self.listeners.iter().any(|listener| listener.id == group.id) {
                true => format!("{} decides anew", self.dataplane.address(group.id)),
                false => format!("{} added", group.asked),
            });
        }
        let (staying, wanted) = (self.pool.staying(), settings.config.workers);
        let mut stay: &[WorkerId] = &staying;
        if wanted != staying.len() {
            if wanted > 0 && settings.config.command.is_empty() && !settings.config.embedded {
                changes.push(Denied::NoCommand { service: self.service() }.to_string());
            } else {
                changes.push(format!("{} → {wanted} workers", staying.len()));
                stay = &staying[..wanted.min(staying.len())];
            }
        } else if self.settings.config != settings.config && changes.is_empty() {
            changes.push("settings changed".into());
        }
        let revision = settings.revision();
        let old = stay.iter().filter(|id| self.pool.get(**id).is_some_and(|it| it.revision != revision));
        let replaced = old.count();
        if self.settings.revision() != revision && replaced > 0 {
            changes.push(format!("{replaced} workers replaced"));
        }
        let summary = if changes.is_empty() { "not changed".into() } else { changes.join(", ") };
        format!("{name}: {summary}")
    }
}
