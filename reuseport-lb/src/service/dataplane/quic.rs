//! When the tags of workers in connection ids of QUIC change, and who still has datagrams by them.

use reuseport_lb_common::entry::EPOCHS;

use super::Groups;
use super::tags::tag;
use crate::domain::ports::{ListenerId, WorkerId};

impl Groups {
    /// The word that tags are made with.
    pub(in crate::service) fn word(&self) -> u64 {
        self.tags.word
    }

    /// Sets whose connection ids lead to a slot.
    pub(super) fn tag_slot(&mut self, slot: u16, worker: Option<WorkerId>) {
        let tag = worker.map(|id| tag(self.tags.word, id));
        match tag {
            Some(tag) => drop(self.tags.all.insert(slot, tag)),
            None => drop(self.tags.all.remove(&slot)),
        }
        self.tags.silent.retain(|(_, other), _| *other != slot);
        self.all.values().for_each(|it| it.group.set_tag(slot, tag.unwrap_or_default()));
    }

    /// Another epoch begins at a listener: forgets whose ids were not used in all the others.
    pub(super) fn rotate_tags(&mut self, id: ListenerId) {
        let Some(it) = self.all.get(&id).filter(|it| it.group.routes()) else { return };
        for slot in self.tags.all.keys() {
            if it.group.was_routed(*slot) {
                self.tags.silent.insert((id, *slot), 0);
            } else if let Some(silent) = self.tags.silent.get_mut(&(id, *slot)) {
                *silent += 1;
            }
        }
        self.tags.silent.retain(|_, silent| *silent < EPOCHS as u32);
    }

    /// Adds one for each slot whose worker's ids were used lately: connections that change their port have no flow that
    /// stays.
    pub(super) fn add_routed(&self, id: ListenerId, flows: &mut [u64]) {
        let Some(it) = self.all.get(&id).filter(|it| it.group.routes()) else { return };
        for slot in self.tags.all.keys() {
            if self.tags.silent.contains_key(&(id, *slot)) || it.group.is_routed(*slot) {
                flows[usize::from(*slot)] += 1;
            }
        }
    }
}
