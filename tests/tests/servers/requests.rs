//! Requests to the servers of these tests, long ones and short ones.

use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use testkit::fault::times;
use testkit::requests::{self, steadily};

pub(super) fn to() -> SocketAddr {
    "127.0.0.1:3000".parse().unwrap()
}

/// How long a long request takes, and a slow start: well beyond `stall_timeout`; a whole run has more patience.
pub(super) fn long() -> Duration {
    Duration::from_secs(times(5).clamp(5, 60) as u64)
}

/// A short request takes no longer than this, even if everything else does.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// One request on a connection of its own; the answer, or what went wrong.
pub(super) fn get(path: &str, patience: Duration) -> Result<String, String> {
    requests::get(to(), path, patience)
}

/// Short requests, 50 a second, until `done`; how many were answered within their patience, and what became of the
/// others.
pub(super) fn short_ones(done: &AtomicBool, patience: Duration) -> (usize, Vec<String>) {
    let all = steadily(done, Duration::from_millis(20), |_| get("/", patience));
    let count = all.len();
    let failed: Vec<String> = all.into_iter().filter_map(Result::err).collect();
    (count - failed.len(), failed)
}
