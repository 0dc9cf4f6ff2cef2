//! What was new between two looks at the daemon, PURE: for `status --watch` and `top`.

use std::collections::HashMap;
use std::hash::Hash;

use reuseport_lb_client::api::WorkerStatus;

/// Decisions between two looks for the workers `before` and `now`, by `key`; one that counts from 0 again has as many as it
/// has counted.
pub(super) fn decisions<'a, K: Hash + Eq>(
    before: impl Iterator<Item = &'a WorkerStatus>,
    now: impl Iterator<Item = &'a WorkerStatus>,
    key: impl Fn(&WorkerStatus) -> K,
) -> HashMap<K, u64> {
    let before: HashMap<K, u64> = before.map(|worker| (key(worker), worker.selected())).collect();
    let new = |worker: &WorkerStatus| {
        let (key, now) = (key(worker), worker.selected());
        let before = before.get(&key).copied().filter(|before| *before <= now).unwrap_or_default();
        (key, now - before)
    };
    now.map(new).collect()
}
