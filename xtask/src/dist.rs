//! `dist`: builds what is packed, and has packages made of it (`packaging/`) in target/dist.

mod trial;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::build::target;
use crate::build_ebpf;
use crate::shell::{self, cargo, find, quietly, repository, same_paths_everywhere, step};

/// The target that is built for the system's libraries, for .deb and .rpm.
const DYNAMIC: &str = "x86_64-unknown-linux-gnu";

/// Targets whose binaries need no library, for tarballs and images.
const STATIC: [&str; 2] = ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl"];

pub(crate) fn run(test: bool) -> Result<()> {
    let clean = if test { Some(trial::clean_root()?) } else { None };
    for triple in STATIC.iter().chain([&DYNAMIC]) {
        has_library(triple)?;
    }
    build_ebpf::run()?;
    let (work, to) = (target().join("packaging"), folder());
    let _ = fs::remove_dir_all(&to);
    fs::create_dir_all(&to).with_context(|| format!("cannot make {}", to.display()))?;
    let mut pack = cargo(&["run", "--quiet", "--package", "packaging", "--"]);
    pack.args(["--date", &date()?]).arg("--dynamic").arg(named(DYNAMIC)?);
    for target in STATIC {
        pack.arg("--static").arg(named(target)?);
    }
    shell::run(pack.arg("--made").arg(work.join("made")).arg("--to").arg(to))?;
    clean.map_or(Ok(()), |clean| trial::run(&clean))
}

/// Where the packages are.
pub(crate) fn folder() -> PathBuf {
    target().join("dist")
}

/// The date of everything in the packages: SOURCE_DATE_EPOCH, or that of the last commit.
fn date() -> Result<String> {
    if let Ok(date) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(date);
    }
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%ct"]).current_dir(repository());
    let date = quietly(&mut git)
        .context("the packages have the date of the last commit; without git set SOURCE_DATE_EPOCH")?;
    Ok(date.trim().to_owned())
}

/// Builds for a target; returns `ARCHITECTURE=BINARY`.
fn named(triple: &str) -> Result<String> {
    let work = target().join("packaging");
    step(&format!("building for {triple}"), || {
        let mut build = cargo(&[
            "build",
            "--quiet",
            "--profile",
            "dist",
            "--package",
            "reuseport-lb",
            "--target",
            triple,
        ]);
        let mut flags = same_paths_everywhere();
        if triple.ends_with("-musl") {
            // The compiler's own linker and start files: no C compiler for that target is needed.
            flags.extend(["-Clinker=rust-lld", "-Clink-self-contained=yes"].map(String::from));
        }
        build.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}")).env_remove("RUSTFLAGS");
        shell::run(build.arg("--bin").arg("reuseport-lb").env("CARGO_TARGET_DIR", &work))
    })?;
    let binary = work.join(triple).join("dist/reuseport-lb");
    let architecture = triple.split('-').next().unwrap_or_default();
    Ok(format!("{architecture}={}", binary.display()))
}

/// Gets the standard library for a target by rustup if the compiler lacks it.
fn has_library(triple: &str) -> Result<()> {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "target-libdir", "--target", triple]).current_dir(repository());
    if PathBuf::from(quietly(&mut rustc)?.trim()).is_dir() {
        return Ok(());
    }
    if find("rustup").is_none() {
        bail!(
            "the compiler has no standard library for {triple}: install it, with rustup by `rustup target add {triple}`"
        );
    }
    let mut add = Command::new("rustup");
    step(&format!("downloading the standard library for {triple}"), || {
        quietly(add.args(["target", "add", triple]).current_dir(repository())).map(drop)
    })
}
