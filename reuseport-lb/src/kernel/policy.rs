//! What a group's program is made for, and which of the programs in the object that is.

use crate::config::{Affinity, WhenBusy};

/// What a group's program is made for; another one needs another program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// What is hashed.
    pub affinity: Affinity,
    /// What happens to connections whose worker is busy; datagrams always go to their worker.
    pub when_busy: WhenBusy,
}

/// The program for a kind of group; see `programs!` in the kernel program.
pub(super) fn program_name(tracked: bool, avoids_busy: bool, affinity: Affinity, v6: bool) -> &'static str {
    let [flow, source4, source6] = if avoids_busy {
        ["rlb_idle_flow", "rlb_idle_src4", "rlb_idle_src6"]
    } else if tracked {
        ["rlb_udp_flow", "rlb_udp_source4", "rlb_udp_source6"]
    } else {
        ["rlb_tcp_flow", "rlb_tcp_source4", "rlb_tcp_source6"]
    };
    match (affinity, v6) {
        (Affinity::Flow, _) => flow,
        (Affinity::Source, false) => source4,
        (Affinity::Source, true) => source6,
    }
}
