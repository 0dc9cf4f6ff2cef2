//! The one list of files, `files.toml`, from which all packages are made.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use flate2::{Compression, GzBuilder};
use serde::Deserialize;

/// Prefix of files that are made, not in the repository.
const MADE: &str = "made/";

/// A kind of package that the list has files for.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Of Debian and Ubuntu.
    Deb,
    /// Of Fedora, RHEL and SUSE.
    Rpm,
    /// To be unpacked by hand.
    Tarball,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    file: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    from: String,
    to: String,
    #[serde(default = "readable")]
    mode: u32,
    #[serde(default)]
    settings: bool,
    only: Option<Vec<Kind>>,
}

fn readable() -> u32 {
    0o644
}

/// A file of a package.
pub(crate) struct File {
    /// With a slash in front.
    pub(crate) path: String,
    pub(crate) mode: u32,
    /// Changes by the user survive an upgrade.
    pub(crate) settings: bool,
    pub(crate) content: Vec<u8>,
}

/// Where files are taken from.
pub(crate) struct Sources<'a> {
    pub(crate) repository: &'a Path,
    /// Man pages and completions.
    pub(crate) made: &'a Path,
    pub(crate) binary: &'a Path,
}

/// The files of a package of this kind, by path.
pub(crate) fn files(kind: Kind, sources: &Sources<'_>) -> Result<Vec<File>> {
    let place = sources.repository.join("packaging/files.toml");
    let text = fs::read_to_string(&place).with_context(|| format!("cannot read {}", place.display()))?;
    let list: List = toml::from_str(&text).with_context(|| format!("{} is wrong", place.display()))?;
    let mut files = Vec::new();
    for row in list.file.iter().filter(|row| row.only.as_ref().is_none_or(|only| only.contains(&kind))) {
        let found = sources.find(&row.from)?;
        ensure!(!found.is_empty(), "{} is in {}, and there is no such file", row.from, place.display());
        for source in found {
            let name = source.file_name().unwrap_or_default().to_string_lossy();
            let path = row.to.replace('*', &name);
            let content = fs::read(&source).with_context(|| format!("cannot read {}", source.display()))?;
            let content = if path.ends_with(".gz") { compressed(&content)? } else { content };
            files.push(File { path, mode: row.mode, settings: row.settings, content });
        }
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(files)
}

impl Sources<'_> {
    fn find(&self, from: &str) -> Result<Vec<PathBuf>> {
        let pattern = match from.strip_prefix(MADE) {
            Some("reuseport-lb") => self.binary.to_owned(),
            Some(made) => self.made.join(made),
            None => self.repository.join(from),
        };
        let found =
            glob::glob(&pattern.to_string_lossy()).with_context(|| format!("{from} is no pattern"))?;
        found.map(|path| Ok(path?)).collect()
    }
}

/// Compresses so that the result depends on nothing but the content.
pub(crate) fn compressed(content: &[u8]) -> Result<Vec<u8>> {
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
    gzip.write_all(content)?;
    Ok(gzip.finish()?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Component;

    use super::*;

    const DOCUMENTS: &str = "/usr/share/doc/reuseport-lb";

    /// What documents refer to and packages lack: sources, tests, the benchmark's report, pictures of the page; and
    /// licences, which are elsewhere there.
    const NOT_PACKED: [&str; 9] = [
        "docs/bench",
        "docs/page",
        "packaging",
        "reuseport-lb",
        "reuseport-lb-client",
        "reuseport-lb-quic",
        "tests",
        "LICENSE-APACHE",
        "LICENSE-MIT",
    ];

    /// Where a link leads, from a document.
    fn target(document: &Path, link: &str) -> PathBuf {
        let mut path = document.parent().unwrap().to_owned();
        for part in Path::new(link).components() {
            if part == Component::ParentDir { assert!(path.pop()) } else { path.push(part) }
        }
        path
    }

    #[test]
    fn what_packed_documents_refer_to_is_packed() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let made = tempfile::tempdir().unwrap();
        crate::made::write(made.path()).unwrap();
        // Any file does for the binary.
        let binary = &repository.join("README.md");
        let files = files(Kind::Deb, &Sources { repository, made: made.path(), binary }).unwrap();
        let packed: BTreeSet<&Path> = files.iter().map(|file| Path::new(&file.path)).collect();
        let known = |path: &Path| packed.contains(path) || packed.iter().any(|file| file.starts_with(path));
        let mut examples = 0;
        for file in files.iter().filter(|file| file.path.ends_with(".md")) {
            let text = String::from_utf8_lossy(&file.content);
            let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
            for link in links.filter(|link| !link.is_empty() && !link.contains("://")) {
                let path = target(Path::new(&file.path), link);
                let place = path.strip_prefix(DOCUMENTS).unwrap();
                let excused = NOT_PACKED.iter().any(|folder| place.starts_with(folder));
                assert!(known(&path) || excused, "{}: {link}", file.path);
                examples += usize::from(place.starts_with("examples"));
            }
        }
        assert!(examples > 0, "no document refers to an example");
    }
}
