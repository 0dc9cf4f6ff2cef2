//! Arguments of the commands about the machine as a whole.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::values;
use crate::config;

/// Ends the help of `health`.
pub(super) const HEALTH: &str = "\
Examples:
  reuseport-lb health                       of all services: up, drained or down, and why
  reuseport-lb health web
  reuseport-lb health --weight web          for keepalived's MISC_CHECK with misc_dynamic
  reuseport-lb health --watch               a line at each change
  reuseport-lb health --watch --exabgp 10.9.9.9/32 --graceful

up: new traffic is welcome, and the weight says how much of what is wanted serves, from 1 to 100. drained: what is here goes \
on, and nothing new should come (`host drain`, `stop --announce`, lame_duck). down: a service has no worker that is ready.

Exit codes: 0 up, 1 drained, down or no daemon. With --weight: 2 + weight, 2 if drained, 1 if down or no daemon. With --watch a \
daemon that is away, for its own upgrade perhaps, leaves what was said last for --hold: its workers serve on. One that has ended in order leaves nothing.";

/// Ends the help of `host`.
pub(super) const HOST: &str = "\
Examples:
  reuseport-lb host drain
  reuseport-lb host drain --for 10m
  reuseport-lb host undrain

Nothing is done to any worker: whoever asks (/readyz, /weight, `health`, the agent) is told that nothing new should come. It \
stays so for later daemons, until `host undrain`, the end of --for, or the machine's restart.";

#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// The service; without it all of them, of which the worst counts
    pub(crate) service: Option<String>,
    /// Print the weight, and exit with 2 + weight
    #[arg(long, conflicts_with_all = ["watch", "json"])]
    pub(crate) weight: bool,
    /// Go on, and print a line at each change
    #[arg(long)]
    pub(crate) watch: bool,
    /// With --watch: print announce and withdraw of this route in the words of exabgp; may be repeated
    #[arg(long, value_name = "PREFIX", requires = "watch", conflicts_with = "json", value_parser = values::prefix)]
    pub(crate) exabgp: Vec<String>,
    /// With --exabgp: when drained, announce with GRACEFUL_SHUTDOWN (RFC 8326) in place of withdrawing, for routers that keep
    /// live connections then
    #[arg(long, requires = "exabgp")]
    pub(crate) graceful: bool,
    /// With --watch: how long what was said last holds while no daemon answers
    #[arg(long, value_name = "TIME", requires = "watch", default_value = "1m", value_parser = config::duration)]
    pub(crate) hold: Duration,
    /// One JSON object a line (docs/CONTROL.md)
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct HostArgs {
    #[command(subcommand)]
    pub(crate) verb: HostVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum HostVerb {
    /// Tell everyone who asks that nothing new should come to this machine
    Drain(HostDrainArgs),
    /// Tell everyone who asks that new traffic is welcome again
    Undrain(HostUndrainArgs),
}

#[derive(Debug, Args)]
pub(crate) struct HostDrainArgs {
    /// How long, like 10m; without it until `host undrain`
    #[arg(long = "for", value_name = "TIME", value_parser = config::duration)]
    pub(crate) time: Option<Duration>,
    /// One JSON object a line (docs/CONTROL.md)
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct HostUndrainArgs {
    /// One JSON object a line (docs/CONTROL.md)
    #[arg(long)]
    pub(crate) json: bool,
}
