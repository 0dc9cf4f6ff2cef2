//! Values of options: numbers with their limits, `+1`; and commands that do not exist.

use std::net::IpAddr;
use std::time::Duration;

use clap::Command;
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};
use reuseport_lb_client::api::Scale;

use crate::config::{self, MAX_WORKERS, Replace, SocketSource};

/// Reads `5`, `+2` or `-1`.
pub(super) fn workers(text: &str) -> Result<Scale, String> {
    let (sign, digits) = match text.split_at_checked(1) {
        Some(("+", digits)) => (Some(1), digits),
        Some(("-", digits)) => (Some(-1), digits),
        _ => (None, text),
    };
    let number = whole(digits).ok_or_else(|| {
        format!("write a whole number from 0 to {MAX_WORKERS}, or how many more or fewer it shall have, like +1 or -1")
    })?;
    let number = usize::try_from(number).unwrap_or(usize::MAX);
    config::check_workers(number)?;
    Ok(sign.map_or(Scale::to(number), |sign| Scale::by(sign * number as i64)))
}

/// Reads a number of workers.
pub(super) fn count(text: &str) -> Result<usize, String> {
    let workers =
        whole(text).ok_or_else(|| format!("write a whole number from 0 to {MAX_WORKERS}, like 4"))?;
    let workers = usize::try_from(workers).unwrap_or(usize::MAX);
    config::check_workers(workers).map(|()| workers)
}

/// Reads a weight; the daemon knows the largest.
pub(super) fn weight(text: &str) -> Result<u32, String> {
    let weight = whole(text).and_then(|weight| u32::try_from(weight).ok());
    weight.ok_or_else(|| format!("write a whole number from 0 to {}", config::MAX_WEIGHT))
}

/// Reads a weight, and refuses one that is too large.
pub(super) fn weight_within(text: &str) -> Result<u32, String> {
    let weight = weight(text)?;
    config::check_weight(weight).map(|()| weight)
}

/// Reads how many at a time.
pub(super) fn at_a_time(text: &str) -> Result<u16, String> {
    let number = whole(text).and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
    number.ok_or_else(|| format!("write a whole number from 1 to {}", u16::MAX))
}

/// Reads how many in all.
pub(super) fn in_all(text: &str) -> Result<u64, String> {
    whole(text).filter(|number| *number > 0).ok_or_else(|| "write a whole number from 1 on".into())
}

/// Reads a pause between two looks.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "write seconds, from 0.1 to 3600".into())
}

/// Reads a prefix to announce, like 10.9.9.9/32.
pub(super) fn prefix(text: &str) -> Result<String, String> {
    let parsed = text.split_once('/').and_then(|(address, length)| {
        let address: IpAddr = address.parse().ok()?;
        let length: u8 = length.parse().ok()?;
        Some((address, length)).filter(|_| length <= if address.is_ipv4() { 32 } else { 128 })
    });
    let (address, length) =
        parsed.ok_or("write an address and a length, like 10.9.9.9/32 or 2001:db8::9/128")?;
    Ok(format!("{address}/{length}"))
}

/// Reads the order in which a worker is replaced.
pub(super) fn replace(text: &str) -> Result<Replace, String> {
    let all = [Replace::StartFirst, Replace::StopFirst];
    let found = all.into_iter().find(|order| order.to_string() == text);
    found.ok_or_else(|| "write start-first or stop-first".into())
}

/// Reads `KEY=VALUE`.
pub(super) fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write KEY=VALUE, like PORT=8080")?;
    config::check_variable(name, value)?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Bytes that are written in hex digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HexBytes(pub(crate) Vec<u8>);

/// Reads the payload of a datagram in hex digits, two for each byte, between which may be spaces and colons.
pub(super) fn payload(text: &str) -> Result<HexBytes, String> {
    let digits: String = text.chars().filter(|c| !c.is_whitespace() && *c != ':').collect();
    let wrong =
        || format!("{text:?} is no payload: write two hex digits for each byte, like 8000 or '80 00'");
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) || !digits.len().is_multiple_of(2) {
        return Err(wrong());
    }
    if digits.len() / 2 > LONGEST {
        return Err(format!("it has {} bytes, and a datagram over IPv4 at most {LONGEST}", digits.len() / 2));
    }
    let bytes = digits.as_bytes().chunks_exact(2).map(|two| {
        let two = std::str::from_utf8(two).map_err(|_| wrong())?;
        u8::from_str_radix(two, 16).map_err(|_| wrong())
    });
    bytes.collect::<Result<_, _>>().map(HexBytes)
}

/// Most bytes of a datagram's payload over IPv4 (RFC 768, RFC 791).
const LONGEST: usize = 65_507;

/// Reads the path of a working directory.
pub(super) fn directory(text: &str) -> Result<String, String> {
    config::check_directory(text).map(|()| text.to_owned())
}

/// Digits alone: no sign, no space. One that is larger than any is the largest.
fn whole(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Commands that change nothing that runs: only those are proposed for an unknown word.
const HARMLESS: [&str; 7] = ["run", "exec", "status", "top", "check", "doctor", "trace"];

/// Says more of an error than the parser does: a word that is no command proposes none that ends
/// anything, as `shop` would `stop`.
pub(super) fn explain(error: Error, whole: &Command) -> Error {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else { return error };
    if error.kind() != ErrorKind::InvalidSubcommand {
        return error;
    }
    let near = config::nearest(word, &HARMLESS);
    let near = near.map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
    let hint = near + "`reuseport-lb --help` lists all commands";
    let text = format!("unrecognized subcommand '{}': {hint}\n", word.escape_debug());
    Error::raw(ErrorKind::InvalidSubcommand, text).with_cmd(whole)
}

/// The ways of `exec` to come by sockets.
pub(super) fn passed_or_bound(text: &str) -> Result<SocketSource, String> {
    match text.parse()? {
        SocketSource::Nginx => {
            Err("\"nginx\" is for workers that `run` starts: \"bind\" does for nginx, too".into())
        }
        source => Ok(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Verb};

    fn refused(line: &[&str]) -> String {
        let error = Cli::parse(["x"].iter().chain(line)).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line:?}");
        error.to_string()
    }

    #[test]
    fn a_sign_means_more_or_fewer() {
        for (text, wanted) in [
            ("0", Scale::to(0)),
            ("1024", Scale::to(1024)),
            ("+1", Scale::by(1)),
            ("-1", Scale::by(-1)),
            ("+0", Scale::by(0)),
            ("-1024", Scale::by(-1024)),
        ] {
            let cli = Cli::parse(["x", "scale", "web", text]).unwrap();
            let Verb::Scale(scale) = cli.verb else { panic!("{text}") };
            assert_eq!(scale.workers, wanted, "{text}");
        }
        for text in ["+", "-", "++1", "+-1", "-+1", "1.5", "+1.5", "", " 1", "1 ", "many", "0x1", "٣", "-1x"]
        {
            assert!(workers(text).unwrap_err().contains("like +1 or -1"), "{text}");
        }
        assert!(workers("1025").unwrap_err().contains("at most 1024"));
        assert!(workers("+1025").unwrap_err().contains("at most 1024"));
        assert!(workers("99999999999999999999").unwrap_err().contains("at most 1024"));
        assert!(workers("-99999999999999999999").unwrap_err().contains("at most 1024"));
    }

    #[test]
    fn numbers_that_are_none_are_told_what_to_be() {
        let values = ["-1", "1.5", "many", "", "+1", "99999999999999999999", "0x10", "1e3"];
        for (line, says) in [
            (&["run", "--workers"][..], "from 0 to 1024"),
            (&["weight", "web/0"], "from 0 to 1000000"),
            (&["exec", "web", "--weight"], "from 0 to 1000000"),
            (&["restart", "web", "--parallel"], "from 1 to 65535"),
            (&["trace", "web", "--count"], "from 1 on"),
        ] {
            for value in values {
                let line: Vec<&str> = line.iter().copied().chain([value]).collect();
                // What is larger than any is enough for `--count`.
                if value.starts_with("999") && line[0] == "trace" {
                    continue;
                }
                let error = if line[0] == "exec" {
                    refused(&[&line[..], &["--", "true"]].concat())
                } else {
                    refused(&line)
                };
                assert!(error.contains(says) || error.contains("at most 1024"), "{line:?}: {error}");
                assert!(!error.contains("digit"), "{line:?}: {error}");
            }
        }
        for none in ["--parallel", "--count"] {
            let command = if none == "--count" { "trace" } else { "restart" };
            assert!(refused(&[command, "web", none, "0"]).contains("from 1"), "{none}");
        }
        assert!(
            refused(&["exec", "web", "--weight", "1000001", "--", "true"]).contains("the most is 1000000")
        );
    }

    #[test]
    fn no_word_proposes_a_command_that_ends_anything() {
        for (word, says) in [
            ("topp", "did you mean `top`?"),
            ("stat", "did you mean `status`?"),
            ("statsu", "did you mean `status`?"),
            ("docter", "did you mean `doctor`?"),
            ("chek", "did you mean `check`?"),
            ("zzz", "--help"),
        ] {
            let error = refused(&[word]);
            assert!(error.contains(says) && error.contains(word), "{word}: {error}");
        }
        for word in [
            "shop", "sto", "stpo", "step", "stops", "tops", "drainn", "rain", "train", "restar", "restrat",
            "reset", "reloa", "scal", "sale", "weigh", "kill", "remove", "delete", "down", "quit", "exit",
            "end",
        ] {
            let error = refused(&[word]).replace(&format!("'{word}'"), "");
            for changes in ["stop", "drain", "restart", "reload", "scale", "weight"] {
                assert!(!error.contains(changes), "{word} proposes {changes}: {error}");
            }
        }
    }
}
