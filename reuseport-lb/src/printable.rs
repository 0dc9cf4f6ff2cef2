//! Text for a terminal, PURE: what others have chosen (a command, a path, a name) must not steer it.

use std::borrow::Cow;

/// `text` with its control characters escaped, as in `\\u{1b}`; ends of lines and tabs stay.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(steers) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) { escaped.extend(c.escape_default()) } else { escaped.push(c) }
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
    }
}
