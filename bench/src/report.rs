//! The report: which sections there are, their goals, and how they are written down.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use testkit::world::{World, repository, run as output};

use crate::chart::{self, Bar};
use crate::record::{Record, median};
use crate::{decision, flows, growth, http, table};

/// A group of measurements.
pub(crate) struct Section {
    pub(crate) key: &'static str,
    title: &'static str,
    /// How it is measured.
    how: &'static str,
    /// Whether ratios to the others are shown.
    ratios: bool,
    /// What it takes, by experience.
    pub(crate) seconds: fn(bool) -> f64,
    pub(crate) measure: fn(&mut Record, &World) -> Result<()>,
}

pub(crate) const OURS: &str = "reuseport-lb";
const NEXT: &str = "reuseport-lb, when_busy next";
const PROMPT: &str = "reuseport-lb, stall_timeout 300 ms";
const PLAIN: &str = "plain SO_REUSEPORT";
const SHARED: &str = "one shared socket";
const HAPROXY: &str = "HAProxy, TCP mode";
const NGINX: &str = "nginx stream";

/// In the order of the report.
pub(crate) static SECTIONS: [Section; 11] = [
    Section {
        key: "connections",
        title: "New TCP connections, one request each",
        how: "64 clients on as many threads as there are cores, each with one connection and one request at a time, as many requests for each variant. 4 workers, the same program \
              everywhere; HAProxy with 2 threads and nginx with 2 workers in front of them. reuseport-lb as it is, and with `when_busy = \"next\"`. CPU: user and system time of all server \
              processes, the daemon and the proxy included; what the kernel does for a packet is charged to whoever sent it.",
        ratios: true,
        seconds: throughput,
        measure: |record, world| http::throughput(record, world, "connections", false),
    },
    Section {
        key: "kept",
        title: "Requests on kept connections",
        how: "As above, but the 64 connections are kept, for a fifth of the requests each time.",
        ratios: true,
        seconds: throughput,
        measure: |record, world| http::throughput(record, world, "kept", true),
    },
    Section {
        key: "stall",
        title: "One of four workers is stopped for 3 s",
        how: "1,000 new connections a second for 4 s, whatever the server does; times count from when a request was due. SIGSTOP after 0.3 s, \
              SIGCONT 3 s later. Requests whose connection the stopped worker had already accepted are counted apart: nobody else can answer \
              them. reuseport-lb as it is (`stall_timeout = \"1s\"`), with 300 ms, and with `when_busy = \"next\"`; HAProxy has `balance leastconn` and HTTP checks every 100 ms (2 that fail \
              take a server out).",
        ratios: false,
        seconds: |quick| if quick { 7.0 * 6.0 } else { 35.0 * 6.0 },
        measure: http::stall,
    },
    Section {
        key: "unequal",
        title: "Unequal work",
        how: "1,200 new connections a second, one in a hundred of which costs its worker 50 ms of CPU time: 0.6 of the two cores. Times of the \
              other ones, from when they were due. reuseport-lb as it is, and with `when_busy = \"next\"`.",
        ratios: true,
        seconds: |quick| if quick { 8.0 * 2.8 } else { 20.0 * 6.8 },
        measure: http::unequal,
    },
    Section {
        key: "restarts",
        title: "Restarts and changes of the number of workers under load",
        how: "2,000 new connections a second while every 0.6 s everything is replaced (`restart`; SIGHUP; SIGUSR2; a new process for each worker and \
              SIGTERM to the old one, which accepts what is queued before it ends) or the number of workers changes between 4 and 6. nginx's 4 \
              workers answer by themselves; HAProxy is in front of 4 that stay, as master and worker with `expose-fd listeners`, the seamless \
              way, and `hard-stop-after 10s`. The next change waits for old processes for 2 s at most.",
        ratios: false,
        seconds: |quick| 7.0 * http::restart_seconds(quick),
        measure: http::restarts,
    },
    Section {
        key: "flows",
        title: "Live UDP flows that change their worker",
        how: "8 workers; a datagram of each flow before and after a 9th joins, one leaves, one crashes. Real sockets, the same harness for all. \
              Maglev and `hash % n` are tables in the same kernel program, without tracking.",
        ratios: false,
        seconds: |quick| if quick { 4.0 } else { 30.0 },
        measure: flows::run,
    },
    Section {
        key: "buckets",
        title: "What a change of the table moves, and how even shares are",
        how: "65,536 buckets; one of the workers leaves, the one in the middle, or another one joins. The minimum of a leave is what the leaver \
              had, of a join what the joiner then has.",
        ratios: false,
        seconds: |_| 12.0,
        measure: table::buckets,
    },
    Section {
        key: "publish",
        title: "Time to compute and publish a change",
        how: "One worker leaves, and returns; computed, and written into the table of a group in the kernel. Maglev computes its table anew and \
              the buckets that differ are written.",
        ratios: false,
        seconds: |quick| if quick { 9.0 } else { 21.0 },
        measure: table::publish,
    },
    Section {
        key: "decision",
        title: "Nanoseconds per decision",
        how: "From the kernel's run-time statistics of programs; the empty program is subtracted. 8 workers. A run is a setting: all groups made \
              anew, and all programs by turns. A bare select takes a constant slot, one \"by hash\" the slot that the kernel's hash says; \"address \
              read\" and \"by table\" do one thing more: read the client's address, and read the hash's bucket of 65,536, all of which are \
              zero. `cargo xtask bench decision`.",
        ratios: false,
        seconds: decision::seconds,
        measure: |record, _| decision::run(record),
    },
    Section {
        key: "growth",
        title: "Growth: workers",
        how: "ns with the measuring itself, about 56; beside it programs that select by the kernel's hash alone, and by a table of as many buckets \
              as ours (of 512 sockets where there are 1,000). Memory of the daemon, and of the maps in the kernel that it holds.",
        ratios: false,
        seconds: |quick| {
            let sizes: &[u16] = if quick { &[2, 16, 128] } else { &[2, 16, 128, 1000] };
            sizes.iter().map(|workers| growth::workers_seconds(*workers)).sum::<f64>()
                * if quick { 1.0 } else { 5.0 }
        },
        measure: growth::workers,
    },
    Section {
        key: "flow-growth",
        title: "Growth: UDP flows",
        how: "8 workers; flows by turns. ns with the measuring itself, about 56.",
        ratios: false,
        seconds: |quick| {
            let all = [1_000, 10_000, 100_000, 1_000_000].into_iter().map(growth::flows_seconds).sum::<f64>();
            if quick { all } else { 5.0 * all }
        },
        measure: growth::flows,
    },
];

fn throughput(quick: bool) -> f64 {
    http::throughput_seconds(quick) * 6.0 * if quick { 3.0 } else { 7.0 }
}

/// A goal, and what came out.
struct Goal {
    section: &'static str,
    text: String,
    seen: Option<f64>,
    limit: f64,
    /// More is better.
    more: bool,
}

fn goals(record: &Record) -> Vec<Goal> {
    let mut goals = Vec::new();
    let mut add = |section, text: &str, seen, limit, more| {
        goals.push(Goal { section, text: text.to_owned(), seen, limit, more });
    };
    for (section, plain) in [("connections", 0.98), ("kept", 0.99)] {
        let ratio = |metric, to| record.ratio(section, metric, OURS, to);
        let shared = if section == "connections" { 1.0 } else { 0.99 };
        add(section, "requests/s: ours / plain", ratio("requests/s", PLAIN), plain, true);
        add(section, "requests/s: ours / shared", ratio("requests/s", SHARED), shared, true);
        for proxy in [HAPROXY, NGINX] {
            add(section, &format!("requests/s: ours / {proxy}"), ratio("requests/s", proxy), 1.9, true);
            if section == "connections" {
                let text = format!("server CPU per request: ours / {proxy}");
                add(section, &text, ratio("server CPU µs/request", proxy), 1.0 / 3.0, false);
            }
        }
    }
    for (ours, limit) in [(OURS, 1250.0), (PROMPT, 550.0), (NEXT, 1250.0)] {
        for metric in ["p99 ms", "maximum ms"] {
            let text = format!("{metric}: stall_timeout + 250 ms, {ours}");
            add("stall", &text, record.median("stall", ours, metric), limit, false);
        }
    }
    for ours in [OURS, NEXT] {
        let ratio = |of, to| record.ratio("unequal", "p99 ms", of, to);
        add("unequal", &format!("p99: plain / {ours}"), ratio(PLAIN, ours), 2.0, true);
        add("unequal", &format!("p99: {ours} / shared"), ratio(ours, SHARED), 1.2, false);
    }
    for kind in ["restarts", "count changes"] {
        let seen = record.median("restarts", &format!("{OURS}, {kind}"), "failed requests");
        add("restarts", &format!("failed requests, {kind}"), seen, 0.0, false);
    }
    for event in ["join", "leave", "crash"] {
        let seen = record.median("flows", &format!("{OURS}, {event}"), "moved although their worker stays %");
        add("flows", &format!("moved although their worker stays, {event}, %"), seen, 0.0, false);
    }
    let worst = |metric: &str| {
        let ours = record.samples.iter().filter(|it| {
            it.section == "buckets" && it.metric == metric && it.variant.starts_with("reuseport-lb;")
        });
        ours.map(|it| it.value).reduce(f64::max)
    };
    for metric in ["moved by a join / minimum", "moved by a leave / minimum", "largest / mean share"] {
        // Shares differ by one bucket where 65,536 cannot be divided.
        add("buckets", &format!("{metric}, the worst of all sizes"), worst(metric), 1.0005, false);
    }
    add("publish", "ms at 256 workers", record.median("publish", "reuseport-lb; 256", "ms"), 5.0, false);
    for workers in [8, 32, 128, 256, 512, 1024] {
        let (ours, maglev) = (format!("reuseport-lb; {workers}"), format!("Maglev; {workers}"));
        add(
            "publish",
            &format!("ours / Maglev at {workers}"),
            record.ratio("publish", "ms", &ours, &maglev),
            1.0,
            false,
        );
    }
    let of = |title: &str, metric| {
        record.median("decision", &format!("udp, one flow, hot caches: {title}"), metric)
    };
    add("decision", "UDP, one flow: flow / bare select", of("flow", "x bare"), 1.10, false);
    add("decision", "UDP, one flow: source / bare select", of("source", "x bare"), 1.10, false);
    add("decision", "UDP, one flow: tracked / bare select", of("flow, tracked", "x bare"), 1.10, false);
    add("decision", "UDP, one flow: tracked / LRU table", of("flow, tracked", "x LRU table"), 0.6, false);
    let tcp = record.median("decision", "tcp, one flow, hot caches: flow", "x bare");
    add("decision", "TCP, one flow: flow (with the overload check) / bare select", tcp, 1.10, false);
    let spread = |section: &str, metric: &str| {
        let variants = variants(record, section);
        let medians: Vec<f64> = variants.iter().filter_map(|it| record.median(section, it, metric)).collect();
        let most = medians.iter().copied().reduce(f64::max)?;
        Some(most / medians.into_iter().reduce(f64::min)?)
    };
    for (section, metric) in [
        ("growth", "ns a decision, one flow"),
        ("growth", "ns a decision, 1,000 flows"),
        ("growth", "connections/s"),
        ("flow-growth", "ns a decision"),
    ] {
        add(section, &format!("{metric}: most / least"), spread(section, metric), 1.15, false);
    }
    goals
}

/// What docs/bench/NOTES.md says about a section: written by hand, below a heading that is its key.
fn notes(section: &str) -> Option<String> {
    let notes = std::fs::read_to_string(repository().join("docs/bench/NOTES.md")).ok()?;
    let about = notes.split("\n## ").find_map(|part| part.strip_prefix(section)?.strip_prefix('\n'))?;
    Some(about.trim().to_owned())
}

/// Writes report, raw data and charts into the directory `to`; `void` says which sections could not be
/// measured, and why.
pub(crate) fn write(record: &Record, to: &Path, only: &[String], void: &[String]) -> Result<()> {
    std::fs::create_dir_all(to)?;
    std::fs::write(to.join("raw.csv"), record.csv())?;
    let mut text = head(record, to, only);
    text.push_str("## Goals\n\n| section | what | seen | goal | |\n|---|---|---|---|---|\n");
    let mut missed = Vec::new();
    for goal in goals(record) {
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
            let why = notes(section).unwrap_or("Not explained yet in docs/bench/NOTES.md.".into());
            let _ = writeln!(text, "\n### {section}\n\n{why}");
        }
    }
    for section in &SECTIONS {
        let variants = variants(record, section.key);
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

/// Those of a section, in their first order.
fn variants(record: &Record, section: &str) -> Vec<String> {
    let mut variants: Vec<String> = Vec::new();
    for sample in record.samples.iter().filter(|it| it.section == section) {
        if !variants.contains(&sample.variant) {
            variants.push(sample.variant.clone());
        }
    }
    // Runs begin with another one each.
    variants.sort_by_key(|variant| !variant.starts_with(OURS));
    variants
}

fn metrics(record: &Record, section: &str) -> Vec<&'static str> {
    let mut metrics = Vec::new();
    for sample in record.samples.iter().filter(|it| it.section == section) {
        if !metrics.contains(&sample.metric) {
            metrics.push(sample.metric);
        }
    }
    metrics
}

fn tables(text: &mut String, record: &Record, section: &Section, variants: &[String]) {
    let metrics = metrics(record, section.key);
    let _ = writeln!(text, "| | {} |\n|---|{}", metrics.join(" | "), "---|".repeat(metrics.len()));
    for variant in variants {
        let _ = write!(text, "| {variant} |");
        for metric in &metrics {
            let values = record.values(section.key, variant, metric);
            let (least, most) = (least(&values), most(&values));
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
            let (least, most) = (least(&values), most(&values));
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

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

/// With as many digits as say something.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => {
            let whole = format!("{value:.0}");
            let (front, back) = whole.split_at(whole.len() - 3);
            if front.len() > 3 {
                format!("{},{},{back}", &front[..front.len() - 3], &front[front.len() - 3..])
            } else {
                format!("{front},{back}")
            }
        }
        size if size >= 100.0 || value == value.trunc() => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.3}"),
        _ => format!("{value:.3}"),
    }
}
