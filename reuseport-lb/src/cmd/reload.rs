//! `reload`: makes the daemon read its configuration again.

use anyhow::{Error, Result};
use reuseport_lb_client::api::{Refusal, Reloaded};
use reuseport_lb_client::control::ControlError;

use super::client::client;
use super::meanwhile::meanwhile;
use super::print::print;
use crate::config::Invalid;
use crate::daemon::Paths;

pub(super) fn run(paths: &Paths) -> Result<()> {
    let reloaded = meanwhile(paths, None, || client(paths).reload());
    let Reloaded { changes } = reloaded.map_err(|error| match error {
        ControlError::Refused(Refusal::InvalidConfiguration(why)) => Error::new(Invalid(why)),
        error => error.into(),
    })?;
    print(&format!("{changes}\n"))
}
