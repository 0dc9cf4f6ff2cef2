//! Which sources the objects with the kernel programs were made from. The build script asks this, and xtask, which makes
//! the objects.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What the objects are made from, beside the versions of dependencies.
pub(crate) const FOLDERS: [&str; 2] = ["reuseport-lb-common", "reuseport-lb-ebpf"];

/// The file beside the objects with the digest of their sources in its first line.
pub(crate) const NAME: &str = "SOURCES";

/// Whether the objects in this folder were made from the sources in `repository`.
pub(crate) fn are_those_of(objects: &Path, repository: &Path) -> bool {
    let told = fs::read_to_string(objects.join(NAME)).unwrap_or_default();
    digest(repository).is_ok_and(|digest| told.lines().next() == Some(&digest))
}

/// A digest of the sources: whoever forgets to make the objects is told so. It does not protect from anybody.
pub(crate) fn digest(repository: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    for folder in FOLDERS {
        collect(&repository.join(folder), &mut files)?;
    }
    files.sort();
    let mut digest = Digest(0xcbf2_9ce4_8422_2325);
    for file in files {
        digest.add(file.strip_prefix(repository).unwrap_or(&file).to_string_lossy().as_bytes());
        digest.add(&fs::read(&file)?);
    }
    let lock = fs::read_to_string(repository.join("Cargo.lock"))?;
    for dependency in lock.split("\n\n").filter(|package| package.contains("\nname = \"aya-")) {
        digest.add(dependency.trim().as_bytes());
    }
    Ok(format!("{:016x}", digest.0))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// FNV-1a, 64 bits.
struct Digest(u64);

impl Digest {
    fn add(&mut self, bytes: &[u8]) {
        // With their number, so that nothing moves from one part to the next unnoticed.
        for byte in (bytes.len() as u64).to_le_bytes().iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}
