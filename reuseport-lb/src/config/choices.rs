//! Settings that are one of a few words.

use serde::{Deserialize, Serialize};

/// What is hashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Affinity {
    /// The 4-tuple: every connection for itself.
    #[default]
    Flow,
    /// The client's address: a client keeps its worker.
    Source,
}

impl std::fmt::Display for Affinity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Flow => "flow",
            Self::Source => "source",
        })
    }
}

/// What happens to new connections while no worker is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenEmpty {
    /// They wait in the queue of a starting worker.
    #[default]
    Hold,
    /// RST or ICMP port unreachable.
    Reject,
}

/// What happens to new connections whose worker is busy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenBusy {
    /// They wait in its queue, unless that is overloaded.
    #[default]
    Queue,
    /// They go to the next worker that waits for work.
    Next,
}

/// What happens to the buckets of a worker that crashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnCrash {
    /// They wait for its successor, for `hold_timeout`.
    #[default]
    Hold,
    /// They move to the other workers at once.
    Migrate,
}

/// What happens to the process of a worker that stalls again and again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnStall {
    /// Nothing: others get what comes and what waits, until it accepts again.
    #[default]
    Avoid,
    /// It is replaced.
    Restart,
}

impl std::fmt::Display for OnStall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Avoid => "avoid",
            Self::Restart => "restart",
        })
    }
}
