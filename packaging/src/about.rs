//! What packages say of what is in them.

use crate::list::File;

pub(crate) const NAME: &str = "reuseport-lb";
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
pub(crate) const LICENCE: &str = "MIT OR Apache-2.0";
/// Nobody reads letters to it.
pub(crate) const MAINTAINER: &str = "reuseport-lb <packages@reuseport-lb.invalid>";
pub(crate) const SUMMARY: &str = "SO_REUSEPORT sockets for every worker of a server, picked in eBPF";
pub(crate) const DESCRIPTION: [&str; 3] = [
    "Every worker of a server gets its own SO_REUSEPORT socket, and an eBPF program in",
    "the kernel picks the socket by consistent hashing, so that workers can join, leave,",
    "crash and be replaced while existing flows stay where they are.",
];

/// What runs before and after files are installed and removed: the same scripts in .deb and .rpm.
pub(crate) mod scripts {
    pub(crate) const AFTER_INSTALLING: &str = include_str!("../scripts/after-installing.sh");
    pub(crate) const BEFORE_REMOVING: &str = include_str!("../scripts/before-removing.sh");
    pub(crate) const AFTER_REMOVING: &str = include_str!("../scripts/after-removing.sh");
}

/// A line for each file, for the list of what is in a package.
pub(crate) fn contents(package: &str, files: &[File]) -> String {
    let line = |file: &File| {
        let settings = if file.settings { "  (settings)" } else { "" };
        format!("  {:04o} {:>9} {}{settings}\n", file.mode, file.content.len(), file.path)
    };
    format!("{package}\n{}\n", files.iter().map(line).collect::<String>())
}
