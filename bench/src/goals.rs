//! The goals of the benchmarks, and what came out.

use crate::balance::{KEPT, UNEVEN, variant};
use crate::binding;
use crate::record::{OURS, Record};

const NEXT: &str = "reuseport-lb, when_busy next";
const PROMPT: &str = "reuseport-lb, stall_timeout 300 ms";
const PLAIN: &str = "plain SO_REUSEPORT";
const SHARED: &str = "one shared socket";
const HAPROXY: &str = "HAProxy, TCP mode";
const NGINX: &str = "nginx stream";
const LEAST: &str = "reuseport-lb, balance least";

pub(crate) struct Goal {
    pub(crate) section: &'static str,
    pub(crate) text: String,
    /// `None` if that was not measured.
    pub(crate) seen: Option<f64>,
    pub(crate) limit: f64,
    /// Whether the limit is the least that will do, and not the most.
    pub(crate) more: bool,
}

pub(crate) fn all(record: &Record) -> Vec<Goal> {
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
    let ratio = record.ratio("connections", "requests/s", LEAST, OURS);
    add("connections", "requests/s: least / table", ratio, 0.98, true);
    for (metric, limit, more) in [("requests/s", 1.9, true), ("p99 ms", 1.0, false)] {
        let text = format!("{metric}: least / {HAPROXY}");
        add("kept", &text, record.ratio("kept", metric, LEAST, HAPROXY), limit, more);
    }
    for kept in KEPT {
        let (ours, proxy) = (variant(LEAST, kept), variant(HAPROXY, kept));
        let uneven = record.median("balance", &ours, UNEVEN);
        add("balance", &format!("{UNEVEN}: least, of {kept}"), uneven, 1.05, false);
        for (metric, limit, more) in [("requests/s", 1.9, true), ("p99 ms", 1.0, false)] {
            let text = format!("{metric}: least / {HAPROXY}, {kept} connections");
            add("balance", &text, record.ratio("balance", metric, &ours, &proxy), limit, more);
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
        let variants = record.variants(section);
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
    let ratio = record.median("growth", "1000 workers", "ours / plain");
    add("growth", "connections/s with 1,000 workers: ours / plain", ratio, 0.98, true);
    let ratio = record.ratio("binding", binding::REQUESTS, OURS, binding::PLAIN);
    add("binding", "requests/s of nginx: ours / plain", ratio, 0.99, true);
    let median = |variant| record.median("binding", variant, binding::BINDS);
    let more = median(OURS).zip(median(binding::PLAIN)).map(|(ours, plain)| ours - plain);
    add("binding", "ns more to open another socket", more, 20_000.0, false);
    goals
}
