//! `bench`: runs the measurements, each beside its baseline in the same run. Not: the measurements (`bench/`).

use anyhow::Result;

use crate::run::needs_root;
use crate::shell::{self, cargo, prepend, quietly, repository};
use crate::{apt, build, build_ebpf, packages};

/// Packages of the servers that are measured for comparison.
const PEERS: &[&str] = &["haproxy", "nginx", "libnginx-mod-stream"];

#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum What {
    /// Nanoseconds per decision, from the kernel's run-time statistics
    Decision,
    /// Time to compute and publish a change of the table
    Table,
}

/// Measures one thing, or everything with a report.
pub(crate) fn run(what: Option<What>, quick: bool, record: bool, only: &[String]) -> Result<()> {
    needs_root("measuring")?;
    let peers = if what.is_none() && apt::available() {
        Some(packages::unpacked("bench-programs", PEERS)?)
    } else {
        None
    };
    build::run()?;
    build_ebpf::package("bench-ebpf")?;
    let run = |bench: &str| cargo(&["run", "--release", "--quiet", "--package", "bench", "--bin", bench]);
    match what {
        Some(What::Decision) => return shell::run(&mut run("bench-decision")),
        Some(What::Table) => return shell::run(&mut run("bench-table")),
        None => {}
    }
    shell::step("building the benchmark", || {
        // `bench` runs `bench-decision`.
        let bins = ["--bin", "bench", "--bin", "bench-decision"];
        quietly(cargo(&["build", "--release", "--quiet", "--package", "bench"]).args(bins))?;
        // The helper server, which the measurements start.
        quietly(&mut cargo(&["build", "--release", "--quiet", "--package", "tests", "--bin", "server"]))
    })?;
    let mut all = run("bench");
    if let Some(root) = peers {
        prepend(&mut all, "PATH", &packages::wrapped(&root, &["haproxy", "nginx"])?);
        all.env("NGINX_MODULES", root.join("usr/lib/nginx/modules"));
    }
    let to = if record { repository().join("docs/bench") } else { build::target().join("bench") };
    all.arg("--").arg(to);
    if quick {
        all.arg("--quick");
    }
    shell::run(all.args(only))
}
