//! Whether new traffic should be sent to the machine of a daemon, and how much.

use serde::{Deserialize, Serialize};

/// Answer to `GET /v1/health`, of all services, and to `GET /v1/health/NAME`, of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostHealth {
    /// `up`; `drained`: what is here goes on, and nothing new should come; or `down`: something cannot be served.
    pub state: String,
    /// How much of the weight that is wanted serves, from 1 to 100; 0 unless `up`.
    pub weight: u32,
    /// Why it is not `up`.
    pub reasons: Vec<String>,
}

/// Body of `POST /v1/host/drain`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostDrain {
    /// How long, in milliseconds; without it until `POST /v1/host/undrain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub for_ms: Option<u64>,
}

/// Body of `POST /v1/host/undrain`: an empty object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostUndrain {}

/// That the machine is to get nothing new.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostDrained {
    /// Since when, in seconds since 1970.
    pub since: f64,
    /// Until when, in seconds since 1970; `null`: until it is undrained.
    #[serde(default)]
    pub until: Option<f64>,
}
