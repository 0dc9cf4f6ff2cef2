//! `reload`: makes the daemon read its configuration again.

use anyhow::{Error, Result};
use reuseport_lb_client::api::{Refusal, Reloaded};
use reuseport_lb_client::control::ControlError;

use super::client::client;
use super::print::print;
use crate::config::Invalid;
use crate::daemon::Paths;

pub(super) fn run(paths: &Paths) -> Result<()> {
    let Reloaded { changes } = client(paths).reload().map_err(|error| match error {
        ControlError::Refused(Refusal::InvalidConfiguration(why)) => Error::new(Invalid(why)),
        error => error.into(),
    })?;
    print(&format!("{changes}\n"))
}
