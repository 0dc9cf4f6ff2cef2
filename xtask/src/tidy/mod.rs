//! `tidy`: checks what the compiler does not. The error of each rule says what breaks it and how to mend that.

mod arrows;
mod graph;
mod layers;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::build_ebpf;
use crate::shell::{quietly, repository};

/// Most lines of a file.
const LONGEST_FILE: usize = 400;
const LONGEST_README: usize = 200;
/// Most lines of a kernel-side file, which has to be read beside the verifier's log.
const LONGEST_KERNEL_FILE: usize = 200;

/// Written by `cargo xtask bench --record`: a section for each that is measured.
const REPORT: &str = "docs/bench/README.md";

/// Comment before the reason of a sleep.
const SLEEPS: &str = "// sleep: ";

pub(crate) fn run() -> Result<()> {
    let files = files()?;
    let mut broken = Vec::new();
    for (path, text) in &files {
        unsafe_code(path, text, &mut broken);
        heads(path, text, &mut broken);
        words(path, text, &mut broken);
        sleeps(path, text, &mut broken);
    }
    sizes(&files, &mut broken);
    objects(&mut broken);
    arrows::check(&files, &mut broken);
    members(&files, &mut broken);
    counters(&files, &mut broken);
    faults(&files, &mut broken);
    links(&files, &mut broken);
    if broken.is_empty() {
        return Ok(());
    }
    bail!("{} rules are broken:\n  {}", broken.len(), broken.join("\n  "))
}

/// Path and text of all text files that git tracks or does not ignore.
fn files() -> Result<Vec<(PathBuf, String)>> {
    let mut list = std::process::Command::new("git");
    list.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(repository());
    let names = quietly(&mut list)?;
    Ok(names
        .lines()
        .filter_map(|name| Some((PathBuf::from(name), fs::read_to_string(repository().join(name)).ok()?)))
        .collect())
}

/// Files that are too long.
fn sizes(files: &[(PathBuf, String)], broken: &mut Vec<String>) {
    const TEXT: [&str; 5] = ["md", "py", "rs", "sh", "toml"];
    let is_text = |path: &Path| path.extension().is_some_and(|end| TEXT.iter().any(|known| end == *known));
    for (path, text) in files.iter().filter(|(path, _)| is_text(path) && *path != Path::new(REPORT)) {
        let lines = text.lines().count();
        let most = if path.starts_with("reuseport-lb-ebpf") { LONGEST_KERNEL_FILE } else { LONGEST_FILE };
        if lines > most {
            broken.push(format!(
                "{} has {lines} lines, more than {most}: split it by what changes together",
                path.display()
            ));
        }
    }
}

/// Unsafe code outside of the files that may have some.
fn unsafe_code(path: &Path, text: &str, broken: &mut Vec<String>) {
    let place = path.to_string_lossy();
    if path.extension().is_none_or(|extension| extension != "rs") {
        return;
    }
    let may_be_unsafe = place.starts_with("reuseport-lb/src/kernel/")
        || place.starts_with("reuseport-lb-ebpf/")
        || place == "reuseport-lb-common/src/shared.rs"
        || ["bench/", "examples/", "testkit/", "tests/"].iter().any(|folder| place.starts_with(folder))
        || place.starts_with("xtask/");
    if !may_be_unsafe && text.contains("unsafe {") {
        broken.push(format!("{place} has unsafe code: it belongs into reuseport-lb/src/kernel/"));
    }
}

/// Kernel programs that were made from other sources than those that are here.
fn objects(broken: &mut Vec<String>) {
    if !build_ebpf::sources::are_those_of(&build_ebpf::objects(), repository()) {
        broken.push("reuseport-lb/objects are of other sources: run `cargo xtask build-ebpf`".into());
    }
}

fn heads(path: &Path, text: &str, broken: &mut Vec<String>) {
    if path.extension().is_some_and(|extension| extension == "rs") && !text.starts_with("//! ") {
        broken.push(format!(
            "{} does not say in its first line what it is: start it with `//! `",
            path.display()
        ));
    }
}

/// Sleeps in tests, which should wait for a state, without a reason on their line after [`SLEEPS`].
fn sleeps(path: &Path, text: &str, broken: &mut Vec<String>) {
    // Not in programs that tests run, whose flags ask for sleeps.
    let ours =
        ["tests", "testkit"].iter().any(|it| path.starts_with(it)) && !path.starts_with("testkit/src/bin");
    if !ours || path.extension().is_none_or(|extension| extension != "rs") {
        return;
    }
    for (at, line) in text.lines().enumerate() {
        // Not as a part of a longer name, nor after a dot, as in another language.
        let mut places = line.match_indices("sleep(").map(|(place, _)| line[..place].chars().next_back());
        let sleeps = places.any(|before| before.is_none_or(|it| !it.is_alphanumeric() && !"_.".contains(it)));
        if sleeps && !line.contains(SLEEPS) {
            broken.push(format!(
                "{} sleeps in line {}: wait with `until`, let something last with `lasts`, or say why after `{SLEEPS}`",
                path.display(),
                at + 1
            ));
        }
    }
}

/// Addresses of registries and paths of one machine, which do not belong into a repository.
fn words(path: &Path, text: &str, broken: &mut Vec<String>) {
    // Taken apart, so that this file does not break its own rule.
    let banned =
        [["deb.", "debian.org"], ["crates.io", "-index"], ["/work", "/main"], ["index.", "crates.io"]];
    for word in banned.map(|parts| parts.concat()) {
        // A lock file names its registry.
        if text.contains(&word) && !path.ends_with("Cargo.lock") {
            broken.push(format!("{} names {word}", path.display()));
        }
    }
}

fn members(files: &[(PathBuf, String)], broken: &mut Vec<String>) {
    for (path, text) in
        files.iter().filter(|(path, _)| path.ends_with("Cargo.toml") && path.components().count() == 2)
    {
        if !text.contains("[lints]\nworkspace = true") {
            broken.push(format!(
                "{} does not inherit the lints: add `[lints]` with `workspace = true`",
                path.display()
            ));
        }
    }
}

/// Links of documents to files that do not exist, and a README that is too long.
fn links(files: &[(PathBuf, String)], broken: &mut Vec<String>) {
    for (path, text) in files.iter().filter(|(path, _)| path.extension().is_some_and(|end| end == "md")) {
        let folder = repository().join(path.parent().unwrap_or(Path::new("")));
        let targets =
            text.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
        for target in targets.filter(|target| !target.contains("://")) {
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !folder.join(file).exists() {
                broken.push(format!("{} links to {target}, which is not there", path.display()));
            }
        }
        let lines = text.lines().count();
        if path == Path::new("README.md") && lines > LONGEST_README {
            broken.push(format!(
                "README.md has {lines} lines, more than {LONGEST_README}: what is not for the first visit goes into docs/"
            ));
        }
    }
}

/// Counters without their line in docs/COUNTERS.md, word for word.
fn counters(files: &[(PathBuf, String)], broken: &mut Vec<String>) {
    let text =
        |name: &str| files.iter().find(|(path, _)| path == Path::new(name)).map(|(_, text)| text.as_str());
    let (Some(source), Some(docs)) = (text("reuseport-lb-common/src/counters.rs"), text("docs/COUNTERS.md"))
    else {
        broken.push("docs/COUNTERS.md or reuseport-lb-common/src/counters.rs is missing".into());
        return;
    };
    let Some((_, list)) = source.split_once("\ncounters! {\n") else {
        broken.push("counters.rs has no list of counters any more: mend tidy".into());
        return;
    };
    for line in list.lines().take_while(|line| *line != "}") {
        let parts: Vec<&str> = line.split('"').collect();
        if let [_, name, _, help, _] = parts.as_slice() {
            let wanted = format!("| `{name}` | {help} |");
            if !docs.contains(&wanted) {
                broken.push(format!("docs/COUNTERS.md lacks the line {wanted}"));
            }
        }
    }
}

/// Tests of the fault matrix without a row in docs/FAULTS.md.
fn faults(files: &[(PathBuf, String)], broken: &mut Vec<String>) {
    let text = |name: &str| {
        files.iter().find(|(path, _)| path == Path::new(name)).map_or("", |(_, text)| text.as_str())
    };
    let tests = crate::faults::FILES.map(|file| format!("tests/tests/{file}.rs"));
    let tests: usize = tests.iter().map(|file| text(file).matches("#[test]").count()).sum();
    let cells =
        text("docs/FAULTS.md").lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let rows: BTreeSet<&str> = cells.filter(|fault| *fault != "fault").collect();
    if rows.len() != tests {
        broken.push(format!(
            "docs/FAULTS.md has rows of {} faults, and there are {tests} tests of them: run `cargo xtask faults`",
            rows.len()
        ));
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::sizes;

    #[test]
    fn files_are_short() {
        let file = |name: &str, lines: usize| (PathBuf::from(name), "x\n".repeat(lines));
        let files = [
            file("a.rs", 400),
            file("b.rs", 401),
            file("reuseport-lb-ebpf/src/main.rs", 201),
            file("data.csv", 1000),
        ];
        let mut broken = Vec::new();
        sizes(&files, &mut broken);
        assert_eq!(
            broken,
            [
                "b.rs has 401 lines, more than 400: split it by what changes together",
                "reuseport-lb-ebpf/src/main.rs has 201 lines, more than 200: split it by what changes together",
            ]
        );
    }
}
