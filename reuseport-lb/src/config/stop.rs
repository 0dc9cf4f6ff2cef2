//! How a worker is told to end in order: by which signal, and which of its processes get it.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::Spanned;

/// `stop_signal` and `stop_mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopSettings {
    /// The signal.
    pub signal: StopSignal,
    /// The processes that get it.
    pub mode: StopMode,
}

/// A signal that asks a server to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGTERM.
    #[default]
    Term,
    /// SIGQUIT.
    Quit,
    /// SIGINT.
    Int,
    /// SIGHUP.
    Hup,
    /// SIGUSR1.
    Usr1,
    /// SIGUSR2.
    Usr2,
    /// SIGWINCH.
    Winch,
}

/// The processes of a worker that are told to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StopMode {
    /// All of them.
    #[default]
    Group,
    /// The first one, which tells the others.
    Main,
}

impl StopSettings {
    /// The keys as they are written, or what is wrong and where.
    pub(super) fn validated(
        signal: Option<Spanned<StopSignal>>,
        mode: Option<Spanned<StopMode>>,
        embedded: bool,
    ) -> Result<Self, (std::ops::Range<usize>, String)> {
        let written = signal.as_ref().map(Spanned::span).or_else(|| mode.as_ref().map(Spanned::span));
        if let Some(span) = written.filter(|_| embedded) {
            let message = "`stop_signal` and `stop_mode` are about a command: embedded workers end with TERM";
            return Err((span, message.into()));
        }
        let signal = signal.map(Spanned::into_inner).unwrap_or_default();
        Ok(Self { signal, mode: mode.map(Spanned::into_inner).unwrap_or_default() })
    }
}

impl StopSignal {
    const ALL: [Self; 7] =
        [Self::Term, Self::Quit, Self::Int, Self::Hup, Self::Usr1, Self::Usr2, Self::Winch];
}

impl std::fmt::Display for StopSignal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Term => "TERM",
            Self::Quit => "QUIT",
            Self::Int => "INT",
            Self::Hup => "HUP",
            Self::Usr1 => "USR1",
            Self::Usr2 => "USR2",
            Self::Winch => "WINCH",
        })
    }
}

impl std::str::FromStr for StopSignal {
    type Err = String;

    /// Reads a name with or without SIG, in any case.
    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.to_ascii_uppercase();
        let name = name.strip_prefix("SIG").unwrap_or(&name);
        Self::ALL.into_iter().find(|signal| signal.to_string() == name).ok_or_else(|| {
            format!(
                "{text:?} is no signal that asks a server to end: write {}",
                Self::ALL.map(|signal| signal.to_string()).join(", ")
            )
        })
    }
}

impl Serialize for StopSignal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StopSignal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl std::fmt::Display for StopMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}

impl std::str::FromStr for StopMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "group" => Ok(Self::Group),
            "main" => Ok(Self::Main),
            other => Err(format!("{other:?} is not \"group\" or \"main\"")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_workers_end_with_term() {
        let signal = || Some(Spanned::new(7..9, StopSignal::Quit));
        let (span, error) = StopSettings::validated(signal(), None, true).unwrap_err();
        assert!(span == (7..9) && error.contains("embedded workers end with TERM"), "{error}");
        assert!(StopSettings::validated(None, Some(Spanned::new(1..2, StopMode::Main)), true).is_err());
        let joined = StopSettings::validated(signal(), None, false).unwrap();
        assert_eq!((joined.signal, joined.mode), (StopSignal::Quit, StopMode::Group));
    }

    #[test]
    fn a_signal_is_read_with_and_without_sig_and_written_without() {
        for text in ["TERM", "SIGTERM", "term", "SigTerm"] {
            assert_eq!(text.parse(), Ok(StopSignal::Term), "{text}");
        }
        for signal in StopSignal::ALL {
            assert_eq!(signal.to_string().parse(), Ok(signal));
        }
        for text in ["", "SIG", "KILL", "STOP", "15", "TERM "] {
            let error = text.parse::<StopSignal>().unwrap_err();
            assert!(error.ends_with("write TERM, QUIT, INT, HUP, USR1, USR2, WINCH"), "{error}");
        }
    }
}
