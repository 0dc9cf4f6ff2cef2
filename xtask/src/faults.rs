//! `faults`: runs the fault matrix and writes its rows into docs/FAULTS.md; rows of other kernels stay there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::run::needs_root;
use crate::shell::{cargo, prepend, repository};
use crate::{build, test};

/// Files in `tests/tests` with the tests of the fault matrix.
pub(crate) const FILES: [&str; 3] = ["faults", "daemon_faults", "worker_faults"];

/// Prefix of a row in the output of a test.
const MARK: &str = "@row ";

const HEAD: &str = "# Faults

What happens to clients when something breaks, as a run has shown it. Each row is a test of `faults.rs`, `daemon_faults.rs` or
`worker_faults.rs` in `tests/tests`; `cargo xtask faults` runs them and writes this table, `cargo xtask vm -- faults:: | cargo xtask faults
--rows -` does the same under Linux 6.1.

Unless a row says otherwise a service of four workers is under load over TCP and UDP: 8 clients that open a new connection for each
request, 40 connections that are kept, 16 flows of datagrams, `stall_timeout` 300 ms. *Lost* is what no client could get an answer to, and
connections that broke. A connection that a worker had accepted is in that process and goes with it; a test fails if anything
is lost that is neither that nor told in its row. Times are of one run, on two virtual cores that had other work; under 6.1 on an emulated processor.

| fault | Linux | a client sees | lost | `status` says | recovered after |
|---|---|---|---|---|---|
";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Take the rows from the output of another run, `-` for standard input, and run nothing
    #[arg(long, value_name = "FILE")]
    rows: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let said = match &arguments.rows {
        None => matrix()?,
        Some(file) if file == Path::new("-") => std::io::read_to_string(std::io::stdin())?,
        Some(file) => fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?,
    };
    let rows: Vec<Row> =
        said.lines().filter_map(|line| line.strip_prefix(MARK)).map(Row::parse).collect::<Result<_>>()?;
    if rows.is_empty() {
        bail!("there is no row in it");
    }
    let file = repository().join("docs/FAULTS.md");
    let known = fs::read_to_string(&file).unwrap_or_default();
    fs::write(&file, page(&known, &rows)).with_context(|| format!("cannot write {}", file.display()))?;
    println!("{} rows in {}", rows.len(), file.display());
    Ok(())
}

/// Runs all tests of the matrix, which must pass; returns their output.
fn matrix() -> Result<String> {
    needs_root("the fault matrix")?;
    let programs = test::programs()?;
    build::run()?;
    let mut command = cargo(&["test", "--quiet", "--package", "tests"]);
    command.args(FILES.map(|file| format!("--test={file}")));
    command.args(["--", "--nocapture", "--test-threads", "1"]);
    for programs in programs {
        prepend(&mut command, "PATH", &programs);
    }
    let output = command.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{said}\nthe fault matrix failed ({})", output.status);
    }
    Ok(said)
}

/// A row of the table.
struct Row {
    fault: String,
    kernel: String,
    rest: String,
}

impl Row {
    fn parse(json: &str) -> Result<Self> {
        let row: Value = serde_json::from_str(json).with_context(|| format!("not a row: {json}"))?;
        let text = |key: &str| row[key].as_str().unwrap_or_default().trim().replace('|', "\\|");
        let rest = ["sees", "lost", "status", "recovered"].map(text).join(" | ");
        Ok(Self { fault: text("fault"), kernel: text("kernel"), rest })
    }
}

/// Makes the page of `rows` and those rows of the page `known` that are of other kernels.
fn page(known: &str, rows: &[Row]) -> String {
    let mut order: Vec<&str> = Vec::new();
    let mut all: BTreeMap<(usize, Vec<u32>), String> = BTreeMap::new();
    let old = known.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.strip_suffix(" |")?.splitn(3, " | ");
        let (fault, kernel, rest) = (cells.next()?, cells.next()?, cells.next()?);
        kernel.starts_with(|it: char| it.is_ascii_digit()).then_some((fault, kernel, rest))
    });
    let new = rows.iter().map(|row| (&*row.fault, &*row.kernel, &*row.rest));
    for (fault, kernel, rest) in new.chain(old) {
        let at = order.iter().position(|it| *it == fault).unwrap_or_else(|| {
            order.push(fault);
            order.len() - 1
        });
        let version = kernel.split('.').map(|part| part.parse().unwrap_or(0)).collect();
        all.entry((at, version)).or_insert_with(|| format!("| {fault} | {kernel} | {rest} |\n"));
    }
    HEAD.to_owned() + &all.into_values().collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_other_kernels_stay() {
        let row = |kernel: &str, sees: &str| Row {
            fault: "fire".into(),
            kernel: kernel.into(),
            rest: format!("{sees} | b | c | d"),
        };
        let first = page("", &[row("6.18.44", "smoke")]);
        let second = page(&first, &[row("6.1.192", "ash")]);
        let third = page(&second, &[row("6.18.44", "flames")]);
        assert!(
            third
                .ends_with("| fire | 6.1.192 | ash | b | c | d |\n| fire | 6.18.44 | flames | b | c | d |\n"),
            "{third}"
        );
        assert!(!third.contains("smoke"));
    }
}
