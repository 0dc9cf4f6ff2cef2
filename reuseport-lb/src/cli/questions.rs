//! Arguments of the commands that ask, and change nothing.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use reuseport_lb_client::api::ClientAddress;

use super::values;
use crate::domain::listener::Listener;

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Only this service, like web, or this worker, like web/2
    pub(crate) what: Option<String>,
    /// As JSON (docs/CONTROL.md)
    #[arg(long)]
    pub(crate) json: bool,
    /// Exit with 1 unless all that is wanted is ready, and say what is not
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    pub(crate) check: bool,
    /// Again and again, every SECONDS (1 without a number), with the decisions of each worker per second
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1", value_parser = values::seconds)]
    pub(crate) watch: Option<Duration>,
}

/// Below the options of `top`.
pub(super) const TOP_HELP: &str = "\
Examples:
  reuseport-lb top
  reuseport-lb top web
  reuseport-lb top --once      one table; as without a terminal, like `reuseport-lb top | cat`

Of a worker: SINCE is the age of its process, SHARE its part of the buckets, GOT its part of what was new in the last \
second, NEW/S how much that was, QUEUE how full its fullest queue is, with the connections (and bytes of datagrams) that \
wait, CPU and MEMORY what its process uses, without its children. One table takes a second, between two looks.

Keys: arrows select a worker, d drains it, r restarts it, w changes its weight, s sorts, / filters, t shows decisions, ? \
explains, q quits. What changes anything asks first. NO_COLOR=1 turns colours off.";

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Only this service
    pub(crate) service: Option<String>,
    /// Print one table, and exit
    #[arg(long)]
    pub(crate) once: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The configuration file
    pub(crate) file: PathBuf,
    /// For another machine: users and commands need not be on this one
    #[arg(long)]
    pub(crate) offline: bool,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// A file with services; without it the embedded demo
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// As JSON (docs/DOCTOR.md)
    #[arg(long)]
    pub(crate) json: bool,
}

/// Ends the help of `events`.
pub(super) const EVENTS: &str = "\
Examples:
  reuseport-lb events
  reuseport-lb events web --text
  reuseport-lb events web/2 --once | jq 'select(.event == \"state\") | {time, from, to, reason, by}'

First what the daemon still knows, the last 2,048 events, then what comes, until Ctrl-C or the end of the daemon.";

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Only of this service, like web, or this worker, like web/2
    pub(crate) what: Option<String>,
    /// End after what has happened so far
    #[arg(long)]
    pub(crate) once: bool,
    /// A readable line for each
    #[arg(long)]
    pub(crate) text: bool,
    /// As JSON (docs/EVENTS.md), which they are anyway
    #[arg(long, conflicts_with = "text")]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// The service
    pub(crate) service: String,
    /// End after this many decisions
    #[arg(long, value_name = "N", value_parser = values::in_all, allow_negative_numbers = true)]
    pub(crate) count: Option<u64>,
    /// Show instead where a new connection or datagram of this client would go now, and why: 192.0.2.7, 192.0.2.7:40000,
    /// ::1 or [::1]:40000
    #[arg(long, value_name = "ADDRESS[:PORT]", conflicts_with = "count")]
    pub(crate) explain: Option<ClientAddress>,
    /// With --explain: the listener that it comes to, like tcp://127.0.0.1:3000; without it each that it could come to
    #[arg(long, value_name = "URL", requires = "explain")]
    pub(crate) listen: Option<Listener>,
    /// One JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Ends the help of `policy`.
pub(super) const POLICY: &str = "\
Examples:
  reuseport-lb policy media test key.o --packet 80000001000000a0deadbeef
  reuseport-lb policy media test key.o --packet 8000 --packet '80 00 00 01' --json

It sends each payload as a datagram through the loopback device of a network namespace that it makes for that, lets the \
function make its key, and asks the daemon where that key would go now. Nothing is attached to the service, and nothing is \
changed (docs/PROGRAMMING.md). It needs root.";

#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    /// The service
    pub(crate) service: String,
    #[command(subcommand)]
    pub(crate) verb: PolicyVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyVerb {
    /// Show which keys a function makes of datagrams, and who would get them
    Test(PolicyTestArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PolicyTestArgs {
    /// The object file with the function, as `affinity = { program = … }` has it
    pub(crate) file: PathBuf,
    /// The payload of a datagram, two hex digits a byte; may be repeated
    #[arg(long = "packet", value_name = "HEX", required = true, value_parser = values::payload)]
    pub(crate) packets: Vec<values::HexBytes>,
    /// One JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}
