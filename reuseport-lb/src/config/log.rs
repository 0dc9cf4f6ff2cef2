//! `log` as it is written in a file: where the output of workers goes. Not: the values (`process.rs`).

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::process::{LogFile, LogTo};
use crate::placeholders;

/// Least and most bytes of a log file.
const LEAST: u64 = 4 << 10;
const MOST: u64 = 1 << 40;

/// Most old files.
const MOST_KEPT: u32 = 1000;

/// Units of sizes, and their bytes.
const UNITS: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("B", 1)];

/// The value of `log`: `inherit`, or a table of `file`, `max` and `keep`.
pub(super) struct Log(pub(super) LogTo);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    file: Path,
    #[serde(default)]
    max: Size,
    #[serde(default)]
    keep: Keep,
}

struct Path(String);
struct Size(u64);
struct Keep(u32);

impl Default for Size {
    fn default() -> Self {
        Self(10 << 20)
    }
}

impl Default for Keep {
    fn default() -> Self {
        Self(3)
    }
}

impl<'de> Deserialize<'de> for Log {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InheritOrTable;
        impl<'de> Visitor<'de> for InheritOrTable {
            type Value = Log;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"inherit\" or a table like { file = \"/var/log/web-{index}.log\", max = \"10MiB\", keep = 3 }")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Log, E> {
                match text {
                    "inherit" => Ok(Log(LogTo::Inherit)),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Log, A::Error> {
                let Table { file, max, keep } = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Log(LogTo::File(LogFile { path: file.0, max: max.0, keep: keep.0 })))
            }
        }
        deserializer.deserialize_any(InheritOrTable)
    }
}

impl<'de> Deserialize<'de> for Path {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let path = String::deserialize(deserializer)?;
        check_path(&path).map(|()| Self(path)).map_err(D::Error::custom)
    }
}

/// What is wrong with the path of a log file.
fn check_path(path: &str) -> Result<(), String> {
    if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
        return Err(format!(
            "{path:?} is no path of a log file: write an absolute one, like \"/var/log/web-{{index}}.log\""
        ));
    }
    if placeholders::has(path, "pid") {
        return Err(
            "the path of a log file cannot have {pid}: each process would begin one that nobody removes; \
                    {index}, {worker} and {service} stay the same"
                .into(),
        );
    }
    Ok(())
}

/// Reads where output goes from the command line: `inherit`, or the path of a file.
pub fn log(text: &str) -> Result<LogTo, String> {
    if text == "inherit" {
        return Ok(LogTo::Inherit);
    }
    check_path(text)?;
    Ok(LogTo::File(LogFile { path: text.into(), max: Size::default().0, keep: Keep::default().0 }))
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        size(&text).map(Self).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Keep {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        let keep = u32::try_from(number).ok().filter(|keep| *keep <= MOST_KEPT);
        keep.map(Self).ok_or_else(|| {
            D::Error::custom(format!(
                "{number} old log files cannot be kept: write a number from 0 to {MOST_KEPT}"
            ))
        })
    }
}

/// A size like `10MiB`.
fn size(text: &str) -> Result<u64, String> {
    let of = |(unit, bytes): &(&str, u64)| {
        let number: u64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
        number.checked_mul(*bytes)
    };
    match UNITS.iter().find_map(of) {
        Some(size @ LEAST..=MOST) => Ok(size),
        Some(_) => Err(format!("{text:?} is no size for a log file: write one from \"4KiB\" to \"1024GiB\"")),
        None => Err(format!(
            "{text:?} is no size: write a whole number with its unit, like \"512KiB\", \"10MiB\" or \"1GiB\""
        )),
    }
}

/// A size as it is written.
#[must_use]
pub fn written(bytes: u64) -> String {
    let (unit, size) =
        UNITS.iter().rfind(|(unit, size)| *unit != "B" && bytes.is_multiple_of(*size)).unwrap_or(&UNITS[3]);
    format!("{}{unit}", bytes / size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct File {
        log: Log,
    }

    fn read(value: &str) -> Result<LogTo, String> {
        let read: Result<File, _> = toml::from_str(&format!("log = {value}"));
        read.map(|file| file.log.0).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn a_log_is_inherit_or_a_file_with_a_size_and_a_number() {
        assert_eq!(read("\"inherit\""), Ok(LogTo::Inherit));
        assert_eq!(log("inherit"), Ok(LogTo::Inherit));
        let file = |path: &str, max, keep| Ok(LogTo::File(LogFile { path: path.into(), max, keep }));
        assert_eq!(log("/l/{index}"), file("/l/{index}", 10 << 20, 3), "on the command line");
        assert!(log("web.log").is_err_and(|error| error.contains("write an absolute one")));
        assert!(log("/l/{pid}").is_err_and(|error| error.contains("cannot have {pid}")));
        assert_eq!(read("{ file = \"/l/{index}\" }"), file("/l/{index}", 10 << 20, 3));
        assert_eq!(read("{ file = \"/l\", max = \"4KiB\", keep = 0 }"), file("/l", 4096, 0));
        assert_eq!(read("{ file = \"/l\", max = \"5000 B\", keep = 1000 }"), file("/l", 5000, 1000));
        for (value, says) in [
            ("\"stderr\"", "expected \"inherit\" or a table like { file ="),
            ("7", "expected \"inherit\" or a table"),
            ("{}", "missing field `file`"),
            ("{ file = \"log\" }", "write an absolute one"),
            ("{ file = \"/var/log/\" }", "write an absolute one"),
            ("{ file = \"/l-{pid}\" }", "cannot have {pid}"),
            ("{ file = \"/l\", max = \"10\" }", "with its unit"),
            ("{ file = \"/l\", max = \"10 MB\" }", "with its unit"),
            ("{ file = \"/l\", max = \"99999999999999GiB\" }", "with its unit"),
            ("{ file = \"/l\", max = \"1KiB\" }", "from \"4KiB\""),
            ("{ file = \"/l\", keep = -1 }", "from 0 to 1000"),
            ("{ file = \"/l\", keep = 1001 }", "from 0 to 1000"),
            ("{ file = \"/l\", size = 1 }", "unknown field `size`"),
        ] {
            let error = read(value).unwrap_err();
            assert!(error.contains(says), "{value}: {error}");
        }
    }

    #[test]
    fn a_size_is_written_as_it_is_read() {
        for text in ["4KiB", "10MiB", "3GiB", "5000B"] {
            assert_eq!(written(size(text).unwrap()), text);
        }
    }
}
