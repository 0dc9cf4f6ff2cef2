//! The tests of the short run: each has the line `// vm: short` before its `#[test]`.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail};

use super::suite::Test;
use crate::shell::repository;

/// Folder of the tests that can be marked.
const FOLDER: &str = "tests/tests";

const MARK: &str = "// vm: short";

/// The marked tests of `all`. Fails if a mark belongs to no test.
pub(super) fn among(mut all: Vec<Test>) -> Result<Vec<Test>> {
    let mut marked = BTreeSet::new();
    let folder = repository().join(FOLDER);
    for file in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let place = file?.path();
        let file = if place.is_dir() { place.join("main.rs") } else { place.clone() };
        let (Some(target), Ok(text)) =
            (place.file_stem().and_then(|it| it.to_str()), fs::read_to_string(file))
        else {
            continue;
        };
        let tests = marks(&text).with_context(|| format!("in {FOLDER}/{target}.rs"))?;
        marked.extend(tests.iter().map(|test| format!("{target}::{test}")));
    }
    if marked.is_empty() {
        bail!(
            "no test in {FOLDER} has the line `{MARK}` before its `#[test]`: the short run would run nothing"
        );
    }
    if let Some(name) = marked.iter().find(|name| !all.iter().any(|test| test.name == **name)) {
        bail!(
            "{name} is marked for the short run, but is no test: a marked one stands at the top of its file"
        );
    }
    all.retain(|test| marked.contains(&test.name));
    Ok(all)
}

/// Names of the marked functions in a file.
fn marks(text: &str) -> Result<Vec<&str>> {
    let mut lines = text.lines().enumerate();
    let mut names = Vec::new();
    while let Some((at, line)) = lines.next() {
        if line.trim() != MARK {
            continue;
        }
        let mut is_test = false;
        let name = loop {
            match lines.next().map(|(_, line)| line.trim()) {
                Some(attribute) if attribute.starts_with("#[") => is_test |= attribute == "#[test]",
                Some(other) => break other.strip_prefix("fn ").and_then(|rest| rest.split('(').next()),
                None => break None,
            }
        };
        match name {
            Some(name) if is_test => names.push(name),
            _ => bail!("`{MARK}` in line {} is not before the `#[test]` of a function", at + 1),
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_belongs_to_the_test_below_it() {
        let text = "// vm: short\n#[test]\nfn one() {\n}\n\n#[test]\nfn two() {}\n\n// vm: short\n#[test]\n#[ignore]\nfn three() {}\n";
        assert_eq!(marks(text).expect("good marks"), ["one", "three"]);
        for bad in [
            "// vm: short\nfn one() {}\n",
            "// vm: short\n\n#[test]\nfn one() {}\n",
            "// vm: short\n#[test]\n",
        ] {
            assert!(marks(bad).is_err(), "{bad}");
        }
    }
}
