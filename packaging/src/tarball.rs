//! A tarball, to be unpacked by hand: all files below one folder.

use anyhow::Result;

use crate::about::{NAME, VERSION};
use crate::archive::Archive;
use crate::list::{File, compressed};

/// The file's name.
pub(crate) fn name(architecture: &str) -> String {
    format!("{}.tar.gz", folder(architecture))
}

/// The bytes of the tarball.
pub(crate) fn tarball(files: &[File], architecture: &str, date: u64) -> Result<Vec<u8>> {
    let mut archive = Archive::new(date);
    for file in files {
        archive.file(&format!("{}{}", folder(architecture), file.path), file.mode, &file.content)?;
    }
    compressed(&archive.finish()?)
}

fn folder(architecture: &str) -> String {
    format!("{NAME}-{VERSION}-{architecture}-linux-static")
}
