//! Documents as they stand: their headings and their blocks of code.

use std::fs;

use crate::world::repository;

/// A block of code between two fences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// What the first fence says: `toml`, or nothing.
    pub language: String,
    pub text: String,
    /// The last line of text before it.
    pub before: String,
    /// The heading that it is under.
    pub heading: String,
    /// The number of its first fence's line.
    pub line: usize,
}

impl Block {
    /// The path that the line before it names first: the file whose content it is.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        self.before.split('`').skip(1).step_by(2).find(|quoted| quoted.starts_with('/'))
    }
}

/// A document, by its path in the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    pub blocks: Vec<Block>,
    /// Headings with their level: 1 for `#`, 2 for `##`.
    pub headings: Vec<(usize, String)>,
    /// Its lines that are in no block.
    pub lines: Vec<String>,
}

impl Document {
    /// Reads one.
    ///
    /// # Panics
    /// If it is not there.
    #[must_use]
    pub fn read(path: &str) -> Self {
        Self::parse(
            &fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}")),
        )
    }

    /// Of its text.
    ///
    /// # Panics
    /// If a block does not end.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut document = Self { blocks: Vec::new(), headings: Vec::new(), lines: Vec::new() };
        let mut lines = text.lines().zip(1..);
        while let Some((line, number)) = lines.next() {
            if let Some(language) = line.strip_prefix("```") {
                let mut block = String::new();
                let inner = lines.by_ref().map(|(line, _)| line);
                let ended =
                    inner.map_while(|line| (line != "```").then(|| block.push_str(&format!("{line}\n"))));
                let length = ended.count();
                assert!(
                    text.lines().nth(number + length) == Some("```"),
                    "the block of line {number} does not end"
                );
                let before = document.lines.iter().rfind(|line| !line.is_empty());
                document.blocks.push(Block {
                    language: language.into(),
                    text: block,
                    before: before.cloned().unwrap_or_default(),
                    heading: document.headings.last().map(|(_, it)| it.clone()).unwrap_or_default(),
                    line: number,
                });
                continue;
            }
            let level = line.bytes().take_while(|byte| *byte == b'#').count();
            if let Some(heading) = line[level..].strip_prefix(' ').filter(|_| level > 0) {
                document.headings.push((level, heading.into()));
            }
            document.lines.push(line.into());
        }
        document
    }

    /// The only block in which `text` stands.
    ///
    /// # Panics
    /// If it is in none, or in several.
    #[must_use]
    pub fn block(&self, text: &str) -> &Block {
        let found: Vec<&Block> = self.blocks.iter().filter(|block| block.text.contains(text)).collect();
        assert_eq!(found.len(), 1, "blocks with {text:?}");
        found[0]
    }

    /// The blocks under a heading, up to the next one.
    pub fn under<'a>(&'a self, heading: &'a str) -> impl Iterator<Item = &'a Block> {
        self.blocks.iter().filter(move |block| block.heading == heading)
    }
}

/// Holds a document's table to what a run has shown: the lines of the table under a heading, the first two of which name its
/// columns. With `REUSEPORT_LB_WRITE=1` in the environment it is written instead.
///
/// # Panics
/// If it is another one, with what it should be.
pub fn hold_table(path: &str, heading: &str, rows: &[String]) {
    let file = repository().join(path);
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{path}: {error}"));
    let lines: Vec<&str> = text.lines().collect();
    let under = lines.iter().position(|line| line.trim_start_matches('#').trim() == heading);
    let under = under.unwrap_or_else(|| panic!("{path} has no heading {heading:?}"));
    let from = under + lines[under..].iter().position(|line| line.starts_with('|')).expect("a table") + 2;
    let to = from + lines[from..].iter().take_while(|line| line.starts_with('|')).count();
    if lines[from..to] == *rows {
        return;
    }
    let rows = rows.join("\n");
    assert!(
        std::env::var_os("REUSEPORT_LB_WRITE").is_some(),
        "{path} has another table under {heading:?} than this run has shown (REUSEPORT_LB_WRITE=1 writes it):\n{rows}"
    );
    let text = [&lines[..from], &[&rows], &lines[to..]].concat().join("\n") + "\n";
    fs::write(&file, text).unwrap_or_else(|error| panic!("{path}: {error}"));
}

#[cfg(test)]
mod tests {
    use super::Document;

    #[test]
    fn blocks_have_their_language_path_and_heading() {
        let text = "# All\n\n## One\n\nIn `a` goes `/etc/a.toml`:\n\n```toml\n# no heading\nx = 1\n```\n```\nrun\n```\n";
        let document = Document::parse(text);
        assert_eq!(document.headings, [(1, "All".to_owned()), (2, "One".to_owned())]);
        let found: Vec<_> =
            document.under("One").map(|it| (&*it.language, it.path(), &*it.text, it.line)).collect();
        let path = Some("/etc/a.toml");
        assert_eq!(found, [("toml", path, "# no heading\nx = 1\n", 7), ("", path, "run\n", 11)]);
        assert_eq!(document.block("run"), &document.blocks[1]);
    }

    #[test]
    #[should_panic(expected = "the block of line 2 does not end")]
    fn a_block_without_an_end_is_an_error() {
        let _ = Document::parse("# All\n```\nx\n");
    }
}
