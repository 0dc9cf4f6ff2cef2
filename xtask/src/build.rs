//! `build`: everything for use.

use std::path::PathBuf;

use anyhow::Result;

use crate::build_ebpf;
use crate::shell::{self, cargo, repository};

pub(crate) fn run() -> Result<()> {
    build_ebpf::run()?;
    shell::run(cargo(&["build", "--release", "--package", "reuseport-lb"]).env("CARGO_TARGET_DIR", target()))
}

/// Where the binary is after [`run`].
pub(crate) fn binary() -> PathBuf {
    target().join("release/reuseport-lb")
}

/// Where cargo puts things. The README promises the place, so the environment does not change it.
pub(crate) fn target() -> PathBuf {
    repository().join("target")
}
