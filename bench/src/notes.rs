//! What docs/bench/NOTES.md says of a section: written by hand, its figures taken from the report that it stands in.

use testkit::world::repository;

use crate::record::{Record, figure, median, range};

/// The text below the heading that is the key of a section.
///
/// Its figures are written `{section | metric | variant}` for the median of all runs, and `{section | metric | variant / other}`
/// for the median of their ratios, each in the same run; with ` | range` at the end for the least and the most of all runs.
pub(crate) fn about(section: &str, record: &Record) -> Option<String> {
    let notes = std::fs::read_to_string(repository().join("docs/bench/NOTES.md")).ok()?;
    let about = notes.split("\n## ").find_map(|part| part.strip_prefix(section)?.strip_prefix('\n'))?;
    Some(filled(about.trim(), |asked| seen(asked, record)))
}

/// The text with each `{…}` replaced; what is not in the report is said not to be.
fn filled(text: &str, seen: impl Fn(&str) -> Option<String>) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, (asked, after))) =
        rest.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
    {
        filled += before;
        filled += &seen(asked).unwrap_or_else(|| format!("(not in this report: {asked})"));
        rest = after;
    }
    filled + rest
}

fn seen(asked: &str, record: &Record) -> Option<String> {
    let parts: Vec<&str> = asked.split(" | ").map(str::trim).collect();
    let [section, metric, variant, how @ ..] = parts.as_slice() else { return None };
    let values = match variant.split_once(" / ") {
        Some((of, to)) => record.ratios(section, metric, of, to),
        None => record.values(section, variant, metric),
    };
    match how {
        [] => median(values).map(figure),
        ["range"] if !values.is_empty() => {
            let (least, most) = range(&values);
            Some(format!("{} to {}", figure(least), figure(most)))
        }
        _ => None,
    }
}
