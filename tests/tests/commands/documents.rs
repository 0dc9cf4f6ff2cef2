//! Each block of the documents, and the paragraphs that alerts refer to.

use std::fs;

use testkit::documents::Document;
use testkit::site::{Site, remark};
use testkit::world::repository;

/// Runs each block of a document that no comment excuses.
fn runs(path: &str) {
    let mut site = Site::new();
    let document = Document::read(path);
    for kind in ["not run", "first"] {
        let written = document.lines.iter().filter(|line| line.contains(&format!("<!-- {kind}: "))).count();
        let remarks = document.blocks.iter().filter(|block| remark(block, kind).is_some()).count();
        assert_eq!(written, remarks, "{path} has `<!-- {kind}: … -->` that is not right before a block");
    }
    for block in document.blocks.iter().filter(|block| remark(block, "not run").is_none()) {
        println!("{path}, line {}", block.line);
        site.run(block);
    }
    site.end();
}

#[test]
fn of_the_readme() {
    runs("README.md");
}

#[test]
fn of_the_page_on_operating() {
    runs("docs/OPERATING.md");
}

#[test]
fn each_alert_has_its_paragraph_and_each_paragraph_its_alert() {
    let text = fs::read_to_string(repository().join("packaging/prometheus/alerts.yml")).unwrap();
    let after =
        |key: &str| -> Vec<&str> { text.lines().filter_map(|line| line.trim().strip_prefix(key)).collect() };
    let alerts = after("- alert: ");
    let page = Document::read("docs/OPERATING.md");
    let paragraphs: Vec<&str> =
        page.headings.iter().filter(|(level, _)| *level == 3).map(|(_, heading)| &**heading).collect();
    assert_eq!(paragraphs, alerts);
    for alert in &alerts {
        assert!(page.under(alert).next().is_some(), "{alert} has nothing to run");
    }
    // Where packages have the page (packaging/files.toml).
    let files: toml::Value =
        toml::from_str(&fs::read_to_string(repository().join("packaging/files.toml")).unwrap()).unwrap();
    let pages =
        files["file"].as_array().unwrap().iter().find(|file| file["from"].as_str() == Some("docs/*.md"));
    let place = pages.unwrap()["to"].as_str().unwrap().replace('*', "OPERATING.md");
    let runbooks: Vec<String> =
        alerts.iter().map(|alert| format!("\"{place}#{}\"", alert.to_lowercase())).collect();
    assert_eq!(after("runbook: "), runbooks);
}
