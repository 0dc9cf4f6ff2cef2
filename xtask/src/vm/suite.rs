//! The tests that run in the guest: the same binaries that `test` runs on the host.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::exceptions;
use crate::shell::quietly;
use crate::{build, build_ebpf, test};

/// A test of a test binary.
pub(super) struct Test {
    /// Name in documents, `FILE::name`.
    pub(super) name: String,
    /// Working directory: the folder of the test's package.
    folder: PathBuf,
    binary: PathBuf,
    /// Name in the binary.
    inner: String,
}

impl Test {
    /// The test's line in the list for the guest.
    pub(super) fn line(&self) -> String {
        let Self { name, folder, binary, inner } = self;
        format!("{name}\t{}\t{}\t{inner}\n", folder.display(), binary.display())
    }
}

/// Builds everything; returns the privileged tests, and the unit tests of the kernel layer.
pub(super) fn tests() -> Result<Vec<Test>> {
    build::run()?;
    build_ebpf::example()?;
    let mut cargo = test::cargo_test();
    cargo.args(["--no-run", "--message-format=json-render-diagnostics"]).stderr(Stdio::inherit());
    let output = cargo.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("building the tests failed ({})", output.status);
    }
    let mut tests = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else { continue };
        let text = |key: &str| message.pointer(key).and_then(Value::as_str);
        let (Some(binary), Some(manifest), Some(target), Some(kind)) =
            (text("/executable"), text("/manifest_path"), text("/target/name"), text("/target/kind/0"))
        else {
            continue;
        };
        let folder = Path::new(manifest).parent().unwrap_or(Path::new("/"));
        let ours: fn(&str) -> bool = match (folder.file_name().and_then(|name| name.to_str()), kind) {
            (Some("tests"), "test") => |_| true,
            (Some("reuseport-lb"), "lib") => |inner| inner.starts_with("kernel::"),
            _ => continue,
        };
        let list = quietly(Command::new(binary).args(["--list", "--format", "terse"]))?;
        for inner in list.lines().filter_map(|line| line.strip_suffix(": test")).filter(|inner| ours(inner)) {
            tests.push(Test {
                name: format!("{target}::{inner}"),
                folder: folder.to_owned(),
                binary: binary.into(),
                inner: inner.to_owned(),
            });
        }
    }
    tests.sort_by(|a, b| a.name.cmp(&b.name));
    exceptions::check(&tests)?;
    Ok(tests)
}

/// The tests whose names contain one of `filter`; all if that is empty.
pub(super) fn matching(mut tests: Vec<Test>, filter: &[String]) -> Vec<Test> {
    tests.retain(|test| filter.is_empty() || filter.iter().any(|part| test.name.contains(part)));
    tests
}
