//! Tests of the series.

use serde_json::json;

use super::*;

#[test]
fn every_series_has_its_line_in_the_docs() {
    let docs = include_str!("../../../../../docs/METRICS.md");
    let line = |metric: &Metric| {
        let (kind, total) = match metric.kind() {
            MetricType::Counter => ("counter", "_total"),
            MetricType::Histogram => ("histogram", ""),
            _ => ("gauge", ""),
        };
        let labels: Vec<String> = metric.labels().iter().map(|label| format!("`{label}`")).collect();
        let labels = if labels.is_empty() { "—".into() } else { labels.join(", ") };
        format!("| `{PREFIX}_{}{total}` | {kind} | {labels} | {} |", metric.name(), metric.help())
    };
    let wanted: Vec<String> = Metric::ALL.iter().map(line).collect();
    let written: Vec<&str> = docs.lines().filter(|line| line.starts_with("| `reuseport_lb_")).collect();
    assert_eq!(written, wanted);
    assert!(Metric::ALL.iter().all(|metric| metric.labels().len() <= MOST_LABELS));
}

#[test]
fn open_metrics_is_for_those_who_ask_for_it() {
    let prometheus =
        "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    for (accept, format) in [
        (&[][..], Format::Text),
        (&["*/*"], Format::Text),
        (&[prometheus], Format::OpenMetrics),
        (&["text/html", "Application/OpenMetrics-Text"], Format::OpenMetrics),
    ] {
        assert_eq!(Format::accepted(accept.iter().copied()), format, "{accept:?}");
    }
}

#[test]
fn sums_over_listeners_make_the_answer_of_many_workers_small() {
    let listen = |at: usize| format!("tcp://10.0.0.1:{}", 8000 + at);
    let socket = |at| json!({ "listen": listen(at), "cookie": 1, "selected": at, "queue": 1, "backlog": 4096, "drops": 0 });
    let worker = |number: usize| {
        json!({ "name": format!("web/{number}"), "slot": number, "state": "ready", "pid": 1, "usage": null,
            "weight": 1, "member": true, "share": 0.001, "buckets": 65, "flows": 0, "restarts": 0,
            "joined": false, "successor": false, "overloaded": false, "lacks": null, "last_words": [],
            "sockets": (0..4).map(socket).collect::<Vec<_>>() })
    };
    let group = |at: usize| {
        json!({ "listen": listen(at), "name": "x", "protocol": "tcp", "program_id": 1,
            "counters": { "refused": 10 + at }, "flows": null, "decided_by": null, "strangers": 0 })
    };
    let service = json!({ "name": "web", "affinity": "flow", "moved": 0, "moving": 0, "waiting": 0,
        "pending": null, "flows_cut": 0, "wanted": 1000, "may_join": [], "ending": false,
        "groups": (0..4).map(group).collect::<Vec<_>>(),
        "workers": (0..1000).map(worker).collect::<Vec<_>>() });
    let status = json!({ "version": "1", "kernel": "6", "pid": 1, "services": [service] });
    let status = Arc::new(serde_json::from_value::<Status>(status).unwrap());
    let text = |per_listener| Format::Text.encode(&status, MetricsConfig { per_listener });
    let (each, summed) = (text(true), text(false));
    assert!(each.contains("refused_total{service=\"web\",listener=\"tcp://10.0.0.1:8003\"} 13"), "{each}");
    assert!(summed.contains("refused_total{service=\"web\"} 46"), "{summed}");
    assert!(summed.contains("selected_total{service=\"web\",worker=\"web/7\"} 6"), "{summed}");
    assert!(!summed.contains("listener="));
    assert!(summed.len() * 5 < each.len() * 3, "{} of {} bytes", summed.len(), each.len());
    eprintln!("{} of {} bytes", summed.len(), each.len());
}
