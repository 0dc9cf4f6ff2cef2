//! `setup`: finds or fetches the toolchain of the kernel program. A rustup nightly with rust-src
//! and a bpf-linker if they are installed; else packages of the distribution, unpacked into a cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, anyhow, bail};

use crate::apt;
use crate::packages;
use crate::shell::{cargo, find, needs_cxx, prepend, quietly, step, unlocked};

/// A compiler with `core` for the BPF target already built, and the LLVM that it was built with.
const DEBIAN: &[&str] =
    &["rustc-web", "libstd-rust-web-dev", "libstd-rust-web-dev-bpf", "llvm-22", "llvm-22-dev"];

/// Version of bpf-linker that is built with LLVM 22; newer ones need other versions.
const BPF_LINKER: &str = "0.13.0";

const WANTED: &str = "building the kernel program needs a nightly Rust with its source and bpf-linker. Run
  rustup toolchain install nightly --component rust-src
  cargo install bpf-linker
and try again.";

/// The toolchain of the kernel program.
pub(crate) enum Toolchain {
    /// rustup's nightly, which builds `core` itself, and a bpf-linker on the PATH.
    Nightly,
    /// Debian's packages, unpacked below `root`, and a bpf-linker built against them in `tools`.
    Unpacked { root: PathBuf, tools: PathBuf },
}

/// Finds or fetches the toolchain.
pub(crate) fn run() -> Result<Toolchain> {
    if find("bpf-linker").is_some() && nightly_has_source() {
        return Ok(Toolchain::Nightly);
    }
    if !apt::available() {
        bail!(WANTED);
    }
    let root = packages::unpacked("toolchain", DEBIAN)
        .map_err(|error| anyhow!("{error:#}\nWithout these packages {WANTED}"))?;
    let tools = packages::cache()?.join(format!("bpf-linker-{BPF_LINKER}"));
    if !tools.join("bin/bpf-linker").is_file() {
        needs_cxx("bpf-linker")?;
        step(&format!("building bpf-linker {BPF_LINKER}"), || {
            let mut install = cargo(&["install", "bpf-linker", "--version", BPF_LINKER]);
            install.args(["--no-default-features", "--features", "llvm-22", "--root"]).arg(&tools);
            // It is built once, for all target folders: in a temporary one.
            install.env_remove("CARGO_TARGET_DIR");
            // Without this bpf-linker would link against another LLVM of the system, and fail.
            install.env("LLVM_PREFIX", root.join("usr/lib/llvm-22"));
            prepend(&mut install, "LD_LIBRARY_PATH", &packages::libraries(&root)?);
            quietly(&mut install)
        })?;
    }
    Ok(Toolchain::Unpacked { root, tools })
}

impl Toolchain {
    /// One line of text, for the output of `setup`.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Nightly => "rustup's nightly with rust-src, bpf-linker on the PATH".into(),
            Self::Unpacked { root, .. } => format!("Debian's packages, unpacked in {}", root.display()),
        }
    }

    /// Makes the command `cargo VERB` of the kernel program for the BPF target, with `target` as its target folder.
    pub(crate) fn cargo(&self, verb: &str, package: &str, target: &Path) -> Result<Command> {
        let arguments = &[
            verb,
            "--locked",
            "--release",
            "--quiet",
            "--target",
            "bpfel-unknown-none",
            "--package",
            package,
            "--target-dir",
            &*target.to_string_lossy(),
        ];
        let mut command = match self {
            Self::Nightly => {
                let mut command = Command::new("cargo");
                command.arg("+nightly").args(arguments).args(["-Z", "build-std=core"]);
                command.current_dir(crate::shell::repository());
                // Set by the running cargo; they would override `+nightly`.
                command.env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTC").env_remove("CARGO");
                command
            }
            Self::Unpacked { root, tools } => {
                let mut command = unlocked(arguments);
                command.env("RUSTC", root.join("usr/bin/rustc"));
                // aya-ebpf uses an unstable feature.
                command.env("RUSTC_BOOTSTRAP", "1");
                prepend(&mut command, "LD_LIBRARY_PATH", &packages::libraries(root)?);
                prepend(&mut command, "PATH", &tools.join("bin"));
                command
            }
        };
        let mut flags = vec!["-Cdebuginfo=2".into(), "-Clink-arg=--btf".into()];
        flags.extend(crate::shell::same_paths_everywhere());
        command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}")).env_remove("RUSTFLAGS");
        Ok(command)
    }

    /// Version of the compiler.
    pub(crate) fn version(&self) -> Result<String> {
        let mut rustc = match self {
            Self::Nightly => {
                let mut rustc = Command::new("rustc");
                rustc.arg("+nightly").env_remove("RUSTUP_TOOLCHAIN");
                rustc
            }
            Self::Unpacked { root, .. } => {
                let mut rustc = Command::new(root.join("usr/bin/rustc"));
                prepend(&mut rustc, "LD_LIBRARY_PATH", &packages::libraries(root)?);
                rustc
            }
        };
        Ok(quietly(rustc.arg("--version"))?.trim().to_owned())
    }
}

fn nightly_has_source() -> bool {
    let Ok(sysroot) = quietly(
        Command::new("rustc").args(["+nightly", "--print", "sysroot"]).env_remove("RUSTUP_TOOLCHAIN"),
    ) else {
        return false;
    };
    PathBuf::from(sysroot.trim()).join("lib/rustlib/src/rust/library/core").is_dir()
}
