//! `build`: builds `target/release/reuseport-lb`, with the kernel program in it.

use std::path::PathBuf;

use anyhow::Result;

use crate::build_ebpf;
use crate::shell::{self, cargo, repository};

pub(crate) fn run() -> Result<()> {
    build_ebpf::run()?;
    shell::run(&mut cargo(&["build", "--release", "--package", "reuseport-lb"]))
}

/// Path of the binary after [`run`].
pub(crate) fn binary() -> PathBuf {
    target().join("release/reuseport-lb")
}

/// Cargo's target folder: CARGO_TARGET_DIR, from where xtask was started, or `target` in the repository.
pub(crate) fn target() -> PathBuf {
    let wanted = std::env::var_os("CARGO_TARGET_DIR").filter(|folder| !folder.is_empty());
    let wanted = wanted.and_then(|folder| std::path::absolute(folder).ok());
    wanted.unwrap_or_else(|| repository().join("target"))
}
