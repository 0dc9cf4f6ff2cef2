//! Text for a terminal or a log, PURE: text from outside (a command, a path, a name) must not control the terminal,
//! nor look like another line of the log. Not: output of workers, which is passed on unchanged.

use std::borrow::Cow;
use std::path::Path;
use std::time::SystemTime;

use serde_json::Value;

/// `text` with control characters escaped, as in `\u{1b}`; ends of lines and tabs stay.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    escape(text, |c| steers(c) && !matches!(c, '\n' | '\t'), |c, to| to.extend(c.escape_default()))
}

/// `text` as a part of a line: with ends of lines escaped as well.
#[must_use]
pub fn inline(text: &str) -> Cow<'_, str> {
    escape(text, steers, |c, to| to.extend(c.escape_default()))
}

/// `path` as a part of a line.
#[must_use]
pub fn path(path: &Path) -> String {
    inline(&path.to_string_lossy()).into_owned()
}

/// JSON `text` with control characters escaped as in JSON strings, the only place where it can have them.
#[must_use]
pub fn json(text: &str) -> Cow<'_, str> {
    let code = |c: char, to: &mut String| to.push_str(&format!("\\u{:04x}", u32::from(c)));
    escape(text, |c| steers(c) && !matches!(c, '\n' | '\t' | '\r'), code)
}

/// A line of a log as a JSON object: the time (RFC 3339, UTC), level and message, then other members.
#[must_use]
pub fn log_line(time: SystemTime, level: &str, message: &str, others: &[(&str, Value)]) -> String {
    let time = humantime::format_rfc3339_micros(time);
    let mut text =
        format!("{{\"time\":\"{time}\",\"level\":\"{level}\",\"message\":{}", Value::from(message));
    for (name, value) in others {
        text += &format!(",{}:{value}", Value::from(*name));
    }
    json(&text).into_owned() + "}\n"
}

/// Bytes that a character takes in a string of [`log_line`].
#[must_use]
pub fn length_in_json(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        _ if steers(c) => 6,
        _ => c.len_utf8(),
    }
}

/// Whether a character is escaped: control characters, and those that change the direction of text or end a line. None
/// is beyond U+FFFF.
fn steers(c: char) -> bool {
    let turns =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}')
}

fn escape(text: &str, which: impl Fn(char) -> bool, how: impl Fn(char, &mut String)) -> Cow<'_, str> {
    // Most text is long and plain, and looked at faster byte by byte.
    let plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if plain || !text.contains(&which) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if which(c) { how(c, &mut escaped) } else { escaped.push(c) }
    }
    escaped.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_nothing_else_is() {
        assert_eq!(printable("a \u{1b}[2J\u{9b}1m\r\u{7f}"), "a \\u{1b}[2J\\u{9b}1m\\r\\u{7f}");
        assert_eq!(printable("zwölf\n\tKöpfe"), "zwölf\n\tKöpfe");
        assert_eq!(printable("abc\u{202e}def\u{2028}"), "abc\\u{202e}def\\u{2028}");
        assert_eq!(inline("zwölf\n\tKöpfe"), "zwölf\\n\\tKöpfe");
    }

    #[test]
    fn a_line_of_a_log_is_one_object_without_control_characters() {
        let all: String = (0..=0x2070).filter_map(char::from_u32).collect();
        let line = log_line(SystemTime::UNIX_EPOCH, "WARN", &all, &[("pid", 7.into()), ("x\n", "y".into())]);
        let (text, end) = line.split_at(line.len() - 1);
        assert!(end == "\n" && !text.chars().any(steers), "{line}");
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(
            value,
            serde_json::json!({ "time": "1970-01-01T00:00:00.000000Z", "level": "WARN", "message": all, "pid": 7, "x\n": "y" })
        );
        let empty = log_line(SystemTime::UNIX_EPOCH, "WARN", "", &[("pid", 7.into()), ("x\n", "y".into())]);
        assert_eq!(line.len() - empty.len(), all.chars().map(length_in_json).sum::<usize>());
    }

    #[test]
    fn json_stays_json() {
        let all: String = (0..=0x2070).filter_map(char::from_u32).collect();
        let text = serde_json::to_string_pretty(&[&all]).unwrap();
        let shown = json(&text);
        assert!(shown.chars().all(|c| c == '\n' || !steers(c)), "{shown}");
        assert_eq!(serde_json::from_str::<[String; 1]>(&shown).unwrap(), [all]);
    }
}
