//! `stop`: ends the daemon, and waits until it has ended.

use std::time::Duration;

use anyhow::Result;
use reuseport_lb_client::api::{Stop, Stopping};

use super::client::client;
use super::meanwhile::meanwhile;
use super::print::print;
use crate::cli;
use crate::daemon::{self, Paths};

const LOOK: Duration = Duration::from_millis(10);

pub(super) fn run(arguments: &cli::StopArgs, paths: &Paths) -> Result<()> {
    let Stopping { pid } = client(paths).stop(&Stop { keep: arguments.keep })?;
    // The daemon releases its lock last, after it has removed everything else.
    meanwhile(paths, None, || {
        while daemon::is_locked(&paths.runtime_dir, pid) {
            std::thread::sleep(LOOK);
        }
    });
    let what = if arguments.keep { "stopped, its workers go on" } else { "stopped" };
    print(&format!("{what} (process {pid})\n"))
}
