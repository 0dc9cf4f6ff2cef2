//! Texts of errors in a configuration file: an error of the parser → line, content of the line, and what to write
//! instead. Not: what is valid (`mod.rs`, `values.rs`).

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::quoted;
use crate::printable::inline;

/// An invalid configuration: what is wrong, where, and what to write instead. The command ends with exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// The values of each key, as the end of a sentence that begins with "write".
const VALUES: &[(&str, &str)] = &[
    ("name", "a text in quotes, like \"web\""),
    ("listen", "a list of addresses, like [\"tcp://127.0.0.1:8080\"]"),
    ("url", "an address, like \"tcp://127.0.0.1:8080\""),
    ("freebind", "true or false"),
    ("command", "a list of the program and its arguments, like [\"./server\", \"--fd\", \"3\"]"),
    ("workers", "a whole number from 0 to 1024"),
    (
        "affinity",
        "\"flow\", \"source\", \"random\", \"cpu\" or a table like { payload = { offset = 8, length = 4 } } or { program = \"/etc/reuseport-lb/key.o\" }",
    ),
    ("program", "the path of an object file in quotes, like \"/etc/reuseport-lb/key.o\""),
    ("payload", "a table like { offset = 8, length = 4 }, in bytes"),
    ("offset", "a whole number of bytes, from 0 on"),
    ("length", "a whole number of bytes, from 1 to 16"),
    ("ready", "\"accepting\", \"notify\", \"immediate\" or a time like \"500ms\""),
    ("on_crash", "\"hold\" or \"migrate\""),
    ("on_stall", "\"avoid\" or \"restart\""),
    ("replace", "\"start-first\" or \"stop-first\""),
    ("start_timeout", "a time like \"500ms\", \"2s\" or \"1m 30s\""),
    ("hold_timeout", "a time like \"500ms\", \"2s\" or \"1m 30s\""),
    ("drain_timeout", "a time like \"500ms\", \"2s\" or \"1m 30s\""),
    ("stop_signal", "\"TERM\", \"QUIT\", \"INT\", \"HUP\", \"USR1\", \"USR2\" or \"WINCH\""),
    ("stop_mode", "\"group\" or \"main\""),
    ("lame_duck", "a time like \"500ms\", \"2s\" or \"1m 30s\""),
    ("idle_timeout", "a time like \"500ms\", \"2s\" or \"1m 30s\""),
    ("stall_timeout", "\"off\" or a time like \"500ms\" or \"2s\""),
    ("watchdog", "\"off\" or a time like \"500ms\" or \"2s\""),
    ("overload", "\"off\" or a table like { factor = 2.0, floor = 16 }"),
    ("factor", "a number from 1.0 on"),
    ("floor", "a whole number from 1 to 4294967295"),
    ("when_empty", "\"hold\" or \"reject\""),
    ("when_busy", "\"queue\" or \"next\""),
    ("flows", "\"track\" or \"none\""),
    ("quic", "\"quic-lb\" or a table like { format = \"quic-lb\", server_id_length = 8 }"),
    ("format", "\"quic-lb\""),
    ("server_id_length", "4 or 8"),
    ("cid_length", "a whole number of bytes, up to 20"),
    ("count_connections", "true or false"),
    ("drain_until", "\"queue\" or \"connections\""),
    ("balance", "\"table\", \"least\" or a table like { bounded = 1.25 }"),
    ("bounded", "a number from 1.01 to 100"),
    ("backlog", "a whole number from 1 to 4294967295"),
    ("user", "the name or the number of a user, like \"www-data\" or 1001"),
    ("group", "the name or the number of a group, like \"www-data\" or 1001"),
    ("sockets", "\"pass\", \"bind\" or \"nginx\""),
    ("socket_owner", "\"daemon\" or \"user\""),
    ("join", "a list of users, names or numbers, like [\"www-data\", 1001]"),
    ("env", "a table of variables, like { PORT = \"8080\" }"),
    ("env_file", "the path of a file in quotes, like \"/etc/web.env\""),
    ("cwd", "the path of a directory in quotes, like \"/srv/web\""),
    ("umask", "octal digits in quotes, like \"022\""),
    ("nice", "a whole number from -20 to 19"),
    ("open_files", "a whole number, like 65536"),
    ("cpus", "\"all\" or \"each\""),
    ("log", "\"inherit\" or a table like { file = \"/var/log/web-{index}.log\", max = \"10MiB\", keep = 3 }"),
    ("file", "an absolute path in quotes, like \"/var/log/web-{index}.log\""),
    ("max", "a size in quotes, like \"10MiB\""),
    ("keep", "a whole number from 0 to 1000"),
];

/// Names of types in the words of the parser, and in plain ones.
const PLAIN: &[(&str, &str)] = &[
    ("a nonzero u32", "a whole number from 1 to 4294967295"),
    ("a nonzero usize", "a whole number from 1 on"),
    ("a nonzero u64", "a whole number from 1 on"),
    ("usize", "a whole number from 0 on"),
    ("u64", "a whole number from 0 on"),
    ("u32", "a whole number from 0 to 4294967295"),
    ("u16", "a whole number from 0 to 65535"),
    ("i64", "a whole number"),
    ("f64", "a number"),
    ("a boolean", "true or false"),
    ("a string", "a text in quotes"),
    ("a sequence", "a list in brackets"),
    ("a map", "a table"),
];

/// Formats an error as `line 3: message`, with the line itself below.
pub(super) fn located(text: &str, span: Option<Range<usize>>, message: &str) -> String {
    let message = &*inline(message.trim());
    let Some(span) = span else { return message.to_owned() };
    let before = text.get(..span.start.min(text.len())).unwrap_or(text);
    let number = before.matches('\n').count() + 1;
    format!(
        "line {number}: {message}\n  {number} | {}",
        quoted::line(text, number, |word| values(word).is_some())
    )
}

/// Formats an error of the parser of `text`.
pub(super) fn explain(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().trim();
    let span = error.span();
    let place = span.as_ref().and_then(|span| Location::find(text, span)).unwrap_or_default();
    let better = place.better(text, span.as_ref(), message);
    located(text, span, &better.unwrap_or_else(|| message.into()))
}

/// Replaces types like `u32` by plain words, which a user can follow.
pub(crate) fn plain(message: &str) -> String {
    let Some((before, expected)) = message.split_once("expected ") else { return message.into() };
    let known = PLAIN.iter().find_map(|(theirs, ours)| Some((ours, expected.strip_prefix(theirs)?)));
    known.map_or_else(|| message.into(), |(ours, rest)| format!("{before}expected {ours}{rest}"))
}

/// A position in the file, by the keys that lead to it.
#[derive(Default)]
struct Location {
    keys: Vec<String>,
    /// The value there is a table.
    table: bool,
}

impl Location {
    fn find(text: &str, span: &Range<usize>) -> Option<Self> {
        fn within(span: &Range<usize>, outer: &Range<usize>) -> bool {
            outer.start <= span.start && span.end <= outer.end
        }
        fn below(value: &DeValue<'_>, keys: &[String], span: &Range<usize>, found: &mut Option<Location>) {
            match value {
                DeValue::Table(table) => inside(table, keys, span, found),
                DeValue::Array(array) => array.iter().for_each(|one| below(one.get_ref(), keys, span, found)),
                _ => {}
            }
        }
        fn inside(table: &DeTable<'_>, above: &[String], span: &Range<usize>, found: &mut Option<Location>) {
            for (key, value) in table {
                let keys = [above, &[key.get_ref().to_string()]].concat();
                if within(span, &key.span()) || within(span, &value.span()) {
                    let table = matches!(value.get_ref(), DeValue::Table(_));
                    *found = Some(Location { keys: keys.clone(), table });
                }
                below(value.get_ref(), &keys, span, found);
            }
        }
        let mut found = None;
        inside(DeTable::parse(text).ok()?.get_ref(), &[], span, &mut found);
        found
    }

    /// A clearer text than the parser's `message`; `None` if that is clear.
    fn better(&self, text: &str, span: Option<&Range<usize>>, message: &str) -> Option<String> {
        if message.starts_with("unknown field") {
            let mut words = message.split('`').skip(1).step_by(2);
            let field = words.next()?;
            return Some(unknown(field, &words.collect::<Vec<&str>>()));
        }
        if let Some(field) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
            let write = values(field)?;
            let who = match field {
                "url" => "a listener",
                "length" => "`payload`",
                _ => "each service",
            };
            return Some(format!("missing field `{field}`: {who} needs it; write {field} = and {write}"));
        }
        let theirs = [
            "invalid type",
            "invalid value",
            "invalid length",
            "data did not match any variant",
            "unknown variant",
            "wanted string",
            "wanted exactly",
        ];
        let key = self.keys.last()?;
        if !theirs.iter().any(|start| message.starts_with(start)) {
            return None;
        }
        if quoted::within_env(&self.keys) {
            // Without what is there: it may be a secret.
            return Some(match key.as_str() {
                "env" => format!("`env` cannot be that: write {}", values("env")?),
                variable => {
                    format!("the variable {variable} in `env` cannot be that: write a text in quotes")
                }
            });
        }
        if self.keys.len() == 1 && key == "service" {
            return Some(match self.table {
                true => "[service] is a single table, and services are a list: write [[service]]".into(),
                false => {
                    "`service` takes no value: each service is a table that starts with [[service]]".into()
                }
            });
        }
        let there = text.get(span?.clone()).unwrap_or_default();
        let there = if self.table && there.starts_with('[') { "a table" } else { there };
        // What is wrong may be the only key of a table: then it is about what the table is for.
        let outer = self.keys.iter().rev().nth(1).filter(|_| there == key);
        let (key, there) = match outer {
            Some(outer) => (outer, format!("{{ {there} = … }}")),
            None => (key, shorten(there)),
        };
        let write = match (values(key), plain(message).split_once("expected ")) {
            (Some(write), _) => write.to_owned(),
            (None, Some((_, expected))) => expected.replace('`', "\""),
            (None, None) => return None,
        };
        Some(format!("`{key}` cannot be {there}: write {write}"))
    }
}

fn values(key: &str) -> Option<&'static str> {
    VALUES.iter().find(|(name, _)| *name == key).map(|(_, write)| *write)
}

fn unknown(field: &str, known: &[&str]) -> String {
    if known.contains(&"service") {
        return match nearest(field, known) {
            Some("service") => format!("unknown field `{field}`: did you mean [[service]]?"),
            Some(table) => format!("unknown field `{field}`: did you mean [{table}]?"),
            None if values(field).is_some() => {
                format!("unknown field `{field}` outside of a service: write it below a line [[service]]")
            }
            None => format!(
                "unknown field `{field}`: only tables that start with [[service]], and [http], are known"
            ),
        };
    }
    match nearest(field, known) {
        Some(near) => format!("unknown field `{field}`: did you mean `{near}`?"),
        None => format!("unknown field `{field}`; known are {}", known.join(", ")),
    }
}

/// The word of `known` that `word` is probably a misspelling of.
pub(crate) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let word = word.to_lowercase().replace('-', "_");
    let far = |known: &&&str| strsim::damerau_levenshtein(&word, known);
    let near = known.iter().min_by_key(far)?;
    // One wrong letter in a short word, up to three in a longer one; or the beginning of one word only.
    let most = if near.len() < 5 { 1 } else { (near.len() / 3).min(3) };
    let begins = word.len() >= 3 && known.iter().filter(|known| known.starts_with(&word)).count() == 1;
    if far(&near) <= most {
        return Some(near);
    }
    known.iter().find(|known| begins && known.starts_with(&word)).copied()
}

/// The first line of a value, cut off after 40 characters.
fn shorten(value: &str) -> String {
    const MOST: usize = 40;
    let line = value.lines().next().unwrap_or_default();
    if line.chars().count() <= MOST && line.len() == value.len() {
        return line.to_owned();
    }
    line.chars().take(MOST).collect::<String>() + "…"
}

#[cfg(test)]
mod tests {
    use super::super::{Machine, parse};
    use super::*;

    #[test]
    fn what_is_near_to_what_was_meant_is_named() {
        let service = "[[service]]\nname = \"web\"\nlisten = [\"tcp://127.0.0.1:80\"]\n";
        for (text, line, says) in [
            (service.replace("[[service]]", "[service]"), 1, "write [[service]]"),
            (service.replace("[[service]]", "[[services]]"), 1, "did you mean [[service]]?"),
            (service.replace("[[service]]", "[Service]"), 1, "did you mean [[service]]?"),
            (service.replace("[[service]]", "[web]"), 1, "that start with [[service]]"),
            (format!("[htp]\nlisten = \"127.0.0.1:1\"\n{service}"), 1, "did you mean [http]?"),
            (service.replace("[[service]]\n", ""), 2, "below a line [[service]]"),
            ("service = 3\n".into(), 1, "starts with [[service]]"),
            (format!("{service}hold-timeout = \"2s\"\n"), 4, "did you mean `hold_timeout`?"),
            (format!("{service}worker = 2\n"), 4, "did you mean `workers`?"),
            (format!("{service}Backlog = 2\n"), 4, "did you mean `backlog`?"),
            (format!("{service}zzz = 2\n"), 4, "known are name, listen, command"),
            (format!("{service}overload = {{ flor = 2 }}\n"), 4, "did you mean `floor`?"),
            (
                service.replace("[\"tcp://127.0.0.1:80\"]", "\"tcp://127.0.0.1:80\""),
                3,
                "write a list of addresses",
            ),
            (format!("{service}command = \"./server --fd 3\"\n"), 4, "write a list of the program"),
            (format!("{service}[[service.overload]]\nfloor = 2\n"), 4, "\"off\" or a table like"),
        ] {
            let Invalid(error) = parse(&text, Machine::ANOTHER).unwrap_err();
            assert!(error.starts_with(&format!("line {line}:")) && error.contains(says), "{text}{error}");
        }
    }
}
