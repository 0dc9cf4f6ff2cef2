//! Arguments of the commands that change what runs.

use std::time::Duration;

use clap::Args;
use reuseport_lb_client::api::Scale;

use super::values;
use crate::config;
use crate::domain::listener::Listener;

/// Help of `adopt`.
pub(super) const ADOPT: &str = "\
Examples:
  reuseport-lb adopt web --pid-file /run/nginx.pid --listen tcp://0.0.0.0:80
  reuseport-lb adopt web --unit nginx.service --listen tcp://0.0.0.0:80 --listen tcp://[::]:80
  reuseport-lb adopt dns --pid 4711 --listen udp://127.0.0.1:53 --listen tcp://127.0.0.1:53

The server must have opened its sockets with SO_REUSEPORT (nginx: `listen 80 reuseport`). Each becomes a worker: it is \
selected by consistent hashing, counted, weighed, drained, and avoided while it stalls. What the server opens and closes \
later is followed. Nothing is done to its processes and sockets: it is restarted and reloaded where it was started, and \
when a process ends the kernel hands its queue to another one at once, with a daemon or without. Where nobody is found, \
the kernel chooses as before (docs/SERVERS.md). It stays adopted until `release`, also by the next daemon; in a file, the \
key is `adopt`.";

#[derive(Debug, Args)]
pub(crate) struct AdoptArgs {
    /// The name of the new service
    pub(crate) service: String,
    #[command(flatten)]
    pub(crate) whose: WhoseArgs,
    /// An address that the server listens on, as it has bound it; may be repeated
    #[arg(long, value_name = "URL", required = true)]
    pub(crate) listen: Vec<Listener>,
    /// What a decision is made from: flow (each connection), source (a client keeps its worker), random (chance)
    /// or cpu (the CPU that receives), the last two over TCP, or payload:OFFSET+LENGTH (bytes of a datagram) [default: flow]
    #[arg(long)]
    pub(crate) affinity: Option<config::Affinity>,
    /// Put this program in the place of one that the server has given its group itself
    #[arg(long)]
    pub(crate) replace_program: bool,
    /// One JSON object a line (docs/CONTROL.md)
    #[arg(long)]
    pub(crate) json: bool,
}

/// Whose sockets are adopted.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct WhoseArgs {
    /// Those of this process and its descendants
    #[arg(long)]
    pub(crate) pid: Option<i32>,
    /// Those of the process whose id is in this file, also of the next one
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<String>,
    /// Those of a unit of systemd, like nginx.service
    #[arg(long)]
    pub(crate) unit: Option<String>,
    /// Those of any process
    #[arg(long)]
    pub(crate) any: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReleaseArgs {
    /// The service
    pub(crate) service: String,
    /// One JSON object a line (docs/CONTROL.md)
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    /// The service
    pub(crate) service: String,
    /// How many workers the service shall have; +N or -N: so many more or fewer
    #[arg(value_name = "N", value_parser = values::workers, allow_hyphen_values = true)]
    pub(crate) workers: Scale,
    /// Do not wait until new workers are ready and others are gone
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// One JSON object a line (docs/CONTROL.md)
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WeightArgs {
    /// The worker, like web/2
    pub(crate) worker: String,
    /// From 0 to 1,000,000; workers start with 1
    #[arg(value_parser = values::weight, allow_negative_numbers = true)]
    pub(crate) weight: u32,
    /// One JSON object a line (docs/CONTROL.md)
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The worker, like web/2
    pub(crate) worker: String,
    /// How long to wait until stop_signal, and again until SIGKILL, like 5s; without it the service's drain_timeout
    #[arg(long, value_name = "TIME", value_parser = config::duration)]
    pub(crate) timeout: Option<Duration>,
    /// One JSON object a line (docs/CONTROL.md)
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    /// The service, like web, or the worker, like web/2
    pub(crate) what: String,
    /// How many at a time, once the first has stood its trial
    #[arg(long, value_name = "N", default_value = "1", value_parser = values::at_a_time, allow_negative_numbers = true)]
    pub(crate) parallel: u16,
    /// How long a new process may take to become ready, like 10s; without it the service's start_timeout
    #[arg(long, value_name = "TIME", value_parser = config::duration)]
    pub(crate) timeout: Option<Duration>,
    /// How long the first new process must have been ready before it takes over
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = config::duration)]
    pub(crate) trial: Duration,
    /// One JSON object a line (docs/CONTROL.md)
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReloadArgs {
    /// Print what would be changed, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// One JSON object a line (docs/CONTROL.md)
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// End the daemon only: workers, sockets and buckets stay for the next one
    #[arg(long)]
    pub(crate) keep: bool,
    /// Go on serving for so long, like 10s, while everyone who asks is told that this ends; without it as long as lame_duck of
    /// each service says
    #[arg(long, value_name = "TIME", conflicts_with = "keep", value_parser = config::duration)]
    pub(crate) announce: Option<Duration>,
    /// One JSON object a line (docs/CONTROL.md)
    #[arg(long)]
    pub(crate) json: bool,
}
