//! Arguments of the commands by which a process becomes a worker, or speaks with one.

use std::time::Duration;

use clap::Args;

use super::values;
use crate::config;
use crate::config::SocketSource;
use crate::domain::listener::Listener;

/// Ends the help of `exec`.
pub(super) const EXEC: &str = "\
Examples:
  reuseport-lb exec web -- ./server
  reuseport-lb exec web --name 7 -- ./server          worker web/7, in whose buckets it comes back
  reuseport-lb exec web --weight 3 -- haproxy -db -f haproxy.cfg
  reuseport-lb exec web --sockets bind -- nginx -g 'daemon off;'

The command gets its sockets as descriptors 3, 4, … and finds LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES, NOTIFY_SOCKET and \
REUSEPORT_LB_WORKER, _SERVICE and _INDEX in its environment, as from `run` (docs/JOIN.md). It keeps the process id and \
the user, which `join` of the service must allow. The worker leaves when the process ends, or when it says STOPPING=1.";

/// Ends the help of `connect`.
pub(super) const CONNECT: &str = "\
Examples:
  printf 'GET / HTTP/1.0\\r\\n\\r\\n' | reuseport-lb connect web/2
  printf hello | reuseport-lb connect web/2 --listen 'udp://[::]:53' --wait 1s

It joins standard input and output to a new connection that the kernel gives this worker, whatever its share and state are, \
also while it is starting. The worker sees a client at 127.0.0.1 or ::1. Nobody else's connection goes elsewhere for that. At \
a udp:// listener each line or block that is read is a datagram.

It ends when the worker closes the connection, or when nothing more has come for --wait after the end of standard input.";

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// The service
    pub(crate) service: String,
    /// Which worker to be, like web/7 or 7; without it the lowest number that is free
    #[arg(long, value_name = "WORKER")]
    pub(crate) name: Option<String>,
    /// Its share is its weight over the sum of all; from 0 to 1,000,000
    #[arg(long, value_name = "W", default_value = "1", value_parser = values::weight_within, allow_negative_numbers = true)]
    pub(crate) weight: u32,
    /// How the command comes by its sockets: pass (it gets them, LISTEN_FDS), or bind (it opens its own; without
    /// CAP_SYS_ADMIN it gets no_new_privs)
    #[arg(long, value_name = "HOW", default_value = "pass", value_parser = values::passed_or_bound)]
    pub(crate) sockets: SocketSource,
    /// The program, and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    /// The worker, like web/2
    pub(crate) worker: String,
    /// At which of its listeners, like udp://127.0.0.1:53; without it the first one, of TCP if there is one
    #[arg(long, value_name = "URL")]
    pub(crate) listen: Option<Listener>,
    /// Tell the worker when standard input ends; many servers take that for the end of the connection
    #[arg(long)]
    pub(crate) shutdown: bool,
    /// How long to wait for more when standard input has ended
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = config::duration)]
    pub(crate) wait: Duration,
}
