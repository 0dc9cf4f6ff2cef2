//! `reload`: the daemon reads its configuration again.

use anyhow::Result;

use super::client::Client;
use super::print::print;
use crate::api::control::Reloaded;
use crate::daemon::Paths;

pub(super) fn run(paths: &Paths) -> Result<()> {
    let Reloaded { changes } = Client::new(paths)?.post_patiently("/v1/reload", &())?;
    print(&format!("{changes}\n"))
}
