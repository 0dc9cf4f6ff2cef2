//! `status`: what happens, for people or as JSON.

use anyhow::Result;

use super::client::Client;
use crate::daemon::Paths;
use crate::{cli, status};

pub(super) fn run(arguments: &cli::Status, paths: &Paths) -> Result<()> {
    let client = Client::new(paths)?;
    let status = client.status(arguments.service.as_deref())?;
    super::print(&if arguments.json {
        serde_json::to_string_pretty(&status)? + "\n"
    } else {
        status::render(&status)
    })
}
