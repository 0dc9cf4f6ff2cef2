//! Settings that are one of a few words.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reuseport_lb_common::steer::MAX_LENGTH;
use serde::{Deserialize, Serialize};
use serde_json::json;
use xxhash_rust::xxh3::xxh3_64;

/// Most bytes of a UDP payload, of 65,535 with its header (RFC 768): of IPv6, which does not count its own header.
const MAX_PAYLOAD: u32 = 65_527;

/// What a decision is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Affinity {
    /// The hash of the 4-tuple: each connection of a client may go to another worker.
    #[default]
    Flow,
    /// The hash of the client's address: a client keeps its worker.
    Source,
    /// Chance: each connection and each datagram may go to another worker.
    Random,
    /// The CPU that receives the packet, which has a worker of its own.
    Cpu,
    /// Bytes of a datagram's payload.
    Payload(PayloadBytes),
    /// A function of the user's.
    Program(KeyFunction),
}

/// Which bytes of a datagram's payload belong to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PayloadBytes {
    /// Of the first one, from the beginning of the payload.
    #[serde(default)]
    pub offset: u16,
    /// How many: 1 to [`MAX_LENGTH`].
    pub length: u8,
}

impl PayloadBytes {
    /// Those of `OFFSET+LENGTH`.
    fn parse(text: &str) -> Option<Self> {
        let (offset, length) = text.split_once('+')?;
        Some(Self { offset: offset.parse().ok()?, length: length.parse().ok()? })
    }

    /// Fails if no datagram has these bytes, or a key cannot be made of so many.
    pub fn check(self) -> Result<(), String> {
        let Self { offset, length } = self;
        if !(1..=MAX_LENGTH).contains(&usize::from(length)) {
            return Err(format!("`length = {length}`: a key is made of 1 to {MAX_LENGTH} bytes"));
        }
        if u32::from(offset) + u32::from(length) > MAX_PAYLOAD {
            return Err(format!(
                "`offset = {offset}` with `length = {length}`: no datagram has more than {MAX_PAYLOAD} bytes"
            ));
        }
        Ok(())
    }
}

/// A key function, and where it is from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct KeyFunction {
    /// The object file.
    pub path: PathBuf,
    /// Its instructions, each [`KeyFunction::WIDTH`] bytes; none: it has not been read yet, or is on another machine.
    pub code: Vec<u8>,
}

/// As it is written in a configuration, or saved by a daemon.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Stored {
    Written(PathBuf),
    Read { path: PathBuf, code: String },
}

impl From<Stored> for KeyFunction {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::Written(path) => Self { path, code: Vec::new() },
            Stored::Read { path, code } => {
                Self { path, code: BASE64_STANDARD.decode(code).unwrap_or_default() }
            }
        }
    }
}

impl From<KeyFunction> for Stored {
    fn from(function: KeyFunction) -> Self {
        Self::Read { path: function.path, code: BASE64_STANDARD.encode(function.code) }
    }
}

impl std::fmt::Display for KeyFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "program:{}", self.path.display())
    }
}

impl KeyFunction {
    /// Bytes of an instruction (RFC 9669, 3).
    pub const WIDTH: usize = 8;

    /// That of an object file, which is still to be read.
    #[must_use]
    pub fn unread(path: &Path) -> Self {
        Self { path: path.to_owned(), code: Vec::new() }
    }

    /// Number of instructions.
    #[must_use]
    pub fn length(&self) -> usize {
        self.code.len() / Self::WIDTH
    }
}

impl Affinity {
    /// As status and check show it.
    #[must_use]
    pub fn shown(&self) -> serde_json::Value {
        match self {
            Self::Program(function) => json!({ "program": {
                "path": function.path,
                "instructions": function.length(),
                "xxh3": format!("{:016x}", xxh3_64(&function.code)),
            } }),
            other => json!(other),
        }
    }
}

impl std::str::FromStr for Affinity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "flow" => Ok(Self::Flow),
            "source" => Ok(Self::Source),
            "random" => Ok(Self::Random),
            "cpu" => Ok(Self::Cpu),
            other => {
                if let Some(path) = other.strip_prefix("program:") {
                    return Ok(Self::Program(KeyFunction::unread(Path::new(path))));
                }
                let Some(bytes) = other.strip_prefix("payload:") else {
                    return Err(format!(
                        "{other:?} is not \"flow\", \"source\", \"random\", \"cpu\", \"payload:OFFSET+LENGTH\" or \"program:FILE\""
                    ));
                };
                let bytes = PayloadBytes::parse(bytes)
                    .ok_or_else(|| format!("{other:?}: say payload:OFFSET+LENGTH, in bytes"))?;
                bytes.check().map(|()| Self::Payload(bytes))
            }
        }
    }
}

impl std::fmt::Display for Affinity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Payload(PayloadBytes { offset, length }) => write!(f, "payload:{offset}+{length}"),
            Self::Program(function) => function.fmt(f),
            word => word.serialize(f),
        }
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
    /// They wait in the worker's queue, unless the worker is overloaded.
    #[default]
    Queue,
    /// They go to the next worker that waits for work.
    Next,
}

/// What a leaving worker's end waits for, besides its queue and its UDP flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DrainUntil {
    /// Nothing.
    #[default]
    Queue,
    /// Its connections, up to `drain_timeout`.
    Connections,
}

/// Which of the workers gets a new TCP connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Balance {
    /// That of the bucket.
    #[default]
    Table,
    /// The one with the fewest connections for its weight; of equals that of the bucket.
    Least,
    /// That of the bucket, unless it would have more than so many times its share of the connections.
    Bounded(f64),
}

impl std::fmt::Display for DrainUntil {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}

impl std::fmt::Display for Balance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Table => f.write_str("table"),
            Self::Least => f.write_str("least"),
            Self::Bounded(factor) => write!(f, "bounded {factor}"),
        }
    }
}

/// What is known of UDP flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flows {
    /// Live flows keep their worker when their bucket moves, and a leaving worker waits for them.
    #[default]
    Track,
    /// Each datagram is for itself: it goes to the worker of its bucket.
    None,
}

impl std::fmt::Display for Flows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}

/// How a worker comes by its sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SocketSource {
    /// The command gets them (LISTEN_FDS).
    #[default]
    Pass,
    /// The command opens its own, which become members of the group as they are.
    Bind,
    /// The command is nginx, which gets them in its own way (the variable NGINX).
    Nginx,
}

impl std::str::FromStr for SocketSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "pass" => Ok(Self::Pass),
            "bind" => Ok(Self::Bind),
            "nginx" => Ok(Self::Nginx),
            other => Err(format!("{other:?} is not \"pass\", \"bind\" or \"nginx\"")),
        }
    }
}

impl std::fmt::Display for SocketSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}

/// The user that sockets belong to: processes of another one cannot bind on their addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SocketOwner {
    /// The daemon's.
    #[default]
    Daemon,
    /// That of the workers.
    User,
}

impl std::str::FromStr for SocketOwner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "daemon" => Ok(Self::Daemon),
            "user" => Ok(Self::User),
            other => Err(format!("{other:?} is not \"daemon\" or \"user\"")),
        }
    }
}

impl std::fmt::Display for SocketOwner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}

/// What happens to the buckets of a worker that crashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnCrash {
    /// They wait for the worker's next process, for `hold_timeout`.
    #[default]
    Hold,
    /// They move to the other workers at once.
    Migrate,
}

/// In which order a worker is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Replace {
    /// The successor is started beside the old process, and takes over when it is ready.
    #[default]
    StartFirst,
    /// The old process ends before the successor is started, for servers with a lock, a pid file or a port of their
    /// own.
    StopFirst,
}

impl std::fmt::Display for Replace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}

/// What happens to the process of a worker that stalls again and again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnStall {
    /// Nothing: other workers get its connections until it recovers.
    #[default]
    Avoid,
    /// The process is replaced.
    Restart,
}

impl std::fmt::Display for OnStall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}

/// How the daemon's log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("{other:?} is not \"text\" or \"json\"")),
        }
    }
}

impl std::fmt::Display for LogFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}
