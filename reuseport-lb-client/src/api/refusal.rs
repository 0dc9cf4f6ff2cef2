//! Refusals of the daemon: what was wrong, where, and how to mend it; each kind with its HTTP status.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a daemon refuses a request. A variant for each kind that a caller may want to tell from
/// others; its text says what was wrong, where, and how to mend it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The request cannot be parsed (400).
    #[error("{0}")]
    Malformed(String),
    /// This user may not ask for that (403).
    #[error("{0}")]
    Forbidden(String),
    /// No path, service or worker has that name (404).
    #[error("{0}")]
    Unknown(String),
    /// The path takes another method (405).
    #[error("{0}")]
    WrongMethod(String),
    /// The request did not arrive in time (408).
    #[error("{0}")]
    Late(String),
    /// The request cannot be carried out (422).
    #[error("{0}")]
    Impossible(String),
    /// The configuration file is invalid (422, marked `invalid`).
    #[error("{0}")]
    InvalidConfiguration(String),
    /// The daemon could not find something out that the answer needs (500).
    #[error("{0}")]
    Failed(String),
    /// The service or the daemon is ending, or there are too many connections (503).
    #[error("{0}")]
    Unavailable(String),
}

/// The JSON of a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalBody {
    /// What was wrong and how to mend it.
    pub error: String,
    /// The configuration file is invalid.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub invalid: bool,
}

/// From a text without a kind.
impl From<String> for Refusal {
    fn from(what: String) -> Self {
        Self::Impossible(what)
    }
}

impl Refusal {
    /// The refusal of an unknown path.
    #[must_use]
    pub fn unknown_path(path: &str) -> Self {
        Self::Unknown(format!("there is no {path}; docs/CONTROL.md lists what there is"))
    }

    /// The refusal of an unknown service; names the `known` ones.
    #[must_use]
    pub fn unknown_service<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        let known = if known.is_empty() { "none at all".into() } else { known.join(", ") };
        Self::Unknown(format!("there is no service {name:?}; there is {known}"))
    }

    /// The refusal of an unknown worker; names the `known` ones of its service.
    #[must_use]
    pub fn unknown_worker<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        let known = if known.is_empty() { "nobody".into() } else { known.join(", ") };
        Self::Unknown(format!("there is no worker {name}; there is {known}"))
    }

    /// The refusal of a method other than the one that `path` takes.
    #[must_use]
    pub fn wrong_method(path: &str, takes: &str, method: &str) -> Self {
        Self::WrongMethod(format!("{path} takes {takes}, not {method}"))
    }

    /// The refusal of a service that is ending.
    #[must_use]
    pub fn ending() -> Self {
        Self::Unavailable("the service is ending".into())
    }

    /// The HTTP status of this kind of refusal.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::Forbidden(_) => 403,
            Self::Unknown(_) => 404,
            Self::WrongMethod(_) => 405,
            Self::Late(_) => 408,
            Self::Impossible(_) | Self::InvalidConfiguration(_) => 422,
            Self::Failed(_) => 500,
            Self::Unavailable(_) => 503,
        }
    }

    /// The refusal as JSON.
    #[must_use]
    pub fn body(&self) -> RefusalBody {
        RefusalBody { error: self.to_string(), invalid: matches!(self, Self::InvalidConfiguration(_)) }
    }

    /// Makes a refusal of an answer. The text stays word for word; a status that this version does not know becomes the
    /// general kind of its hundred.
    #[must_use]
    pub fn from_wire(status: u16, body: RefusalBody) -> Self {
        let RefusalBody { error, invalid } = body;
        match status {
            403 => Self::Forbidden(error),
            404 => Self::Unknown(error),
            405 => Self::WrongMethod(error),
            408 => Self::Late(error),
            422 if invalid => Self::InvalidConfiguration(error),
            422 => Self::Impossible(error),
            503 => Self::Unavailable(error),
            400..500 => Self::Malformed(error),
            _ => Self::Failed(error),
        }
    }
}
