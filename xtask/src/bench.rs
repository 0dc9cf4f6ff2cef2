//! `bench`: measurements, each beside its baseline in the same run.

use anyhow::{Result, bail};

use crate::build;
use crate::run::is_root;
use crate::shell::{self, cargo};

#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum What {
    /// Nanoseconds per decision, from the kernel's run-time statistics
    Decision,
    /// Time to compute and publish a change of the table
    Table,
}

pub(crate) fn run(what: What) -> Result<()> {
    if !is_root()? {
        bail!("measuring needs root, for the kernel's statistics");
    }
    build::run()?;
    let bench = match what {
        What::Decision => "bench-decision",
        What::Table => "bench-table",
    };
    let mut run = cargo(&["run", "--release", "--quiet", "--package", "tests", "--bin", bench]);
    shell::run(run.env("CARGO_TARGET_DIR", build::target()))
}
