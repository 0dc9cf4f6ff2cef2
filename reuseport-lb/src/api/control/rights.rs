//! Who may ask for what at the control socket. Not: who may connect, which the permissions of its file say
//! (`daemon/sockets.rs`).

use std::cell::Cell;
use std::rc::Rc;

use reuseport_lb_client::api::Refusal;
use tokio::net::unix::UCred;

use crate::kernel::host;

/// The id of the group whose members may ask what changes nothing; clones have the same one.
#[derive(Clone, Debug, Default)]
pub struct Monitors(Rc<Cell<Option<u32>>>);

impl Monitors {
    /// The group now.
    #[must_use]
    pub fn get(&self) -> Option<u32> {
        self.0.get()
    }

    /// Names another one.
    pub fn set(&self, group: Option<u32>) {
        self.0.set(group);
    }
}

/// Who may have a request carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    /// Whoever may connect: the request changes nothing.
    Monitor,
    /// Root and the daemon's user.
    Administer,
}

/// Who sends a request.
#[derive(Clone, Copy)]
pub(super) struct Caller {
    pub(super) peer: Option<UCred>,
    pub(super) monitors: Option<u32>,
}

impl Caller {
    /// Whether the sender administers the daemon; fails without the right. Members of the group were let in by the file's
    /// permissions; if there is no group any more, a connection from before has no right either.
    pub(super) fn require(self, right: Right) -> Result<bool, Refusal> {
        let administers = self.peer.is_some_and(|peer| peer.uid() == 0 || peer.uid() == host::own_uid());
        if administers || (right == Right::Monitor && self.monitors.is_some()) {
            return Ok(administers);
        }
        let whom = self.peer.map_or_else(|| "this user".into(), |peer| format!("user {}", peer.uid()));
        Err(Refusal::Forbidden(format!(
            "{whom} may not do that: only root and the daemon's user may; members of the group that `monitors` names may see \
             status and events, and ask where a client would go"
        )))
    }
}
