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
    let stdout = trace.stdout.take().expect("it is piped");
    // Meanwhile: a pipe has room for some 200 decisions, and then `trace` would wait.
    let reader = std::thread::spawn(|| io::read_to_string(stdout));
    until("the decisions to be traced", || {
        ask();
        trace.try_wait().expect("cannot wait for `trace`")
    });
    let lines = reader.join().expect("its thread goes on").expect("it is text");
    lines.lines().map(|line| serde_json::from_str(line).expect("a decision a line")).collect()
}
