//! Section `decision`: what `bench-decision` measures, each of its settings as a run.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::record::Record;

/// What `bench-decision` can say, as it writes it.
const METRICS: [&str; 4] = ["ns less empty", "x bare", "x flow", "x LRU table"];

pub(crate) fn run(record: &mut Record) -> Result<()> {
    let program = std::env::current_exe()?.with_file_name("bench-decision");
    let settings = settings(record.quick);
    record.step(&format!("nanoseconds per decision, {settings} settings"), seconds(record.quick))?;
    let output = Command::new(&program).args([&settings.to_string(), "--csv"]).output();
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(output.status.success(), "bench-decision failed: {}", String::from_utf8_lossy(&output.stderr));
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let figure = || {
            let [title, setting, metric, value] = line.split(';').collect::<Vec<_>>().try_into().ok()?;
            let metric = METRICS.into_iter().find(|known| *known == metric)?;
            Some((title, setting.parse().ok()?, metric, value.parse().ok()?))
        };
        let (title, setting, metric, value) =
            figure().with_context(|| format!("bench-decision says what is not known: {line}"))?;
        record.add("decision", title, setting, &[(metric, value)]);
    }
    ensure!(record.samples.iter().any(|it| it.section == "decision"), "bench-decision says nothing");
    Ok(())
}

fn settings(quick: bool) -> usize {
    if quick { 6 } else { 36 }
}

pub(crate) fn seconds(quick: bool) -> f64 {
    settings(quick) as f64 * 2.5
}
