//! `build-ebpf`: the kernel program, as target/ebpf/…/reuseport-lb. Cargo knows when there is
//! nothing to do.

use anyhow::Result;

use crate::setup;
use crate::shell::{self, quietly, repository, step};

pub(crate) fn run() -> Result<()> {
    let toolchain = setup::run()?;
    let build = || toolchain.cargo("build", "target/ebpf");
    let fresh = repository().join("target/ebpf/bpfel-unknown-none/release/reuseport-lb").is_file();
    if !fresh {
        eprintln!("  kernel program: {}", toolchain.describe());
    }
    step("building the kernel program", || {
        // Once more in view if it fails: the compiler's messages keep their colours.
        quietly(&mut build()?).or_else(|_| shell::run(&mut build()?).map(|()| String::new()))
    })?;
    Ok(())
}
