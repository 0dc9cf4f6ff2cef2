//! `reload`: the daemon reads its configuration again.

use anyhow::Result;

use super::client::Client;
use crate::api::control::Reloaded;
use crate::daemon::Paths;

pub(super) fn run(paths: &Paths) -> Result<()> {
    let Reloaded { changes } = Client::new(paths)?.post_patiently("/v1/reload", &())?;
    super::print(&format!("{changes}\n"))
}
