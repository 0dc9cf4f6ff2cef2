//! The cookbook: each of its pages as it stands there, under what the packages' unit allows.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod dns;
mod page;
mod proof;
mod unit;
mod web;

use testkit::documents::Document;

/// The first one has the table.
const COOKBOOK: [&str; 2] = ["docs/COOKBOOK.md", "docs/cookbook/dns.md"];

/// A test for each page: the heading, and what proves it.
macro_rules! pages {
    ($($test:ident: $heading:literal => $proof:expr;)*) => {
        $(#[test]
        fn $test() {
            $proof.proves($heading);
        })*

        const TESTED: &[&str] = &[$($heading),*];
    };
}

pages! {
    nginx: "nginx" => web::Web { slow: "/downloads/slow", reloads: true, ..web::WEB };
    haproxy: "HAProxy" => web::Web { behind: true, ..web::WEB };
    gunicorn: "gunicorn" => web::WEB;
    uvicorn: "uvicorn" => web::WEB;
    granian: "granian" => web::WEB;
    node: "Node" => web::WEB;
    go: "Go" => web::WEB;
    erlang: "Erlang" => web::WEB;
    unbound: "unbound" => dns::Names { asks: true };
    knot: "Knot" => dns::Names { asks: false };
    dnsdist: "dnsdist" => dns::Names { asks: true };
}

#[test]
fn every_page_is_tested() {
    let documents = COOKBOOK.map(Document::read);
    let headings = documents.iter().flat_map(|document| &document.headings);
    let pages: Vec<&str> = headings.filter(|(level, _)| *level == 2).map(|(_, heading)| &**heading).collect();
    assert_eq!(pages, TESTED);
}
