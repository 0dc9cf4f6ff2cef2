//! Which tag each slot's worker has in connection ids of QUIC. Not: how ids look (`config/quic.rs`), nor when tags change
//! (`quic.rs`).

use std::collections::{BTreeMap, HashMap};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::config::ServiceConfig;
use crate::domain::ports::{ListenerId, WorkerId};
use crate::kernel::group::PinnedGroup;

/// The variables by which a worker learns its server id, of a service with this word; none without `quic`.
pub(in crate::service) fn variables(
    config: &ServiceConfig,
    word: u64,
    slot: u16,
    id: WorkerId,
) -> Vec<(String, String)> {
    config.quic.as_ref().map(|quic| quic.variables(word, slot, tag(word, id))).unwrap_or_default()
}

/// The tag of a worker, of a service with this word: never 0, and another one for each that has had its slot.
pub(super) fn tag(word: u64, id: WorkerId) -> u64 {
    let id = [id.number as u64, id.instance, id.part as u64].map(u64::to_le_bytes).concat();
    // A server id of 4 bytes has room for the lower bits only, which must not all be 0.
    xxh3_64_with_seed(&id, word) | 1
}

/// The tags of a service's workers.
pub(super) struct Tags {
    /// Of the service: a secret that survives the daemon.
    pub(super) word: u64,
    /// By slot.
    pub(super) all: HashMap<u16, u64>,
    /// Epochs since datagrams came by the ids of the worker in a slot of a listener, as long as these are few.
    pub(super) silent: BTreeMap<(ListenerId, u16), u32>,
}

impl Tags {
    pub(super) fn new(word: u64) -> Self {
        Self { word, all: HashMap::new(), silent: BTreeMap::new() }
    }

    /// Writes all of them into a group.
    pub(super) fn write(&self, group: &PinnedGroup) {
        self.all.iter().for_each(|(slot, tag)| group.set_tag(*slot, *tag));
    }
}
