//! `fuzz`: a bounded run of each fuzz target in `tests/fuzz`, with libFuzzer and a stable toolchain.
//!
//! Does what cargo-fuzz does with a nightly, without sanitizers: these find memory errors, and nearly
//! all code that is fuzzed here is safe. The flags for coverage are stable ones of rustc.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::build::target;
use crate::shell::{self, needs_cxx, quietly, repository, step, unlocked};
use crate::{build_ebpf, packages};

/// Flags of rustc that count every edge of the control flow and record operands of comparisons.
const COVERAGE: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg=fuzzing",
];

/// Seconds after which an input fails.
const PATIENCE: &str = "20";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only this target: config, control, join, state or table
    target: Option<String>,
    /// How long each target runs
    #[arg(long, value_name = "N", default_value_t = 10)]
    seconds: u64,
    /// Run just this input, once, and show what it does
    #[arg(long, value_name = "FILE", requires = "target")]
    input: Option<PathBuf>,
}

impl Arguments {
    /// All targets, each for so many seconds.
    pub(crate) fn for_seconds(seconds: u64) -> Self {
        Self { target: None, seconds, input: None }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let all = targets()?;
    let chosen: Vec<&String> = match &arguments.target {
        None => all.iter().collect(),
        Some(one) => match all.get(one) {
            Some(one) => vec![one],
            None => {
                let known: Vec<&str> = all.iter().map(String::as_str).collect();
                bail!("there is no fuzz target {one}; there are {}", known.join(", "));
            }
        },
    };
    let binaries = build(&all)?;
    if let Some(input) = &arguments.input {
        return shell::run(Command::new(binaries.join(chosen[0])).arg(input));
    }
    chosen.into_iter().try_for_each(|target| fuzz(target, &binaries, arguments.seconds))
}

/// Names of all fuzz targets; each has a file, and a folder of seeds.
fn targets() -> Result<BTreeSet<String>> {
    let folder = repository().join("tests/fuzz/targets");
    let files = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    Ok(files.flatten().filter_map(|file| Some(file.path().file_stem()?.to_str()?.to_owned())).collect())
}

/// Builds the fuzz targets; returns the folder of their binaries.
fn build(targets: &BTreeSet<String>) -> Result<PathBuf> {
    needs_cxx("libFuzzer, which runs them,")?;
    build_ebpf::run()?;
    let folder = target().join("fuzz");
    same_versions(&folder)?;
    step("building the fuzz targets", || {
        // Not `--locked`: packages that only the fuzz targets need are added to the copied lock file.
        let mut build = unlocked(&["build", "--release", "--quiet"]);
        build.arg("--manifest-path").arg(repository().join("tests/fuzz/Cargo.toml"));
        build.env("CARGO_TARGET_DIR", &folder).env("RUSTC_WRAPPER", wrapper(&folder, targets)?);
        quietly(&mut build).map(drop)
    })?;
    Ok(folder.join("release"))
}

/// Writes a script that runs rustc, with [`COVERAGE`] for what is ours: others' packages are compiled much faster without.
fn wrapper(folder: &Path, targets: &BTreeSet<String>) -> Result<PathBuf> {
    let targets = targets.iter().map(|target| format!(" {target} ")).chain([" reuseport_lb".to_owned()]);
    let ours: Vec<String> = targets.map(|name| format!("*\" --crate-name{name}\"*")).collect();
    let flags = COVERAGE.join(" ");
    let script = folder.join("rustc");
    let text = format!("case \" $* \" in {}) exec \"$@\" {flags};; esac\nexec \"$@\"\n", ours.join("|"));
    packages::wrap(&script, &text)?;
    Ok(script)
}

/// Copies the repository's lock file for the fuzz targets whenever it has changed, so that they are built from the same
/// versions of packages.
fn same_versions(folder: &Path) -> Result<()> {
    let (ours, theirs) = (repository().join("Cargo.lock"), repository().join("tests/fuzz/Cargo.lock"));
    let copied = folder.join("Cargo.lock.copied");
    let lock = fs::read_to_string(&ours).with_context(|| format!("cannot read {}", ours.display()))?;
    if theirs.exists() && fs::read_to_string(&copied).is_ok_and(|known| known == lock) {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    fs::write(&theirs, &lock)?;
    fs::write(&copied, &lock)?;
    Ok(())
}

fn fuzz(name: &str, binaries: &Path, seconds: u64) -> Result<()> {
    let (corpus, found) = (target().join("fuzz/corpus").join(name), target().join("fuzz/found").join(name));
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&found)?;
    let seeds = repository().join("tests/fuzz/seeds").join(name);
    let mut run = Command::new(binaries.join(name));
    // libFuzzer writes new inputs into the first folder.
    run.arg(&corpus).arg(&seeds);
    run.arg(format!("-max_total_time={seconds}")).arg(format!("-timeout={PATIENCE}"));
    run.arg(format!("-artifact_prefix={}/", found.display()));
    run.args(["-print_final_stats=1", "-max_len=8192"]);
    let output = run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = output.output().with_context(|| format!("cannot run the fuzz target {name}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        println!("fuzz {name}: {}", summary(&said));
        return Ok(());
    }
    let lines: Vec<&str> = said.lines().collect();
    let tail = lines[lines.len().saturating_sub(60)..].join("\n");
    let kept = said.lines().find_map(|line| line.split_once("Test unit written to ").map(|(_, file)| file));
    match kept {
        Some(file) => bail!(
            "{tail}\nthe fuzz target {name} has found an input that breaks it. It is kept in {file}; \
             `cargo xtask fuzz {name} --input {file}` runs it again"
        ),
        None => bail!("{tail}\nthe fuzz target {name} failed ({})", output.status),
    }
}

/// One line from the statistics that libFuzzer prints at its end.
fn summary(said: &str) -> String {
    let number = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name));
        line.map_or("?", |rest| rest.trim_start_matches(':').trim())
    };
    let last = said.lines().rev().find(|line| line.contains(" cov: ")).unwrap_or_default();
    let covered = last.split(" cov: ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or("?");
    format!(
        "{} inputs ({} a second), {covered} edges covered, nothing found",
        number("number_of_executed_units"),
        number("average_exec_per_sec")
    )
}
