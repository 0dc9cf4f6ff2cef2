//! The state file of a service: what the next daemon must know, written as a whole, in two copies. Not: how the next
//! daemon goes on from there (`service/takeover.rs`).
//!
//! Each copy is written to a new file, which is renamed, and carries a checksum: at whatever byte a write is cut off,
//! one whole copy is left.

mod id;
#[cfg(test)]
pub(super) mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reuseport_lb_common::LAYOUT_VERSION;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use xxhash_rust::xxh3::xxh3_64;

use crate::config;
use crate::domain::listener::Listener;
use crate::domain::tally::Tally;
use crate::domain::worker;
use crate::kernel::host::{self, Inode};
use crate::kernel::output::OutputIdentity;
use crate::kernel::process::Identity;
pub use id::SavedId;

/// Version of the format; it changes when an older daemon could misread the file.
pub const VERSION: u32 = 1;

/// The saved state of one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedService {
    /// Set if the service could not be taken over: the name of this file, which is then not the service's. The service
    /// is started anew, and these workers end when the new ones are ready.
    #[serde(default)]
    pub abandoned: Option<String>,
    /// If `abandoned`: the workers have been told to end, and may still finish connections.
    #[serde(default)]
    pub told: bool,
    /// Which daemons can use this state, and until when.
    #[serde(flatten)]
    pub stamp: Stamp,
    /// The settings in force.
    pub config: config::ServiceConfig,
    /// The settings as configured, before `scale` and `drain` changed them.
    pub configured: config::ServiceConfig,
    /// How many times a bucket has changed its worker so far.
    pub moved: u64,
    /// How many UDP flows were cut so far.
    #[serde(default)]
    pub flows_cut: u64,
    /// What has happened so far, in numbers.
    #[serde(default)]
    pub tally: Tally,
    /// What tells its workers from others.
    #[serde(flatten)]
    pub identities: Identities,
    /// Number of the settings in force; a worker that was started with another one is outdated.
    #[serde(rename = "release")]
    pub revision: u64,
    /// The listeners in the order of `config.listen`, then those that are no longer wanted.
    #[serde(rename = "doors")]
    pub listeners: Vec<SavedListener>,
    /// All workers, also draining ones.
    pub workers: Vec<SavedWorker>,
}

/// What tells a service's workers from those before them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identities {
    /// The last serial number used.
    pub count: u64,
    /// What the tags of workers in connection ids of QUIC are made with.
    #[serde(default)]
    pub word: Option<u64>,
}

/// Which daemons can use a saved state, and until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// [`VERSION`] of the file's format.
    pub version: u32,
    /// `LAYOUT_VERSION` of the maps.
    pub layout: u32,
    /// The kernel's boot id; no state survives a reboot.
    pub boot: String,
}

impl Stamp {
    /// The stamp of states that this daemon writes.
    #[must_use]
    pub fn own() -> Self {
        Self { version: VERSION, layout: LAYOUT_VERSION, boot: host::boot() }
    }
}

/// The saved state of one listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedListener {
    /// The listener as configured, perhaps with port 0.
    pub asked: Listener,
    /// The listener with the port that the kernel chose.
    pub bound: Listener,
    /// Name of the group's directory of pins.
    pub name: String,
    /// Whether new workers get sockets of this listener.
    pub wanted: bool,
    /// Kernel id of the group's program.
    #[serde(default)]
    pub program: Option<u32>,
    /// Milliseconds from boot to when the service began to decide for this listener; 0 while another service does.
    #[serde(default)]
    pub since: u64,
    /// Whether another service has taken the listener.
    #[serde(default)]
    pub lost: bool,
    /// If its buckets are not those of the service: the slots of workers that do not read there.
    #[serde(default)]
    pub avoided: Option<Vec<u16>>,
    /// Cookies of sockets of others that have left, and are open.
    #[serde(default)]
    pub left: Vec<u64>,
}

/// The saved state of one worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedWorker {
    /// Which worker it is.
    #[serde(flatten)]
    pub id: SavedId,
    /// The slot in the maps of all groups.
    pub slot: u16,
    /// Whether the worker still holds `slot`; else another worker may have it.
    pub holds_slot: bool,
    /// Whether the worker is a successor on trial.
    pub trial: bool,
    /// Number of the settings that the worker was started with ([`SavedService::revision`]).
    #[serde(rename = "release")]
    pub revision: u64,
    /// Weight in the table; 0 means no new flows.
    pub weight: u32,
    /// State, origin and restarts.
    pub life: worker::Left,
    /// Whether the watchdog runs: the worker has sent `WATCHDOG=1`.
    pub watched: bool,
    /// How the worker's process is told to end.
    #[serde(default)]
    pub stop: config::StopSettings,
    /// How the worker's process is found again.
    #[serde(flatten)]
    pub process: SavedProcess,
    /// The worker's sockets, at most one per listener.
    #[serde(rename = "places")]
    pub sockets: Vec<SavedSocket>,
    /// Sockets that the process has bound for a listener, and that do not listen: the listener, with the port that the
    /// kernel chose, and SO_COOKIE.
    #[serde(default)]
    pub bound: Vec<(Listener, u64)>,
}

/// How the process of a worker is found again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedProcess {
    /// Process id and start time, if the process runs.
    #[serde(rename = "process")]
    pub identity: Option<Identity>,
    /// The worker's first process, if that is another one.
    #[serde(default)]
    pub leader: Option<Identity>,
    /// The cgroup of the process and its descendants, if it has one.
    #[serde(default)]
    pub cgroup: Option<PathBuf>,
    /// Path of the notification socket, and the user and group that own it.
    pub notify: Option<(PathBuf, Option<(u32, u32)>)>,
    /// How the output of the process is found again.
    #[serde(default)]
    pub output: Option<OutputIdentity>,
}

impl SavedProcess {
    /// The worker's first process.
    #[must_use]
    pub fn leader(&self) -> Option<Identity> {
        self.leader.or(self.identity)
    }
}

/// The saved state of one socket of a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedSocket {
    /// The socket's listener, with the port that the kernel chose.
    pub listener: Listener,
    /// SO_COOKIE of the socket.
    pub cookie: u64,
    /// The slot's counter `selected` when the worker got the socket.
    pub selected_before: u64,
}

/// The state file of one service: two copies in one directory.
pub struct StateFile {
    directory: PathBuf,
    service: String,
    failure: Option<Failure>,
    /// Inodes of the copies as written last, to see whether they are still there.
    written: [Option<Inode>; 2],
}

/// How the last write failed, and when to try again.
struct Failure {
    /// The error, for the log and the status.
    what: String,
    again_at: Instant,
}

/// How long after a failed write it is tried again.
const AGAIN: Duration = Duration::from_secs(1);

impl SavedService {
    /// The file that this state belongs into.
    #[must_use]
    pub fn file(&self, runtime_dir: &Path) -> StateFile {
        StateFile::new(runtime_dir, self.abandoned.as_ref().unwrap_or(&self.config.name))
    }
}

impl StateFile {
    /// The state file of the service with this name; reads and writes nothing.
    #[must_use]
    pub fn new(runtime_dir: &Path, service: &str) -> Self {
        Self {
            directory: directory(runtime_dir),
            service: service.to_owned(),
            failure: None,
            written: [None; 2],
        }
    }

    /// Name of the service, or of what is abandoned of it ([`abandoned_name`]).
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// When to try again after a failed write; `None` if the last write succeeded.
    #[must_use]
    pub fn again_at(&self) -> Option<Instant> {
        self.failure.as_ref().map(|failure| failure.again_at)
    }

    /// Why the last write failed; `None` if it succeeded.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_ref().map(|failure| &*failure.what)
    }

    /// Whether both copies are still the files that were written last; their content is not looked at.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.copies().iter().zip(self.written).all(|(copy, written)| host::is_there(copy, written))
    }

    /// Writes both copies. If that fails (a full disk, say), the failure is logged once and kept; the caller tries
    /// again at [`StateFile::again_at`].
    pub fn write(&mut self, state: &SavedService) {
        let written = serialized(state).and_then(|text| {
            if !self.directory.exists() {
                make_directory(&self.directory)?;
            }
            self.copies().iter().try_for_each(|copy| host::replace_file(copy, &text))
        });
        match written {
            Ok(()) => {
                self.written = self.copies().map(|copy| host::inode_at(&copy));
                if self.failure.take().is_some() {
                    info!(service = self.service, "its state is written again");
                }
            }
            Err(error) => {
                let what = format!("cannot write its state to {}: {error}", self.directory.display());
                if self.failure.is_none() {
                    warn!(
                        service = self.service,
                        "{what}; the service goes on, but another daemon could not take it over as it is now"
                    );
                }
                self.failure = Some(Failure { what, again_at: Instant::now() + AGAIN });
            }
        }
    }

    /// Removes all copies.
    pub fn remove(&self) {
        for copy in self.copies() {
            // Fails if the file is missing, which is as well.
            let _ = fs::remove_file(&copy);
            let _ = fs::remove_file(copy.with_extension("new"));
        }
    }

    fn copies(&self) -> [PathBuf; 2] {
        ["state", "copy"].map(|kind| self.directory.join(format!("{}.{kind}", self.service)))
    }
}

/// A new name for the state of a service that cannot be taken over.
#[must_use]
pub fn abandoned_name(service: &str) -> String {
    // No service has a name with a plus.
    format!("{service}+{:016x}", host::random())
}

/// The directory of all state files.
#[must_use]
pub fn directory(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("state")
}

/// Makes the directory of state files, which only its owner can read.
pub fn make_directory(directory: &Path) -> io::Result<()> {
    host::make_directory(directory, 0o700)
}

/// Reads the state files that an earlier daemon left in this runtime directory: the states of this boot, and the files
/// that cannot be read, with the error. Files of other boots are removed.
#[must_use]
pub fn read_all(runtime_dir: &Path, boot: &str) -> (Vec<SavedService>, Vec<(StateFile, String)>) {
    let (mut states, mut wrong) = (Vec::new(), Vec::new());
    for (file, read) in look(runtime_dir) {
        match read {
            Ok(state) if state.stamp.boot == boot => states.push(state),
            Ok(_) => file.remove(),
            Err(error) => wrong.push((file, error)),
        }
    }
    (states, wrong)
}

/// Reads the state files in a runtime directory, of all boots; changes nothing.
pub fn look(runtime_dir: &Path) -> impl Iterator<Item = (StateFile, Result<SavedService, String>)> {
    let runtime_dir = runtime_dir.to_owned();
    let mut names: Vec<String> = fs::read_dir(directory(&runtime_dir))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            let kind = path.extension()?;
            (kind == "state" || kind == "copy").then(|| path.file_stem()?.to_str().map(str::to_owned))?
        })
        .collect();
    names.sort();
    names.dedup();
    names.into_iter().map(move |name| {
        let file = StateFile::new(&runtime_dir, &name);
        let [one, other] = file
            .copies()
            .map(|copy| fs::read(copy).map_err(|error| error.to_string()).and_then(|bytes| parse(&bytes)));
        let read =
            one.or_else(|one| other.map_err(|other| format!("service {name}: {one}; its copy: {other}")));
        (file, read)
    })
}

/// The text of a state file: a checksum line, then JSON.
pub fn serialized(state: &SavedService) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(state)?;
    let mut text = format!("{:016x}\n", xxh3_64(&json)).into_bytes();
    text.extend(json);
    Ok(text)
}

/// Reads the text of a state file. Fails if it is cut off, damaged or of another version.
pub fn parse(bytes: &[u8]) -> Result<SavedService, String> {
    let (sum, json) = bytes.split_at_checked(17).ok_or("it is cut off")?;
    if sum != format!("{:016x}\n", xxh3_64(json)).as_bytes() {
        return Err("its checksum is wrong, so it is cut off or damaged".into());
    }
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let Version { version } = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!("it has version {version}, and this reuseport-lb reads version {VERSION}"));
    }
    serde_json::from_slice(json).map_err(|error| error.to_string())
}
