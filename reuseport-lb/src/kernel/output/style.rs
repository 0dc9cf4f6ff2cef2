//! How lines of a worker's output look where those of several workers come together, as text and as JSON. Not: cutting
//! them out of the stream (`lines.rs`).

use std::time::SystemTime;

use serde_json::Value;

use super::lines::{AT_ONCE, Piece};
use crate::printable::{length_in_json, log_line};

/// How lines look where those of several workers come together.
pub(super) struct Style {
    /// The worker's name.
    name: String,
    /// Lines begin with their priority, as the journal has it (sd-daemon(3)).
    journal: bool,
    /// Lines are JSON objects.
    json: bool,
}

/// Priorities of the journal (syslog(3)).
const WARNING: &str = "<4>";
const INFO: &str = "<6>";

impl Style {
    pub(super) fn new(name: &str, journal: bool, json: bool) -> Self {
        Self { name: name.to_owned(), journal, json }
    }

    /// How long pieces may be, so that a line with all its marks is written at once.
    pub(super) fn most(&self) -> usize {
        AT_ONCE - self.marks()
    }

    /// Bytes that a piece takes, if nothing in it must be escaped.
    pub(super) fn length(&self, piece: &Piece<'_>) -> usize {
        piece.text.len() + self.marks()
    }

    /// Bytes of a line besides its text.
    fn marks(&self) -> usize {
        if self.json {
            return INFO.len() + self.object("ERROR", "", false).len();
        }
        INFO.len() + self.name.len() + "+: \n".len()
    }

    /// Adds a piece as a line: its priority, the name, and the text. A priority at its beginning stays in front.
    pub(super) fn format(&self, piece: &Piece<'_>, to: &mut Vec<u8>) {
        if self.json {
            return self.format_json(piece, to);
        }
        let mut text = piece.text;
        if self.journal {
            match text {
                [b'<', b'0'..=b'7', b'>', ..] if piece.begins => {
                    to.extend_from_slice(&text[..INFO.len()]);
                    text = &text[INFO.len()..];
                }
                _ => to.extend_from_slice(INFO.as_bytes()),
            }
        }
        to.extend_from_slice(self.name.as_bytes());
        to.extend_from_slice(if piece.begins { b": " } else { b"+: " });
        to.extend_from_slice(text);
        to.push(b'\n');
    }

    /// Adds a piece as one object, or as several if it is too long with its control characters escaped. A priority at its
    /// beginning becomes the level.
    fn format_json(&self, piece: &Piece<'_>, to: &mut Vec<u8>) {
        let (priority, text) = match piece.text {
            [b'<', priority @ b'0'..=b'7', b'>', text @ ..] if piece.begins => (*priority, text),
            text => (b'6', text),
        };
        let level = match priority {
            b'0'..=b'3' => "ERROR",
            b'4' => "WARN",
            b'7' => "DEBUG",
            _ => "INFO",
        };
        let (text, most) = (String::from_utf8_lossy(text), self.most());
        let (mut rest, mut begins) = (&*text, piece.begins);
        loop {
            let mut length = 0;
            let fits = |c: &char| {
                length += length_in_json(*c);
                length <= most
            };
            let taken: usize = rest.chars().take_while(fits).map(char::len_utf8).sum();
            let (part, more) = rest.split_at(taken);
            if self.journal {
                to.extend_from_slice(&[b'<', priority, b'>']);
            }
            to.extend_from_slice(self.object(level, part, begins).as_bytes());
            (rest, begins) = (more, false);
            if rest.is_empty() {
                return;
            }
        }
    }

    fn object(&self, level: &str, text: &str, begins: bool) -> String {
        let worker = ("worker", Value::from(&*self.name));
        let others = [worker, ("continues", Value::from(true))];
        log_line(SystemTime::now(), level, text, if begins { &others[..1] } else { &others })
    }

    /// The text of a line that was formatted without a priority.
    pub(super) fn text_of<'a>(&self, line: &'a [u8]) -> Option<&'a [u8]> {
        let text = line.strip_prefix(self.name.as_bytes())?;
        text.strip_prefix(b": ").or_else(|| text.strip_prefix(b"+: "))
    }

    /// A line of our own about the worker's output.
    pub(super) fn remark(&self, remark: &str) -> Vec<u8> {
        let priority = if self.journal { WARNING } else { "" };
        if self.json {
            return (priority.to_owned() + &self.object("WARN", remark, true)).into_bytes();
        }
        format!("{priority}{}: {remark}\n", self.name).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::lines::Splitter;
    use super::*;

    fn line(text: &[u8]) -> Piece<'_> {
        Piece { text, begins: true, ends: true }
    }

    #[test]
    fn long_lines_are_cut_into_parts_and_say_so() {
        let style = Style::new("web/0", false, false);
        let mut splitter = Splitter::new(4);
        let mut text = Vec::new();
        let mut each = |piece: Piece<'_>| style.format(&piece, &mut text);
        splitter.push(b"ab\nabcd\nabcdefghij\n\nx", &mut each);
        splitter.push(b"y", &mut each);
        splitter.finish(&mut each);
        splitter.finish(&mut each);
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "web/0: ab\nweb/0: abcd\nweb/0: abcd\nweb/0+: efgh\nweb/0+: ij\nweb/0: \nweb/0: xy\n"
        );
    }

    #[test]
    fn in_the_journal_lines_have_priorities_and_keep_their_own() {
        let style = Style::new("web/0", true, false);
        let mut text = Vec::new();
        for piece in [
            line(b"plain"),
            line(b"<3>bad"),
            line(b"<8>x"),
            line(b"<3"),
            Piece { text: b"<3>", begins: false, ends: true },
        ] {
            style.format(&piece, &mut text);
        }
        text.extend(style.remark("it"));
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "<6>web/0: plain\n<3>web/0: bad\n<6>web/0: <8>x\n<6>web/0: <3\n<6>web/0+: <3>\n<4>web/0: it\n"
        );
        let (longest, mut whole) = (vec![b'x'; style.most()], Vec::new());
        style.format(&Piece { text: &longest, begins: false, ends: true }, &mut whole);
        assert_eq!(whole.len(), AT_ONCE);
    }

    /// The objects of these pieces without their times, which are times, and their priorities.
    fn objects(style: &Style, pieces: &[Piece<'_>]) -> Vec<(String, Value)> {
        let mut text = Vec::new();
        pieces.iter().for_each(|piece| style.format(piece, &mut text));
        let object = |line: &str| {
            assert!(line.len() < AT_ONCE, "{} bytes", line.len());
            let (priority, object) = line.split_at(line.find('{').unwrap());
            let mut value: Value = serde_json::from_str(object).unwrap();
            let time = value.as_object_mut().unwrap().remove("time").unwrap();
            assert!(humantime::parse_rfc3339(time.as_str().unwrap()).is_ok(), "{time}");
            (priority.to_owned(), value)
        };
        String::from_utf8(text).unwrap().lines().map(object).collect()
    }

    #[test]
    fn as_json_a_line_is_an_object_with_the_workers_name_and_its_level() {
        let style = Style::new("web/0", true, true);
        let more = Piece { text: b"<3>", begins: false, ends: true };
        let pieces =
            [line(b"\x1b[1m\xff \"zw\xc3\xb6lf\""), line(b"<3>bad"), line(b"<4>"), line(b"<8>x"), more];
        let named =
            |level: &str, message: &str| json!({ "level": level, "message": message, "worker": "web/0" });
        let mut continued = named("INFO", "<3>");
        continued["continues"] = true.into();
        let expected = [
            ("<6>", named("INFO", "\u{1b}[1m\u{fffd} \"zwölf\"")),
            ("<3>", named("ERROR", "bad")),
            ("<4>", named("WARN", "")),
            ("<6>", named("INFO", "<8>x")),
            ("<6>", continued),
        ];
        assert_eq!(
            objects(&style, &pieces),
            expected.map(|(priority, object)| (priority.to_owned(), object))
        );
        let remark = String::from_utf8(style.remark("it")).unwrap();
        assert!(remark.starts_with("<4>{\"time\"") && remark.contains("\"level\":\"WARN\""), "{remark}");
        let plain = objects(&Style::new("web/0", false, true), &pieces[1..2]);
        assert_eq!(plain, [(String::new(), named("ERROR", "bad"))]);
    }

    #[test]
    fn a_line_that_escapes_make_too_long_comes_in_parts_that_are_written_at_once() {
        let style = Style::new("web/0", true, true);
        let text: Vec<u8> = [&[0x1b; 3000][..], &[b'x'; 900]].concat();
        assert!(text.len() <= style.most());
        let parts = objects(&style, &[line(&text)]);
        assert!(parts.len() > 4 && parts[0].1.get("continues").is_none());
        assert!(parts[1..].iter().all(|(_, part)| part["continues"] == true));
        let whole: String = parts.iter().map(|(_, part)| part["message"].as_str().unwrap()).collect();
        assert_eq!(whole.as_bytes(), text);
    }
}
