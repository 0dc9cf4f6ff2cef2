//! How commands ask the daemon.

use reuseport_lb_client::control::ControlClient;

use crate::daemon::Paths;

/// Asks the daemon that lives there.
pub(super) fn client(paths: &Paths) -> ControlClient {
    ControlClient::new(paths.control())
}
