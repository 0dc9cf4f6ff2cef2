//! `ci`: all that must pass, in the order in which it fails soonest; the tests come last, so that
//! the run ends with their summary; some of them under the oldest kernel that is tried as well.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use crate::build::target;
use crate::run::is_root;
use crate::shell::{self, cargo, step};
use crate::{build_ebpf, fuzz, msrv, setup, test, tidy, vm};

/// For each fuzz target: long enough to run the seeds and many thousand inputs made from them.
const FUZZING: u64 = 4;

/// Other programs link the client: so many packages at most, with itself.
const PACKAGES_OF_CLIENT: usize = 20;

pub(crate) fn run() -> Result<()> {
    let ours = |arguments: &[&str]| {
        let mut command = cargo(arguments);
        command.env("CARGO_TARGET_DIR", target());
        command
    };
    step("format", || shell::run(&mut ours(&["fmt", "--all", "--check"])))?;
    step("format of the fuzz targets", || {
        shell::run(&mut ours(&["fmt", "--manifest-path", "tests/fuzz/Cargo.toml", "--check"]))
    })?;
    step("tidy", tidy::run)?;
    step("packages of the client", || {
        let arguments = ["tree", "--package", "reuseport-lb-client", "--edges", "normal", "--prefix", "none"];
        let tree = shell::quietly(&mut ours(&arguments))?;
        let of = |line: &str| line.split(' ').take(2).map(str::to_owned).collect::<Vec<String>>();
        let packages: BTreeSet<Vec<String>> = tree.lines().filter(|line| !line.is_empty()).map(of).collect();
        let count = packages.len();
        ensure!(count <= PACKAGES_OF_CLIENT, "{count} packages, more than {PACKAGES_OF_CLIENT}:\n{tree}");
        Ok(())
    })?;
    build_ebpf::run()?;
    step("clippy", || {
        shell::run(&mut ours(&[
            "clippy",
            "--workspace",
            "--exclude",
            "reuseport-lb-ebpf",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]))
    })?;
    msrv::check()?;
    step("tests of xtask", || shell::quietly(&mut ours(&["test", "--quiet", "--package", "xtask"])))?;
    step("warnings of the kernel program", || {
        // Clippy is not there for the compiler that builds it.
        let mut check = setup::run()?.cargo("check", "target/ebpf-check")?;
        shell::run(check.env("RUSTFLAGS", "-D warnings"))
    })?;
    step("documentation", || {
        let mut doc = ours(&["doc", "--workspace", "--exclude", "reuseport-lb-ebpf", "--no-deps", "--quiet"]);
        shell::run(doc.env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    fuzz::run(&fuzz::Arguments::for_seconds(FUZZING))?;
    // Without root all of them are run there.
    if is_root()? {
        vm::run_short(&[])?;
    }
    test::run(&[])
}
