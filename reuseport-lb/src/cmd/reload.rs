//! `reload`: the daemon reads its configuration again.

use anyhow::{Error, Result};
use reuseport_lb_client::api::{Refusal, Reloaded};
use reuseport_lb_client::control::ControlError;

use crate::config::Invalid;
use crate::daemon::Paths;

pub(super) fn run(paths: &Paths) -> Result<()> {
    let Reloaded { changes } = super::client(paths).reload().map_err(|error| match error {
        ControlError::Refused(Refusal::InvalidConfiguration(why)) => Error::new(Invalid(why)),
        error => error.into(),
    })?;
    super::print(&format!("{changes}\n"))
}
