//! `host`: drains the machine, and ends that.

use anyhow::Result;
use reuseport_lb_client::api::HostDrain;

use super::client::client;
use super::health::line;
use super::print::{print, print_object};
use crate::cli::{self, HostVerb};
use crate::daemon::Paths;

pub(super) fn run(arguments: &cli::HostArgs, paths: &Paths) -> Result<()> {
    let client = client(paths);
    let (health, json) = match &arguments.verb {
        HostVerb::Drain(arguments) => {
            let for_ms = arguments.time.map(|time| time.as_millis() as u64);
            (client.host_drain(&HostDrain { for_ms })?, arguments.json)
        }
        HostVerb::Undrain(arguments) => (client.host_undrain()?, arguments.json),
    };
    if json {
        return print_object(&health);
    }
    print(&format!("host: {}\n", line(&health)))
}
