//! The guest's first file system: a cpio archive with busybox, the modules that are needed to mount the host's
//! root, and the scripts that the guest runs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::kernel::Kernel;

const INIT: &str = include_str!("init.sh");
const TESTS: &str = include_str!("tests.sh");

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive in the format that the kernel unpacks (initramfs buffer format, "newc").
struct Archive(Vec<u8>);

impl Archive {
    fn add(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) -> Result<()> {
        let length = u32::try_from(content.len()).context("too large for an initramfs")?;
        let name_length = u32::try_from(name.len() + 1)?;
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let fields = [0, mode, 0, 0, 1, 0, length, 0, 0, major, minor, name_length, 0];
        self.0.extend_from_slice(b"070701");
        for field in fields {
            self.0.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(0);
        self.pad();
        self.0.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// Writes the archive for `kernel` to `file`. `environment`: a script; `list`: the input of `tests.sh`.
pub(super) fn write(
    file: &Path,
    busybox: &Path,
    kernel: &Kernel,
    environment: &str,
    list: &str,
) -> Result<()> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let none = (0, 0);
    let mut archive = Archive(Vec::new());
    for directory in ["bin", "dev", "modules", "vm"] {
        archive.add(directory, DIRECTORY, none, b"")?;
    }
    archive.add("dev/console", CHARACTER_DEVICE, (5, 1), b"")?;
    archive.add("init", PROGRAM, none, INIT.as_bytes())?;
    archive.add("bin/busybox", PROGRAM, none, &read(busybox)?)?;
    for (nth, module) in kernel.modules_in_order()?.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.add(&format!("modules/{nth:02}-{name}"), FILE, none, &read(module)?)?;
    }
    for (name, content) in [("tests.sh", TESTS), ("environment", environment), ("list", list)] {
        archive.add(&format!("vm/{name}"), FILE, none, content.as_bytes())?;
    }
    archive.add("TRAILER!!!", 0, none, b"")?;
    fs::write(file, archive.0).with_context(|| format!("cannot write {}", file.display()))
}
