//! The client of the daemon's control socket, for commands.

use reuseport_lb_client::control::ControlClient;

use crate::daemon::Paths;

/// A client of the daemon with these paths.
pub(super) fn client(paths: &Paths) -> ControlClient {
    ControlClient::new(paths.control())
}
