//! Looks for the tests of `top`.

use std::time::Duration;

use reuseport_lb_client::api::Status;

use super::model::Look;
pub(super) use crate::cmd::samples::{service, status, worker};

/// A look in this second, by both clocks.
pub(super) fn look(status: Status, second: u32) -> Look {
    Look { status, at: Duration::from_secs(second.into()), time: f64::from(second) }
}
