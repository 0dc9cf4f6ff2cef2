//! How long tests wait: a machine that is slower, like an emulated one, says how much in
//! `REUSEPORT_LB_SLOW`.

use std::time::Duration;

/// How many times slower this machine is than one that developers have: 1, unless
/// `REUSEPORT_LB_SLOW` says more.
#[must_use]
pub fn slow() -> u32 {
    std::env::var("REUSEPORT_LB_SLOW").ok().and_then(|slow| slow.parse().ok()).unwrap_or(1).max(1)
}

/// Fewer connections, flows or datagrams on a slow machine: enough for what is to be seen.
#[must_use]
pub fn fewer(usual: usize) -> usize {
    usual.div_ceil(slow() as usize)
}

/// Longest time to wait for a state; far beyond what any takes.
#[must_use]
pub fn patience() -> Duration {
    at_most(Duration::from_secs(30))
}

/// Lets `_what` last for so long, because that is what is tried or measured. Whoever waits for something uses
/// [`until`](crate::daemon::until).
pub fn lasts(_what: &str, time: Duration) {
    std::thread::sleep(time); // sleep: the reason is in the call
}

/// What takes at most `usual` takes at most so long here.
#[must_use]
pub fn at_most(usual: Duration) -> Duration {
    usual * slow()
}
