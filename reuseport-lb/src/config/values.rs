//! Values of settings, from text and back: times, times that can be off, readiness, overload. Not: which
//! settings there are (`mod.rs`).

use std::num::NonZeroU32;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest time of any setting.
const LONGEST_TIME: Duration = Duration::from_secs(366 * 24 * 3600);

/// Shortest `stall_timeout` and `watchdog`: within less, a process is only late.
const SHORTEST_STALL: Duration = Duration::from_millis(10);

/// Shortest `idle_timeout`: within less, flows of slow clients would count as ended.
const SHORTEST_IDLE: Duration = Duration::from_millis(100);

/// When a worker counts as ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ready {
    /// When its processes wait for work on each of its sockets, or at `READY=1`.
    #[default]
    Accepting,
    /// When it says `READY=1` (sd_notify(3)).
    Notify,
    /// When its processes, which open its sockets themselves, have called listen(2) (UDP: bind(2)) for each listener; or at
    /// `READY=1`.
    Listening,
    /// As soon as its process runs.
    Immediate,
    /// When its processes wait for work on one of its sockets, but not before this time has passed; or at `READY=1`.
    After(Duration),
}

impl std::fmt::Display for Ready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Accepting => f.write_str("accepting"),
            Self::Notify => f.write_str("notify"),
            Self::Listening => f.write_str("listening"),
            Self::Immediate => f.write_str("immediate"),
            Self::After(time) => humantime::format_duration(*time).fmt(f),
        }
    }
}

impl std::str::FromStr for Ready {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "accepting" => Ok(Self::Accepting),
            "notify" => Ok(Self::Notify),
            "listening" => Ok(Self::Listening),
            "immediate" => Ok(Self::Immediate),
            other => duration(other).map(Self::After).map_err(|_| {
                format!("{other:?} is not \"accepting\", \"listening\", \"notify\", \"immediate\" or a time like \"500ms\"")
            }),
        }
    }
}

impl Serialize for Ready {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ready {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// When a worker's queue is too deep: if it is longer than `floor` and than `factor` times the mean of the others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Overload {
    /// Multiple of the mean of the others; finite, at least 1.
    #[serde(deserialize_with = "factor")]
    pub factor: f64,
    /// Number of connections up to which a queue is never too deep; at least 1.
    #[serde(deserialize_with = "floor")]
    pub floor: u32,
}

impl Default for Overload {
    fn default() -> Self {
        Self { factor: 2.0, floor: 16 }
    }
}

impl std::fmt::Display for Overload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "factor {} floor {}", self.factor, self.floor)
    }
}

fn factor<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let factor = f64::deserialize(deserializer)?;
    if factor.is_finite() && factor >= 1.0 {
        Ok(factor)
    } else {
        Err(D::Error::custom(format!("`factor` is {factor}; it must be a number from 1.0 on")))
    }
}

fn floor<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    NonZeroU32::deserialize(deserializer).map(NonZeroU32::get)
}

/// A time like `500ms`, `2s` or `1m 30s`.
pub(super) struct Span(pub(super) Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Span;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a time like \"500ms\", \"2s\" or \"1m 30s\"")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Span, E> {
                duration(text).map(Span).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// The value of `idle_timeout`: a time from [`SHORTEST_IDLE`] on.
pub(super) struct Idle(pub(super) Duration);

impl<'de> Deserialize<'de> for Idle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Span(time) = Span::deserialize(deserializer)?;
        if time < SHORTEST_IDLE {
            return Err(D::Error::custom(format!(
                "{} is too short a time: the least is {SHORTEST_IDLE:?}",
                humantime::format_duration(time)
            )));
        }
        Ok(Self(time))
    }
}

/// The value of `stall_timeout` or `watchdog`: a time from [`SHORTEST_STALL`] on, or `off`.
pub(super) struct Patience(pub(super) Option<Duration>);

impl<'de> Deserialize<'de> for Patience {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Patience;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"off\" or a time like \"500ms\" or \"2s\"")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Patience, E> {
                if text == "off" {
                    return Ok(Patience(None));
                }
                let time =
                    duration(text).map_err(|error| E::custom(format!("{error}; \"off\" turns it off")))?;
                if time < SHORTEST_STALL {
                    return Err(E::custom(format!(
                        "{text:?} is too short a time: the least is {SHORTEST_STALL:?}; \"off\" turns it off"
                    )));
                }
                Ok(Patience(Some(time)))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// The value of `overload`: `{ factor = 2.0, floor = 16 }`, or `off`. A key that is left out has its default.
pub(super) struct Limit(pub(super) Option<Overload>);

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OffOrTable;
        impl<'de> Visitor<'de> for OffOrTable {
            type Value = Limit;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"off\" or a table like { factor = 2.0, floor = 16 }")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Limit, E> {
                if text == "off" {
                    return Ok(Limit(None));
                }
                Err(E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Limit, A::Error> {
                Overload::deserialize(MapAccessDeserializer::new(map)).map(|overload| Limit(Some(overload)))
            }
        }
        deserializer.deserialize_any(OffOrTable)
    }
}

/// Parses a time like `500ms`, `2s` or `1m 30s`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| {
        format!("{text:?} is not a time ({error}); write it like \"500ms\", \"2s\" or \"1m 30s\"")
    })?;
    if time > LONGEST_TIME {
        return Err(format!("{text:?} is too long a time: the most is one year"));
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_is_written_as_it_is_read() {
        let after = Duration::from_nanos;
        let times = [0, 1, 999_999_999, 90_061_001_001_001, 31_557_600_000_000_001].map(after);
        for ready in
            [Ready::Accepting, Ready::Notify, Ready::Immediate].into_iter().chain(times.map(Ready::After))
        {
            assert_eq!(ready.to_string().parse::<Ready>().unwrap(), ready);
        }
    }
}
