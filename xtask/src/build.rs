//! `build`: builds `target/release/reuseport-lb`, with the kernel program in it.

use std::path::PathBuf;

use anyhow::Result;

use crate::build_ebpf;
use crate::shell::{self, cargo, repository};

pub(crate) fn run() -> Result<()> {
    build_ebpf::run()?;
    shell::run(cargo(&["build", "--release", "--package", "reuseport-lb"]).env("CARGO_TARGET_DIR", target()))
}

/// Path of the binary after [`run`].
pub(crate) fn binary() -> PathBuf {
    target().join("release/reuseport-lb")
}

/// Cargo's target folder. The README names it, so CARGO_TARGET_DIR does not change it.
pub(crate) fn target() -> PathBuf {
    repository().join("target")
}
