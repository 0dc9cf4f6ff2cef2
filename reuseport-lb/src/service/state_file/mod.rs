//! What the next daemon must know about a service: a file per service, written as a whole, twice.
//! Not: how it goes on from there (`service/takeover.rs`).
//!
//! Each copy is written beside itself and renamed, and carries a checksum: whatever byte a write is
//! cut off at, one whole copy is left.

#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reuseport_lb_common::LAYOUT_VERSION;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use xxhash_rust::xxh3::xxh3_64;

use crate::config;
use crate::domain::listener::Listener;
use crate::domain::worker;
use crate::kernel::host::{self, Inode};
use crate::kernel::process::Identity;

/// Changes when an older daemon could misread the file.
pub const VERSION: u32 = 1;

/// One service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedService {
    /// It could not be taken over: its service is started anew, and its workers are to end when that is ready. The name
    /// of its file, which is not the service's.
    #[serde(default)]
    pub abandoned: Option<String>,
    /// Then they have been told to end, and may still have something to finish.
    #[serde(default)]
    pub told: bool,
    /// Who can read it.
    #[serde(flatten)]
    pub stamp: Stamp,
    /// Settings as they are.
    pub config: config::ServiceConfig,
    /// Settings as they were configured, before `scale` and `drain`.
    pub configured: config::ServiceConfig,
    /// Buckets that changed their worker so far.
    pub moved: u64,
    /// UDP flows that were cut so far.
    #[serde(default)]
    pub flows_cut: u64,
    /// Serial numbers used so far.
    pub count: u64,
    /// See `service::Service`.
    #[serde(rename = "release")]
    pub revision: u64,
    /// In the order of `config.listen`, and then those that are no longer wanted.
    #[serde(rename = "doors")]
    pub listeners: Vec<SavedListener>,
    /// All of them.
    pub workers: Vec<SavedWorker>,
}

/// Which daemon can make something of what is written, and until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Of this format.
    pub version: u32,
    /// `LAYOUT_VERSION` of the maps.
    pub layout: u32,
    /// The kernel's boot; nothing survives another one.
    pub boot: String,
}

impl Stamp {
    /// Of this daemon.
    #[must_use]
    pub fn own() -> Self {
        Self { version: VERSION, layout: LAYOUT_VERSION, boot: host::boot() }
    }
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedListener {
    /// As configured.
    pub asked: Listener,
    /// With the port that the kernel chose.
    pub bound: Listener,
    /// The name of its directory of pins.
    pub name: String,
    /// Whether new workers get sockets of it.
    pub wanted: bool,
    /// The id of the program that decides for it.
    #[serde(default)]
    pub program: Option<u32>,
    /// Milliseconds from boot to when the service began to decide for it; 0 while another one does.
    #[serde(default)]
    pub since: u64,
    /// Whether another one has taken it.
    #[serde(default)]
    pub lost: bool,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedWorker {
    /// Its number, for its name.
    pub number: usize,
    /// Its serial number.
    pub instance: u64,
    /// Its slot.
    pub slot: u16,
    /// Whether that is its own.
    pub holds_slot: bool,
    /// Whether it is on trial.
    pub trial: bool,
    /// What it was started with.
    #[serde(rename = "release")]
    pub revision: u64,
    /// Its weight.
    pub weight: u32,
    /// Where it is in its life.
    pub life: worker::Left,
    /// Whether its watchdog runs.
    pub watched: bool,
    /// How its process is found again.
    #[serde(flatten)]
    pub process: SavedProcess,
    /// Its sockets.
    #[serde(rename = "places")]
    pub sockets: Vec<SavedSocket>,
}

/// How the process of a worker is found again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedProcess {
    /// What it is known by, if it runs.
    #[serde(rename = "process")]
    pub identity: Option<Identity>,
    /// What it and all that it starts are in, if it has that.
    #[serde(default)]
    pub cgroup: Option<PathBuf>,
    /// The path of its notification socket, and the user and group that own it.
    pub notify: Option<(PathBuf, Option<(u32, u32)>)>,
}

/// One socket of a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedSocket {
    /// Its listener, as bound.
    pub listener: Listener,
    /// SO_COOKIE.
    pub cookie: u64,
    /// What the counter of the slot said when the worker got it.
    pub selected_before: u64,
}

/// The file of one service.
pub struct StateFile {
    directory: PathBuf,
    service: String,
    failure: Option<Failure>,
    /// The copies.
    written: [Option<Inode>; 2],
}

/// The last write failed.
struct Failure {
    /// Why, in words.
    what: String,
    again_at: Instant,
}

/// What could not be written is tried again this often.
const AGAIN: Duration = Duration::from_secs(1);

impl SavedService {
    /// Where it is written down.
    #[must_use]
    pub fn file(&self, runtime_dir: &Path) -> StateFile {
        StateFile::new(runtime_dir, self.abandoned.as_ref().unwrap_or(&self.config.name))
    }
}

impl StateFile {
    /// Of the service with this name.
    #[must_use]
    pub fn new(runtime_dir: &Path, service: &str) -> Self {
        Self {
            directory: directory(runtime_dir),
            service: service.to_owned(),
            failure: None,
            written: [None; 2],
        }
    }

    /// The service.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// When to write again what could not be written.
    #[must_use]
    pub fn again_at(&self) -> Option<Instant> {
        self.failure.as_ref().map(|failure| failure.again_at)
    }

    /// Why the file is not what it should be.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_ref().map(|failure| &*failure.what)
    }

    /// Whether both copies are those that were written last, whatever is in them.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.copies().iter().zip(self.written).all(|(copy, written)| host::is_there(copy, written))
    }

    /// Writes both copies. Where that fails (a full disk, say) the service goes on, says so once, and
    /// tries again at [`StateFile::again_at`].
    pub fn write(&mut self, state: &SavedService) {
        let written = serialized(state).and_then(|text| {
            if !self.directory.exists() {
                make_directory(&self.directory)?;
            }
            self.copies().iter().try_for_each(|copy| {
                let new = copy.with_extension("new");
                let _ = fs::remove_file(&new);
                let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
                file.write_all(&text)?;
                fs::rename(&new, copy)
            })
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
            // What is missing needs no removing.
            let _ = fs::remove_file(&copy);
            let _ = fs::remove_file(copy.with_extension("new"));
        }
    }

    fn copies(&self) -> [PathBuf; 2] {
        ["state", "copy"].map(|kind| self.directory.join(format!("{}.{kind}", self.service)))
    }
}

/// A name for what cannot be taken over of a service.
#[must_use]
pub fn abandoned_name(service: &str) -> String {
    // No service has a name with a plus.
    format!("{service}+{:016x}", host::random())
}

/// Where all of them are.
#[must_use]
pub fn directory(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("state")
}

/// Makes that directory.
pub fn make_directory(directory: &Path) -> io::Result<()> {
    host::make_directory(directory, 0o700)
}

/// What an earlier daemon left in this runtime directory: the whole copies of this boot, and what is
/// wrong with others.
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

/// The same, whatever boot it is of; changes nothing.
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

/// The text of a state file.
pub fn serialized(state: &SavedService) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(state)?;
    let mut text = format!("{:016x}\n", xxh3_64(&json)).into_bytes();
    text.extend(json);
    Ok(text)
}

/// Reads the text of a state file, if it is whole and of this version.
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
