//! The report: how goals, tables and charts are written down.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use testkit::world::run as output;

use crate::chart::{self, Bar};
use crate::record::{OURS, Record, figure, median, range};
use crate::sections::{SECTIONS, Section};
use crate::{goals, notes};

/// Writes report, raw data and charts into the directory `to`; `void` says which sections could not be
/// measured, and why.
pub(crate) fn write(record: &Record, to: &Path, only: &[String], void: &[String]) -> Result<()> {
    std::fs::create_dir_all(to)?;
    std::fs::write(to.join("raw.csv"), record.csv())?;
    let mut text = head(record, to, only);
    text.push_str("## Goals\n\n| section | what | seen | goal | |\n|---|---|---|---|---|\n");
    let mut missed = Vec::new();
    for goal in goals::all(record) {
        let Some(seen) = goal.seen else { continue };
        let met = if goal.more { seen >= goal.limit } else { seen <= goal.limit };
        let (sign, verdict) = (if goal.more { "≥" } else { "≤" }, if met { "reached" } else { "**missed**" });
        let (seen, limit) = (figure(seen), figure(goal.limit));
        let _ = writeln!(text, "| {} | {} | {seen} | {sign} {limit} | {verdict} |", goal.section, goal.text);
        if !met && !missed.contains(&goal.section) {
            missed.push(goal.section);
        }
    }
    for reason in void {
        let _ = writeln!(text, "\nVoid, and not below: {}", reason.lines().next().unwrap_or_default());
    }
    if !missed.is_empty() {
        text.push_str("\n## Why goals are missed\n");
        for section in missed {
            let why =
                notes::about(section, record).unwrap_or("Not explained yet in docs/bench/NOTES.md.".into());
            let _ = writeln!(text, "\n### {section}\n\n{why}");
        }
    }
    for section in &SECTIONS {
        let variants = record.variants(section.key);
        if variants.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\n## {}\n\n{}\n", section.title, section.how);
        tables(&mut text, record, section, &variants);
        for (_, remark) in record.remarks.iter().filter(|(of, _)| *of == section.key) {
            let _ = writeln!(text, "\n{remark}");
        }
        for (file, title) in charts(record, section.key, &variants, to)? {
            let _ = writeln!(text, "\n![{title}]({file})");
        }
    }
    let file = to.join("README.md");
    std::fs::write(&file, &text)?;
    eprintln!();
    let begin = text.find("## Goals").unwrap_or(0);
    let end = text[begin + 1..].find("\n## ").map_or(text.len(), |length| begin + 1 + length);
    println!("{}\n\nThe report is in {}", &text[begin..end], file.display());
    Ok(())
}

fn head(record: &Record, to: &Path, only: &[String]) -> String {
    let first = |text: String| text.lines().next().unwrap_or_default().trim().to_owned();
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let said = |program: &str, argument: &str| {
        let command = std::process::Command::new(program).arg(argument).output();
        // nginx says its version on standard error.
        let said = command.map(|it| [it.stdout, it.stderr].concat()).unwrap_or_default();
        let line = first(String::from_utf8_lossy(&said).into_owned());
        line.split(" - ").next().unwrap_or_default().to_owned()
    };
    let mut mode = record.either(" --quick", "").to_owned();
    if to.ends_with("docs/bench") {
        mode += " --record";
    }
    only.iter().for_each(|section| mode += &format!(" --only {section}"));
    format!(
        "# Measured\n\nEverything in one run; medians (least-most of all runs). Ratios are medians of the ratios of each run.\n\n\
         | | |\n|---|---|\n| date | {} |\n| command | `cargo xtask bench{mode}` |\n| took | {} s |\n\
         | machine | {cores} cores, {} |\n| kernel | Linux {} |\n| reuseport-lb | {} |\n| HAProxy | {} |\n| nginx | {} |\n\
         | raw data | [raw.csv](raw.csv) |\n\n\
         Clients, workers and proxies share the cores, over loopback, in a network namespace of their own. So ratios count, not rates. A run in \
         which a request is not answered is void where only speed is measured, and made once more.\n\n",
        first(output("date", &["-u", "+%Y-%m-%d"])),
        record.took().as_secs(),
        model.map_or("", |(_, model)| model),
        reuseport_lb::kernel::host::release(),
        said(&testkit::daemon::binary().to_string_lossy(), "--version"),
        said("haproxy", "-v"),
        said("nginx", "-v"),
    )
}

fn tables(text: &mut String, record: &Record, section: &Section, variants: &[String]) {
    let metrics = record.metrics(section.key);
    let _ = writeln!(text, "| | {} |\n|---|{}", metrics.join(" | "), "---|".repeat(metrics.len()));
    for variant in variants {
        let _ = write!(text, "| {variant} |");
        for metric in &metrics {
            let values = record.values(section.key, variant, metric);
            let (least, most) = range(&values);
            let _ = match median(values) {
                None => write!(text, " - |"),
                Some(middle) if least == most => write!(text, " {} |", figure(middle)),
                Some(middle) => write!(text, " {} ({}-{}) |", figure(middle), figure(least), figure(most)),
            };
        }
        text.push('\n');
    }
    if section.ratios {
        let _ = writeln!(
            text,
            "\n| ours / peer | {} |\n|---|{}",
            metrics.join(" | "),
            "---|".repeat(metrics.len())
        );
        for variant in variants.iter().filter(|variant| *variant != OURS) {
            let ratio =
                |metric: &&str| record.ratio(section.key, metric, OURS, variant).map_or("-".into(), figure);
            let _ = writeln!(
                text,
                "| {variant} | {} |",
                metrics.iter().map(ratio).collect::<Vec<_>>().join(" | ")
            );
        }
    }
}

/// Draws a section's charts; their files and titles.
fn charts(record: &Record, section: &str, variants: &[String], to: &Path) -> Result<Vec<(String, String)>> {
    let mut drawn = Vec::new();
    for (key, metric, title) in [
        ("connections", "requests/s", "New connections per second (more is better)"),
        (
            "connections",
            "server CPU µs/request",
            "Server CPU for a new connection with one request, µs (less is better)",
        ),
        ("kept", "requests/s", "Requests per second on kept connections (more is better)"),
        (
            "stall",
            "maximum ms",
            "The longest answer while one of four workers is stopped for 3 s, ms (less is better)",
        ),
        ("unequal", "p99 ms", "p99 when one request in a hundred costs 50 ms, ms (less is better)"),
        (
            "flows",
            "moved although their worker stays %",
            "UDP flows that moved although their worker stays, % (less is better)",
        ),
        (
            "restarts",
            "failed requests",
            "Failed requests in restarts and changes under load (less is better)",
        ),
    ] {
        if key != section {
            continue;
        }
        let bar = |variant: &String| {
            let values = record.values(section, variant, metric);
            let (least, most) = range(&values);
            Some(Bar { name: variant.clone(), least, median: median(values)?, most })
        };
        let bars: Vec<Bar> = variants.iter().filter_map(bar).collect();
        let file = format!("{key}-{}.svg", metric.split([' ', '/']).next().unwrap_or_default());
        chart::bars(&to.join(&file), title, &bars)?;
        drawn.push((file, title.to_owned()));
    }
    for (key, metric, title) in [
        ("buckets", "moved by a leave / minimum", "Buckets that a leave moves / minimum"),
        ("publish", "ms", "Time to compute and publish a change, ms"),
    ] {
        if key != section {
            continue;
        }
        let mut lines: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
        for variant in variants {
            let Some((name, workers)) = variant.split_once("; ") else { continue };
            let at = (workers.parse()?, record.median(section, variant, metric).unwrap_or_default());
            match lines.iter_mut().find(|(known, _)| known == name) {
                Some((_, points)) => points.push(at),
                None => lines.push((name.to_owned(), vec![at])),
            }
        }
        let file = format!("{key}.svg");
        chart::lines(&to.join(&file), title, ["workers", metric], &lines)?;
        drawn.push((file, title.to_owned()));
    }
    Ok(drawn)
}
