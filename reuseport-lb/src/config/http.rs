//! Where the daemon answers over HTTP to whoever may connect (`[http]`). Not: what it answers (`api/http/`).

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::environment::Id;
use super::errors::{Invalid, located};
use super::machine::Machine;

/// Where the daemon answers over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpAddress {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A UNIX socket.
    Unix {
        /// Its file; absolute.
        path: PathBuf,
        /// The file's permissions.
        mode: u32,
        /// The file's group, by name or number; `None`: the daemon's.
        group: Option<String>,
    },
}

/// Which series `/metrics` has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Series of listeners are those of each listener; else they are sums over all listeners of a service.
    pub per_listener: bool,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { per_listener: true }
    }
}

/// Permissions of a socket's file that sets none: all of its group may connect.
const MODE: u32 = 0o660;

impl FromStr for HttpAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return Ok(Self::Unix { path: text.into(), mode: MODE, group: None });
        }
        let address: SocketAddr = text.parse().map_err(|_| {
            format!(
                "{text:?} is no address to answer at: write one like 127.0.0.1:9465 or [::1]:9465, or the absolute path of \
                 a UNIX socket"
            )
        })?;
        if address.port() == 0 {
            return Err(format!("{text:?} has port 0, so that nobody would know where to ask: write a port"));
        }
        Ok(Self::Tcp(address))
    }
}

impl fmt::Display for HttpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}/"),
            Self::Unix { path, .. } => write!(f, "HTTP at {}", path.display()),
        }
    }
}

impl HttpAddress {
    /// The file of a UNIX socket.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix { path, .. } => Some(path),
        }
    }
}

/// `[http]` as it is written in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    listen: Spanned<String>,
    mode: Option<Spanned<Mode>>,
    group: Option<Spanned<Id>>,
    #[serde(default)]
    metrics: WrittenMetrics,
}

/// `metrics` as it is written in the file.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenMetrics {
    per_listener: Option<bool>,
}

impl Written {
    pub(super) fn metrics(&self) -> MetricsConfig {
        let usual = MetricsConfig::default();
        MetricsConfig { per_listener: self.metrics.per_listener.unwrap_or(usual.per_listener) }
    }

    pub(super) fn validated(self, text: &str, machine: Machine) -> Result<HttpAddress, Invalid> {
        let at = |span: std::ops::Range<usize>, message: &str| Invalid(located(text, Some(span), message));
        let mut address =
            self.listen.get_ref().parse().map_err(|error: String| at(self.listen.span(), &error))?;
        match &mut address {
            HttpAddress::Tcp(_) => {
                let keys = [
                    ("mode", self.mode.as_ref().map(Spanned::span)),
                    ("group", self.group.as_ref().map(Spanned::span)),
                ];
                for (key, span) in keys {
                    if let Some(span) = span {
                        return Err(at(
                            span,
                            &format!(
                                "`{key}` is about the file of a UNIX socket, and `listen` is a TCP address"
                            ),
                        ));
                    }
                }
            }
            HttpAddress::Unix { mode, group, .. } => {
                if let Some(written) = self.mode {
                    *mode = written.into_inner().0;
                }
                if let Some(written) = self.group {
                    (machine.group)(&written.get_ref().0).map_err(|error| at(written.span(), &error))?;
                    *group = Some(written.into_inner().0);
                }
            }
        }
        Ok(address)
    }
}

/// The value of `mode`: octal digits in quotes.
struct Mode(u32);

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let octal = (3..=4).contains(&text.len()) && text.bytes().all(|it| (b'0'..=b'7').contains(&it));
        let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| octal && *mode <= 0o777);
        mode.map(Self).ok_or_else(|| {
            D::Error::custom(format!(
                "{text:?} is no mode: write octal digits from \"000\" to \"777\", like \"660\""
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    const SERVICE: &str = "[[service]]\nname = \"web\"\nlisten = [\"tcp://127.0.0.1:80\"]\n";

    fn http(written: &str) -> Result<Option<HttpAddress>, String> {
        let text = format!("{SERVICE}{written}");
        parse(&text, Machine::ANOTHER).map(|all| all.answers.http).map_err(|error| error.to_string())
    }

    #[test]
    fn an_address_or_a_file_with_its_rights() {
        assert_eq!(http("").unwrap(), None);
        let tcp = HttpAddress::Tcp("127.0.0.1:9465".parse().unwrap());
        assert_eq!(http("[http]\nlisten = \"127.0.0.1:9465\"\n").unwrap(), Some(tcp));
        let unix = |mode, group| HttpAddress::Unix { path: "/run/lb.http".into(), mode, group };
        let listen = "[http]\nlisten = \"/run/lb.http\"\n";
        assert_eq!(http(listen).unwrap(), Some(unix(0o660, None)));
        let all = format!("{listen}mode = \"0666\"\ngroup = \"www-data\"\n");
        assert_eq!(http(&all).unwrap(), Some(unix(0o666, Some("www-data".into()))));
    }

    #[test]
    fn series_are_of_each_listener_unless_the_file_says_otherwise() {
        let per_listener = |written: &str| {
            let text = format!("{SERVICE}[http]\nlisten = \"127.0.0.1:1\"\n{written}\n");
            parse(&text, Machine::ANOTHER).unwrap().answers.metrics.per_listener
        };
        assert!(
            per_listener("")
                && per_listener("metrics = {}")
                && per_listener("metrics = { per_listener = true }")
        );
        assert!(!per_listener("metrics = { per_listener = false }"));
        assert!(parse(SERVICE, Machine::ANOTHER).unwrap().answers.metrics.per_listener);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (written, line, says) in [
            ("listen = \"localhost:80\"", "line 5", "like 127.0.0.1:9465"),
            ("listen = \"9465\"", "line 5", "like 127.0.0.1:9465"),
            ("listen = \"127.0.0.1:0\"", "line 5", "port 0"),
            ("listen = \"127.0.0.1:1\"\nmode = \"660\"", "line 6", "`mode` is about the file"),
            ("listen = \"127.0.0.1:1\"\ngroup = 0", "line 6", "`group` is about the file"),
            ("listen = \"/run/x\"\nmode = \"6\"", "line 6", "like \"660\""),
            ("listen = \"/run/x\"\nmode = \"888\"", "line 6", "like \"660\""),
            ("listen = \"/run/x\"\nport = 1", "line 6", "port"),
            ("listen = \"/run/x\"\nmetrics = { per_worker = true }", "line 6", "per_worker"),
            ("listen = \"/run/x\"\nmetrics = { per_listener = 1 }", "line 6", "true or false"),
            ("", "line 4", "listen"),
        ] {
            let error = http(&format!("[http]\n{written}\n")).unwrap_err();
            assert!(error.contains(line) && error.contains(says), "{written}: {error}");
        }
    }
}
