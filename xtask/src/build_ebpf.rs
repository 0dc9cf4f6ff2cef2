//! `build-ebpf`: builds the kernel programs, as target/ebpf/…/release. Cargo does nothing if they are up to date.

use anyhow::Result;

use crate::setup;
use crate::shell::{self, quietly, repository, step};

/// The manifest of the example.
const EXAMPLE: &str = "examples/key/rust/Cargo.toml";

pub(crate) fn run() -> Result<()> {
    package("reuseport-lb-ebpf")
}

/// Builds the example of a key function in Rust, a workspace of its own, as target/ebpf/…/release/rtp.
pub(crate) fn example() -> Result<()> {
    let toolchain = setup::run()?;
    step("building the example of a key function in Rust", || {
        quietly(toolchain.cargo("build", "rtp", "target/ebpf")?.args(["--manifest-path", EXAMPLE]))
    })?;
    Ok(())
}

/// Builds the kernel program or programs of a package.
pub(crate) fn package(package: &str) -> Result<()> {
    let toolchain = setup::run()?;
    let build = || toolchain.cargo("build", package, "target/ebpf");
    let fresh = repository().join("target/ebpf/bpfel-unknown-none/release/reuseport-lb").is_file();
    if !fresh {
        eprintln!("  kernel program: {}", toolchain.describe());
    }
    step("building the kernel program", || {
        // If it fails, it runs once more with its output in view: the compiler's messages then keep their colours.
        quietly(&mut build()?).or_else(|_| shell::run(&mut build()?).map(|()| String::new()))
    })?;
    Ok(())
}
