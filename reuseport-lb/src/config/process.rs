//! What a worker's process is started with besides its command: the values. Not: what is valid (`environment.rs`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a worker's process is started with besides its command. What is `None` is as the daemon was started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessConfig {
    /// Variables; their values may have placeholders.
    pub env: BTreeMap<String, String>,
    /// Further variables, which those of `env` overrule.
    pub env_file: Option<EnvFile>,
    /// The working directory; it may have placeholders.
    pub cwd: Option<String>,
    /// The file mode creation mask.
    pub umask: Option<u32>,
    /// The nice value, from -20 to 19.
    pub nice: Option<i32>,
    /// The limit of open files.
    pub open_files: Option<u32>,
    /// The CPUs to run on.
    pub cpus: Cpus,
    /// The group in place of the user's primary one: a name or a number.
    pub group: Option<String>,
    /// Where the output goes.
    pub log: LogTo,
}

/// Where the output of a worker goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogTo {
    /// Where the daemon's log goes.
    #[default]
    Inherit,
    /// Into a file.
    File(LogFile),
}

/// A log file of workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFile {
    /// An absolute path, which may have placeholders.
    pub path: String,
    /// Bytes from which on it is renamed.
    pub max: u64,
    /// How many renamed ones are kept.
    pub keep: u32,
}

/// A file of variables, as it was read with the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvFile {
    /// Where it is.
    pub path: PathBuf,
    /// What was in it.
    pub variables: BTreeMap<String, String>,
}

/// The CPUs that a worker runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cpus {
    /// All that the daemon may use.
    #[default]
    All,
    /// One: worker N has the N-th that the daemon may use, counted around.
    Each,
}

impl std::fmt::Display for Cpus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}
