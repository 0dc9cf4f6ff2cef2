//! Decisions of a service, as `trace` tells them.

use std::io;
use std::process::Stdio;

use reuseport_lb_client::api::TracedDecision;

use crate::daemon::{Daemon, until};

/// Traces so many decisions of `service`, for which `ask` gives occasion again and again.
///
/// # Panics
/// If they do not come, or are no decisions.
#[must_use]
pub fn traced(daemon: &Daemon, service: &str, count: usize, mut ask: impl FnMut()) -> Vec<TracedDecision> {
    let mut trace = daemon.paths().command(&["trace", service, "--count", &count.to_string(), "--json"]);
    let mut trace = trace.stdout(Stdio::piped()).spawn().expect("cannot run `trace`");
    until("the decisions to be traced", || {
        ask();
        trace.try_wait().expect("cannot wait for `trace`")
    });
    let lines = io::read_to_string(trace.stdout.take().expect("it is piped")).expect("it is text");
    lines.lines().map(|line| serde_json::from_str(line).expect("a decision a line")).collect()
}
