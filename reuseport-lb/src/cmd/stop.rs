//! `stop`: ends the daemon, and waits until it has ended.

use std::time::Duration;

use anyhow::Result;
use reuseport_lb_client::api::{Stop, Stopping};

use super::client::client;
use super::meanwhile::meanwhile;
use super::print::{print, print_object};
use crate::cli;
use crate::daemon::{self, Paths};

const LOOK: Duration = Duration::from_millis(10);

pub(super) fn run(arguments: &cli::StopArgs, paths: &Paths) -> Result<()> {
    let announce_ms = arguments.announce.map(|time| time.as_millis() as u64);
    let stopping = client(paths).stop(&Stop { keep: arguments.keep, announce_ms })?;
    let Stopping { pid } = stopping;
    // The daemon releases its lock last, after it has removed everything else.
    meanwhile(paths, None, arguments.json, || {
        while daemon::is_locked(&paths.runtime_dir, pid) {
            std::thread::sleep(LOOK);
        }
    });
    if arguments.json {
        return print_object(&stopping);
    }
    let what = if arguments.keep { "stopped, its workers go on" } else { "stopped" };
    print(&format!("{what} (process {pid})\n"))
}
