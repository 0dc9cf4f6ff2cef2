//! `/`: a page that shows what is; a table that works without a script, which a script keeps up to date (`page.js`).

use hyper::Response;
use hyper::body::Bytes;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue};
use maud::{DOCTYPE, Markup, html};
use reuseport_lb_client::api::{ServiceStatus, Status, WorkerStatus};

use super::super::exchange::{self, Body};

/// The script of the page.
pub(super) const SCRIPT: &str = include_str!("page.js");

/// The style of the page.
pub(super) const STYLE: &str = include_str!("page.css");

/// The icon of the page.
pub(super) const ICON: &str = include_str!("icon.svg");

/// The columns of the table of workers, each with what a screen reader or a pointer is told.
const COLUMNS: &[(&str, &str)] = &[
    ("Worker", "name, and the colour of its buckets"),
    ("State", "what it does"),
    ("Process", "process id"),
    ("Share", "part of all buckets, and so of what is new"),
    ("Got", "part of the new connections and datagrams of the last second"),
    ("New/s", "new connections and datagrams a second"),
    ("Connections", "live ones, of services that count them"),
    ("Queue", "what it has not accepted or read yet: connections of TCP, bytes of UDP"),
    ("Flows", "live UDP flows"),
    ("CPU", "of the process, without its children"),
    ("Memory", "resident memory of the process"),
    ("Restarts", "how often its process was started again"),
    ("5 minutes", "its states over the last five minutes"),
];

/// Makes the answer of a page.
pub(super) fn answer(text: Bytes) -> Response<Body> {
    let mut response = exchange::typed("text/html; charset=utf-8", text);
    let policy = HeaderValue::from_static("default-src 'self'");
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    response
}

/// Makes the page.
pub(super) fn text(status: &Status) -> String {
    page(status).into_string()
}

fn page(status: &Status) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "reuseport-lb" }
                link rel="stylesheet" href="/page.css";
                link rel="icon" href="/icon.svg" type="image/svg+xml";
                script src="/page.js" defer {}
            }
            body {
                header {
                    h1 { "reuseport-lb" }
                    p #daemon { "version " (status.version) ", pid " (status.pid) ", Linux " (status.kernel) }
                    p #connection role="status" { "as of the moment when this page was loaded" }
                }
                main {
                    div #services {
                        @for service in &status.services { (section(service)) }
                    }
                    section aria-labelledby="events-title" {
                        h2 #events-title { "Events" }
                        noscript { p { "This list needs a script; " a href="/events" { "/events" } " has the same." } }
                        ol #events {}
                    }
                }
                footer {
                    p {
                        "For programs: "
                        @for path in ["/metrics", "/status.json", "/events", "/readyz", "/weight", "/livez"] {
                            a href=(path) { (path) } " "
                        }
                    }
                }
            }
        }
    }
}

fn section(service: &ServiceStatus) -> Markup {
    let title = format!("service-{}", service.name);
    let listens: Vec<&str> = service.groups.iter().map(|group| &*group.listen).collect();
    html! {
        section data-service=(service.name) aria-labelledby=(title) {
            h2 id=(title) { (service.name) }
            p .listens { (listens.join(" ")) }
            p .summary { (summary(service)) }
            canvas .buckets width="1024" height="64" role="img" aria-label="who owns which of the 65,536 buckets" hidden {}
            div .scroll tabindex="0" role="region" aria-label=(format!("workers of {}", service.name)) {
                table {
                    thead { tr { @for (name, about) in COLUMNS { th scope="col" title=(about) { (name) } } } }
                    tbody { @for worker in &service.workers { (row(worker)) } }
                }
            }
        }
    }
}

fn row(worker: &WorkerStatus) -> Markup {
    let megabytes = worker.usage.map(|usage| usage.resident_bytes / 1_000_000);
    html! {
        tr {
            th scope="row" { (worker.name) @if worker.successor { " (successor)" } }
            td .state data-state=(worker.state) {
                (worker.state)
                @if let Some(lacks) = &worker.lacks { br; small { (lacks) } }
            }
            td { @if let Some(pid) = worker.pid { (pid) } }
            td { (format!("{:.1} %", worker.share * 100.0)) }
            td {}
            td {}
            td { @if let Some(connections) = worker.connections() { (connections) } }
            td { (worker.queue()) }
            td { (worker.flows) }
            td {}
            td { @if let Some(megabytes) = megabytes { (megabytes) " MB" } }
            td { (worker.restarts) }
            td {}
        }
    }
}

/// What a service is, in one line.
fn summary(service: &ServiceStatus) -> String {
    let ready = service.ready();
    let ending = if service.ending { ", is ending" } else { "" };
    format!("{ready} ready of {} that are wanted{ending}", service.wanted)
}
