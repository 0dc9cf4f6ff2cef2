//! Lines of a configuration file as errors quote them: values of `env` may be secrets, and are not quoted. PURE.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// In place of a line that is not quoted.
const HIDDEN: &str = "… (not shown: it belongs to `env`)";

/// Line `number` of `text`, counted from 1, or what stands for it. `is_key` knows the keys of a service.
pub(super) fn line(text: &str, number: usize, is_key: impl Fn(&str) -> bool) -> &str {
    let mut lines = text.split_inclusive('\n');
    let before: usize = lines.by_ref().take(number - 1).map(str::len).sum();
    let line = lines.next().unwrap_or_default();
    let here = before..before + line.len();
    let is_secret = match spans(text) {
        Some(spans) => spans.iter().any(|span| span.start < here.end && here.start < span.end),
        // What cannot be read has no spans.
        None => is_near(text, number, is_key),
    };
    if is_secret { HIDDEN } else { line.trim_end() }
}

/// Whether these keys lead into `env`.
pub(super) fn within_env(keys: &[String]) -> bool {
    keys.len() > 1 && keys[1..].iter().any(|key| key == "env")
}

/// Where values of `env` are; `None` if the text cannot be read.
fn spans(text: &str) -> Option<Vec<Range<usize>>> {
    fn all(value: &DeValue<'_>, spans: &mut Vec<Range<usize>>) {
        match value {
            DeValue::Table(table) => {
                for (key, value) in table {
                    spans.extend([key.span(), value.span()]);
                    all(value.get_ref(), spans);
                }
            }
            DeValue::Array(array) => array.iter().for_each(|one| {
                spans.push(one.span());
                all(one.get_ref(), spans);
            }),
            _ => {}
        }
    }
    fn find(value: &DeValue<'_>, spans: &mut Vec<Range<usize>>) {
        match value {
            DeValue::Table(table) => {
                for (key, value) in table {
                    if key.get_ref() == "env" {
                        spans.push(value.span());
                        all(value.get_ref(), spans);
                    } else {
                        find(value.get_ref(), spans);
                    }
                }
            }
            DeValue::Array(array) => array.iter().for_each(|one| find(one.get_ref(), spans)),
            _ => {}
        }
    }
    let table = DeTable::parse(text).ok()?;
    let mut spans = Vec::new();
    for value in table.get_ref().values() {
        find(value.get_ref(), &mut spans);
    }
    Some(spans)
}

/// Whether a line of a text that cannot be read may belong to `env`: it does from a line that begins with that key, or
/// with a header of that table, until the next header, or the next key in small letters at the beginning of a line.
fn is_near(text: &str, number: usize, is_key: impl Fn(&str) -> bool) -> bool {
    let key = |line: &str| -> String {
        let line = line.trim_start_matches(['"', '\'']);
        line.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    let mut inside = false;
    let mut below_header = false;
    for line in text.lines().take(number) {
        let begins = line.trim_start();
        let word = key(begins);
        if begins.starts_with('[') {
            below_header = begins.trim_end_matches([']', ' ', '"', '\'']).ends_with("env");
            inside = below_header;
        } else if word == "env" {
            inside = true;
        } else if !below_header
            && !word.is_empty()
            && is_key(&word)
            && begins[word.len()..].trim_start().starts_with('=')
        {
            inside = false;
        }
    }
    inside
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_of_env_is_quoted() {
        let is_key = |word: &str| ["name", "user", "workers"].contains(&word);
        for text in [
            "[[service]]\nname = \"a\"\nenv = { A = \"secret\", B = 3 }\nworkers = 2\n",
            "[[service]]\nname = \"a\"\nenv.A = \"secret\"\nenv.B = \"\"\"\nsecret\n\"\"\"\nworkers = 2\n",
            "[[service]]\nname = \"a\"\nworkers = 2\n[service.env]\nA = \"secret\"\nB = \"\"\"\nuser = secret\n\"\"\"\n",
            // These cannot be read.
            "[[service]]\nname = \"a\"\nenv = { A = \"secret }\nworkers = 2\n",
            "[[service]]\nname = \"a\"\n\"env\" = { A = \"secret }\nworkers = 2\n",
            "[[service]]\nname = \"a\"\nenv = {\n A = \"secret\",\n B = secret }\nworkers = 2\n",
            "[[service]]\nname = \"a\"\nenv.A = \"secret\nworkers = 2\n",
            "[[service]]\nname = \"a\"\nworkers = 2\n[service.env]\nA = \"secret\nuser = \"secret\"\n",
        ] {
            let quoted: Vec<&str> =
                (1..=text.lines().count()).map(|number| line(text, number, is_key)).collect();
            assert!(quoted.iter().all(|line| !line.contains("secret")), "{quoted:?}");
            assert!(quoted.contains(&HIDDEN) && quoted.contains(&"workers = 2"), "{quoted:?}");
            assert!(quoted.contains(&"name = \"a\""), "{quoted:?}");
        }
        assert_eq!(line("a = 1\nenvy = 2", 2, is_key), "envy = 2");
        assert_eq!(line("", 1, is_key), "");
    }
}
