//! `reload`: makes the daemon read its configuration again.

use anyhow::{Error, Result};
use reuseport_lb_client::api::{Refusal, Reload};
use reuseport_lb_client::control::ControlError;

use super::client::client;
use super::meanwhile::meanwhile;
use super::print::{print, print_object};
use crate::cli;
use crate::config::Invalid;
use crate::daemon::Paths;

pub(super) fn run(arguments: &cli::ReloadArgs, paths: &Paths) -> Result<()> {
    let request = Reload { dry_run: arguments.dry_run };
    let reloaded = meanwhile(paths, None, arguments.json, || client(paths).reload(&request));
    let reloaded = reloaded.map_err(|error| match error {
        ControlError::Refused(Refusal::InvalidConfiguration(why)) => Error::new(Invalid(why)),
        error => error.into(),
    })?;
    if arguments.json {
        return print_object(&reloaded);
    }
    print(&format!("{}\n", reloaded.changes))
}
