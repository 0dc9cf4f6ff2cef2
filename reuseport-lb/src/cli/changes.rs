//! Arguments of the commands that change what runs.

use std::time::Duration;

use clap::Args;
use reuseport_lb_client::api::Scale;

use super::values;
use crate::config;

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
    /// One JSON object a line (docs/CONTROL.md)
    #[arg(long)]
    pub(crate) json: bool,
}
