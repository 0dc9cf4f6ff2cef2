//! `ci`: everything that must pass, quick checks first. Tests come last, so that the run ends with their summary; some
//! run under the oldest supported kernel as well.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use crate::build::target;
use crate::run::is_root;
use crate::shell::{self, KERNEL_PROGRAMS, cargo, cargo_for_all, step};
use crate::{build_ebpf, fuzz, msrv, setup, test, tidy, vm};

/// Seconds for each fuzz target: enough for the seeds and many thousand inputs made from them.
const FUZZING: u64 = 6;

/// Most packages that the client, which other programs link, is built from, with itself.
const PACKAGES_OF_CLIENT: usize = 20;

pub(crate) fn run() -> Result<()> {
    step("format", || shell::run(&mut cargo(&["fmt", "--all", "--check"])))?;
    step("format of the fuzz targets", || {
        shell::run(&mut cargo(&["fmt", "--manifest-path", "tests/fuzz/Cargo.toml", "--check"]))
    })?;
    step("tidy", tidy::run)?;
    step("packages of the client", || {
        let arguments = ["tree", "--package", "reuseport-lb-client", "--edges", "normal", "--prefix", "none"];
        let tree = shell::quietly(&mut cargo(&arguments))?;
        let of = |line: &str| line.split(' ').take(2).map(str::to_owned).collect::<Vec<String>>();
        let packages: BTreeSet<Vec<String>> = tree.lines().filter(|line| !line.is_empty()).map(of).collect();
        let count = packages.len();
        ensure!(count <= PACKAGES_OF_CLIENT, "{count} packages, more than {PACKAGES_OF_CLIENT}:\n{tree}");
        Ok(())
    })?;
    step("the kernel programs are what their sources make", || {
        if !build_ebpf::compare()? {
            eprintln!("  NOT compared: another compiler has made those in reuseport-lb/objects");
        }
        Ok(())
    })?;
    step("clippy", || {
        let mut clippy = cargo_for_all("clippy");
        shell::run(clippy.args(["--all-targets", "--", "-D", "warnings"]))
    })?;
    step("clippy of the kernel programs", || {
        // By the compiler of everything else, for this machine: that of the BPF target may have no clippy.
        let mut clippy = cargo(&["clippy", "--quiet"]);
        clippy.args(KERNEL_PROGRAMS.iter().flat_map(|it| ["--package", it])).args(["--", "-D", "warnings"]);
        // aya-ebpf uses an unstable feature, and without std a panic cannot unwind.
        clippy.env("RUSTC_BOOTSTRAP", "1").env("CARGO_PROFILE_DEV_PANIC", "abort");
        shell::run(clippy.env("CARGO_TARGET_DIR", target().join("ebpf-clippy")))
    })?;
    msrv::check()?;
    step("tests of xtask", || shell::quietly(&mut cargo(&["test", "--quiet", "--package", "xtask"])))?;
    step("warnings of the kernel programs", || {
        let toolchain = setup::run()?;
        for package in KERNEL_PROGRAMS {
            let mut check = toolchain.cargo("check", package, &target().join("ebpf-check"))?;
            shell::run(check.env("CARGO_ENCODED_RUSTFLAGS", "-Dwarnings"))?;
        }
        Ok(())
    })?;
    step("documentation", || {
        let mut doc = cargo_for_all("doc");
        shell::run(doc.args(["--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    fuzz::run(&fuzz::Arguments::for_seconds(FUZZING))?;
    // Without root, `test` runs all privileged tests in a virtual machine.
    if is_root()? {
        vm::run_short(&[])?;
    }
    test::run(&[])
}
