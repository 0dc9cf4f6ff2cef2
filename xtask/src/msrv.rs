//! Checks the workspace with the oldest compiler that the manifest promises (`rust-version`).

use std::process::Command;

use anyhow::{Context, Result};

use crate::build::target;
use crate::shell::{self, KERNEL_PROGRAMS, find, quietly, repository, step};

/// Where the promised compiler comes from on this machine.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    /// It is the compiler in use, which clippy has checked everything with.
    InUse,
    /// rustup has it, or downloads it.
    Rustup,
    /// It is not available.
    None,
}

/// Checks everything with the promised compiler; prints a note if that is not available.
pub(crate) fn check() -> Result<()> {
    let manifest =
        std::fs::read_to_string(repository().join("Cargo.toml")).context("cannot read Cargo.toml")?;
    let promised = promised(&manifest).context("Cargo.toml has no `rust-version`")?;
    match way(promised, &quietly(Command::new("rustc").arg("--version"))?, find("rustup").is_some()) {
        Way::InUse => eprintln!("  rust-version {promised} is the compiler in use: checked by clippy"),
        Way::None => {
            eprintln!("  NOT checked: that everything compiles with Rust {promised} (no rustup on the PATH)");
        }
        Way::Rustup => {
            let mut install = outside("rustup");
            install.args(["toolchain", "install", promised, "--profile", "minimal", "--no-self-update"]);
            if let Err(error) = quietly(&mut install) {
                eprintln!("  NOT checked: that everything compiles with Rust {promised} ({error:#})");
                return Ok(());
            }
            step(&format!("everything with Rust {promised}"), || {
                let mut check = outside("rustup");
                check.args(["run", promised, "cargo", "check", "--locked", "--quiet", "--workspace"]);
                check.arg("--all-targets").args(KERNEL_PROGRAMS.iter().flat_map(|it| ["--exclude", it]));
                shell::run(check.env("CARGO_TARGET_DIR", target().join("msrv")))
            })?;
        }
    }
    Ok(())
}

/// `program` in the repository, without the variables that the running cargo has set for its own toolchain.
fn outside(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(repository());
    for variable in ["RUSTUP_TOOLCHAIN", "RUSTC", "CARGO"] {
        command.env_remove(variable);
    }
    command
}

fn promised(manifest: &str) -> Option<&str> {
    let line = manifest.lines().find_map(|line| line.strip_prefix("rust-version = "))?;
    Some(line.trim().trim_matches('"'))
}

/// `used`: the output of `rustc --version`.
fn way(promised: &str, used: &str, rustup: bool) -> Way {
    let used = used.split(' ').nth(1).unwrap_or_default();
    let same = used == promised || used.strip_prefix(promised).is_some_and(|patch| patch.starts_with('.'));
    match (same, rustup) {
        (true, _) => Way::InUse,
        (false, true) => Way::Rustup,
        (false, false) => Way::None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Way, promised, way};

    #[test]
    fn the_promise_is_read() {
        assert_eq!(promised("[workspace.package]\nrust-version = \"1.95\"\n"), Some("1.95"));
        assert_eq!(promised("edition = \"2024\"\n"), None);
    }

    #[test]
    fn a_patch_of_the_promised_version_is_that_version() {
        assert_eq!(way("1.95", "rustc 1.95.3 (59807616e 2026-04-14)\n", true), Way::InUse);
        assert_eq!(way("1.95.1", "rustc 1.95.1 (59807616e 2026-04-14)", false), Way::InUse);
        assert_eq!(way("1.9", "rustc 1.95.0 (59807616e 2026-04-14)", true), Way::Rustup);
        assert_eq!(way("1.95", "rustc 1.97.0-nightly (abc 2026-06-01)", false), Way::None);
    }
}
