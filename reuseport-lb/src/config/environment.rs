//! What a worker's process is started with, from text: variables, files of them, working directory, masks and
//! numbers. Not: the values (`process.rs`).

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::machine::Machine;
use super::process::{Cpus, EnvFile, ProcessConfig};
use crate::{placeholders, printable};

/// Fewest files that a worker may have open, besides its sockets: programs open some at their start.
const FEWEST_FILES: usize = 16;

/// Variables that each worker has from the daemon.
const OWN: [&str; 6] =
    ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// How the names of further ones begin.
const OWN_PREFIX: &str = "REUSEPORT_LB_";

/// The keys as they are written in the file, and what they must fit.
pub(super) struct Written {
    pub(super) has_command: bool,
    pub(super) has_user: bool,
    pub(super) sockets: usize,
    pub(super) env: Option<BTreeMap<Spanned<String>, String>>,
    pub(super) env_file: Option<Spanned<String>>,
    pub(super) cwd: Option<Spanned<String>>,
    pub(super) umask: Option<Spanned<Umask>>,
    pub(super) nice: Option<Spanned<Nice>>,
    pub(super) open_files: Option<Spanned<u32>>,
    pub(super) cpus: Option<Spanned<Cpus>>,
    pub(super) group: Option<Spanned<Id>>,
}

/// What is wrong, and where that is written.
type Wrong = (Range<usize>, String);

impl Written {
    pub(super) fn validated(self, machine: Machine) -> Result<ProcessConfig, Wrong> {
        if let (false, Some((key, span))) = (self.has_command, self.first()) {
            return Err((
                span,
                format!("`{key}` is about workers that are started with a `command`, and there is none"),
            ));
        }
        let mut process = ProcessConfig::default();
        for (name, value) in self.env.into_iter().flatten() {
            let span = name.span();
            let name = name.into_inner();
            check_variable(&name, &value).map_err(|error| (span, error))?;
            process.env.insert(name, value);
        }
        if let Some(path) = self.env_file {
            let span = path.span();
            let file = read(path.get_ref(), machine).map_err(|error| (span, error))?;
            process.env_file = Some(file);
        }
        if let Some(cwd) = self.cwd {
            check_directory(cwd.get_ref()).map_err(|error| (cwd.span(), error))?;
            process.cwd = Some(cwd.into_inner());
        }
        process.umask = self.umask.map(|umask| umask.into_inner().0);
        process.nice = self.nice.map(|nice| nice.into_inner().0);
        if let Some(files) = self.open_files {
            let sockets = self.sockets;
            let fewest = FEWEST_FILES + sockets;
            if (*files.get_ref() as usize) < fewest {
                let message = format!(
                    "`open_files` = {} is too few for a worker with {sockets} sockets: the least is {fewest}",
                    files.get_ref()
                );
                return Err((files.span(), message));
            }
            process.open_files = Some(files.into_inner());
        }
        process.cpus = self.cpus.map(Spanned::into_inner).unwrap_or_default();
        if let Some(group) = self.group {
            let span = group.span();
            if !self.has_user {
                let message =
                    "`group` is in place of the primary group of `user`, and there is none: add `user`";
                return Err((span, message.into()));
            }
            let Id(group) = group.into_inner();
            (machine.group)(&group).map_err(|error| (span, error))?;
            process.group = Some(group);
        }
        Ok(process)
    }

    /// One key that is there, and where.
    fn first(&self) -> Option<(&'static str, Range<usize>)> {
        let env = self.env.as_ref().and_then(|env| env.keys().next().map(Spanned::span));
        [
            ("env", env),
            ("env_file", self.env_file.as_ref().map(Spanned::span)),
            ("cwd", self.cwd.as_ref().map(Spanned::span)),
            ("umask", self.umask.as_ref().map(Spanned::span)),
            ("nice", self.nice.as_ref().map(Spanned::span)),
            ("open_files", self.open_files.as_ref().map(Spanned::span)),
            ("cpus", self.cpus.as_ref().map(Spanned::span)),
        ]
        .into_iter()
        .find_map(|(key, span)| Some((key, span?)))
    }
}

/// What a name of a variable is made of.
const NAMES: &str = "use letters, digits and '_', and no digit at the start";

fn is_name(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.is_empty() && name.chars().all(word) && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// Fails unless `name` can be a variable of a worker, and `value` its value.
pub fn check_variable(name: &str, value: &str) -> Result<(), String> {
    if !is_name(name) {
        return Err(format!("{name:?} is no name of a variable: {NAMES}"));
    }
    if OWN.contains(&name) || name.starts_with(OWN_PREFIX) {
        return Err(format!("the daemon gives each worker a {name} of its own: leave it out"));
    }
    if value.contains('\0') {
        return Err(format!("the value of {name} has a zero byte, which no variable can have"));
    }
    Ok(())
}

/// Fails unless `cwd` can be the path of a working directory.
pub fn check_directory(cwd: &str) -> Result<(), String> {
    if cwd.is_empty() || cwd.contains('\0') {
        return Err("`cwd` cannot be that: write the path of a directory, like \"/srv/web\"".into());
    }
    if placeholders::has(cwd, "pid") {
        return Err(
            "`cwd` cannot have {pid}, as nobody can make the directory before there is the process; \
                    {index}, {worker} and {service} are known before"
                .into(),
        );
    }
    Ok(())
}

/// Fails if the program of a command, which is one for all workers, has a placeholder.
pub fn check_program(program: &str) -> Result<(), String> {
    if placeholders::any(program) {
        return Err(format!(
            "the program {program:?} has a placeholder, and all workers run one program: \
             write placeholders into its arguments, `env` and `cwd`"
        ));
    }
    Ok(())
}

fn read(path: &str, machine: Machine) -> Result<EnvFile, String> {
    let text = (machine.file)(Path::new(path))?;
    let variables = variables(&text)
        .map_err(|(line, error)| format!("{}: line {line}: {error}", printable::path(Path::new(path))))?;
    Ok(EnvFile { path: path.into(), variables })
}

/// The variables of a file with a `KEY=VALUE` on each line, as systemd.exec(5) has it for EnvironmentFile=; of two
/// with one name the later counts. Fails with the number of a line and what is wrong there, without its value,
/// which may be a secret.
fn variables(text: &str) -> Result<BTreeMap<String, String>, (usize, String)> {
    let mut variables = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let (name, value) = variable(line).map_err(|error| (number, error))?;
        variables.insert(name, value);
    }
    Ok(variables)
}

fn variable(line: &str) -> Result<(String, String), String> {
    let (name, value) =
        line.split_once('=').ok_or("there is no '=': write KEY=VALUE, or # before a comment")?;
    let name = name.trim_end();
    if let Some(rest) = name.strip_prefix("export ") {
        return Err(format!("this is no shell script: write {}= without `export`", rest.trim()));
    }
    if !is_name(name) {
        // Not told: it may be a part of a secret.
        return Err(format!("what stands before the '=' is no name of a variable: {NAMES}"));
    }
    let value = unquoted(value.trim_start()).map_err(|error| format!("the value of {name} {error}"))?;
    check_variable(name, &value)?;
    Ok((name.to_owned(), value))
}

/// A value without its quotes: within double ones `\"` and `\\` stand for `"` and `\`, within single ones nothing does.
fn unquoted(value: &str) -> Result<String, &'static str> {
    const OPEN: &str = "begins with a quote that no quote closes: each value is on one line";
    let (text, rest) = if let Some(inside) = value.strip_prefix('\'') {
        let (text, rest) = inside.split_once('\'').ok_or(OPEN)?;
        (text.to_owned(), rest)
    } else if let Some(inside) = value.strip_prefix('"') {
        let mut text = String::new();
        let mut characters = inside.chars();
        loop {
            match characters.next().ok_or(OPEN)? {
                '"' => break,
                '\\' => match characters.next().ok_or(OPEN)? {
                    it @ ('"' | '\\') => text.push(it),
                    other => text.extend(['\\', other]),
                },
                other => text.push(other),
            }
        }
        (text, characters.as_str())
    } else if value.ends_with('\\') {
        return Err("ends in a backslash: each value is on one line");
    } else {
        return Ok(value.to_owned());
    };
    if rest.is_empty() {
        Ok(text)
    } else {
        Err("goes on behind its closing quote: put quotes around all of it")
    }
}

/// The value of `umask`: octal digits in quotes.
pub(super) struct Umask(u32);

impl<'de> Deserialize<'de> for Umask {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let octal = !text.is_empty() && text.len() <= 4 && text.bytes().all(|it| (b'0'..=b'7').contains(&it));
        let mask = u32::from_str_radix(&text, 8).ok().filter(|mask| octal && *mask <= 0o777);
        mask.map(Self).ok_or_else(|| {
            D::Error::custom(format!(
                "{text:?} is no umask: write octal digits from \"000\" to \"777\", like \"022\""
            ))
        })
    }
}

/// The value of `nice`.
pub(super) struct Nice(i32);

impl<'de> Deserialize<'de> for Nice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        let nice = i32::try_from(number).ok().filter(|nice| (-20..=19).contains(nice));
        nice.map(Self).ok_or_else(|| {
            D::Error::custom(format!(
                "{number} is no nice value: write a whole number from -20 (is served first) to 19 (last)"
            ))
        })
    }
}

/// The name or the number of a user or a group.
pub(super) struct Id(pub(super) String);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrNumber;
        impl serde::de::Visitor<'_> for NameOrNumber {
            type Value = Id;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a name in quotes, or a number")
            }
            fn visit_str<E: Error>(self, name: &str) -> Result<Id, E> {
                Ok(Id(name.to_owned()))
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Id, E> {
                Ok(Id(number.to_string()))
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<Id, E> {
                Ok(Id(number.to_string()))
            }
        }
        deserializer.deserialize_any(NameOrNumber)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_variables_is_read_as_systemd_reads_it() {
        let text = "# a comment\n; another\n\n  A = 1  \nB=\nC=\"a \\\"b\\\" \\\\ \\n\"\nD='as \\it is \"'\n\
                    E=x=y # all of it\nA=2\r\nF={index}\n";
        let read = variables(text).unwrap();
        let read: Vec<(&str, &str)> = read.iter().map(|(name, value)| (&**name, &**value)).collect();
        let expected = [
            ("A", "2"),
            ("B", ""),
            ("C", "a \"b\" \\ \\n"),
            ("D", "as \\it is \""),
            ("E", "x=y # all of it"),
            ("F", "{index}"),
        ];
        assert_eq!(read, expected);
    }

    #[test]
    fn what_is_wrong_in_a_file_of_variables_is_named_without_its_value() {
        for (text, line, says) in [
            ("A=1\nsecret", 2, "there is no '='"),
            ("export A=secret", 1, "write A= without `export`"),
            ("\n\n1A=secret", 3, "no digit at the start"),
            ("A-B=secret", 1, "before the '=' is no name"),
            ("=secret", 1, "before the '=' is no name"),
            ("c2VjcmV0+secret==", 1, "before the '=' is no name"),
            ("A=\"secret", 1, "no quote closes"),
            ("A='secret", 1, "no quote closes"),
            ("A=\"secret\\", 1, "no quote closes"),
            ("A=\"secret\" x", 1, "behind its closing quote"),
            ("A=secret\\\nB=1", 1, "ends in a backslash"),
            ("LISTEN_FDS=9", 1, "of its own"),
            ("REUSEPORT_LB_WORKER=secret", 1, "of its own"),
            ("A=secret\0", 1, "zero byte"),
        ] {
            let (at, error) = variables(text).unwrap_err();
            assert_eq!(at, line, "{text}");
            assert!(error.contains(says) && !error.contains("secret"), "{text}: {error}");
        }
    }
}
