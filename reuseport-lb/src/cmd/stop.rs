//! `stop`: ends the daemon, and waits until it is gone.

use std::time::Duration;

use anyhow::Result;

use super::client::Client;
use crate::control::Stopping;
use crate::daemon::Paths;

const LOOK: Duration = Duration::from_millis(10);

pub(super) fn run(paths: &Paths) -> Result<()> {
    let client = Client::new(paths)?;
    let Stopping { pid } = client.post("/v1/stop", &())?;
    // The lock goes last, so nothing is left when it is gone.
    while paths.runtime_dir.join("daemon.lock").exists() && crate::kernel::process::exists(pid) {
        std::thread::sleep(LOOK);
    }
    super::print(&format!("stopped (process {pid})\n"))
}
