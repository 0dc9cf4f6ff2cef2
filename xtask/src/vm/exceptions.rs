//! Table of the tests that need a kernel or a processor that a machine may lack. All others run everywhere.

use std::fmt;

use anyhow::{Result, bail};

use super::speed::Speed;
use super::suite::Test;

/// What a test needs to run.
enum Needs {
    /// A kernel of this version or later.
    #[expect(dead_code, reason = "no test needs a later one than the oldest that is tried")]
    Linux(Version, &'static str),
    /// A real processor: an emulated one is too slow for the test.
    Kvm(&'static str),
}

const EXCEPTIONS: &[(&str, Needs)] = &[(
    "faults::there_are_a_thousand_workers",
    Needs::Kvm("a thousand processes take an emulated one too long"),
)];

/// The version of a kernel, like 6.1.192.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u32, u32, u32);

impl Version {
    /// Parses a kernel's banner. In Debian's, the release is like `6.1.0-56-amd64`, and the
    /// version comes later, as in `Debian 6.1.192-2`.
    pub(super) fn parse(banner: &str) -> Option<Self> {
        let version = banner.split_once(" Debian ").map_or(banner, |(_, debian)| debian);
        let end = version.find(|it: char| !it.is_ascii_digit() && it != '.').unwrap_or(version.len());
        let mut numbers = version[..end].split('.').map(|number| number.parse().ok());
        Some(Self(numbers.next()??, numbers.next()??, numbers.next().flatten().unwrap_or(0)))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// Why a test cannot be run with this kernel and speed; `None` if it can.
pub(super) fn why_not(test: &Test, kernel: Version, speed: Speed) -> Option<String> {
    let (_, needs) = EXCEPTIONS.iter().find(|(name, _)| *name == test.name)?;
    match needs {
        Needs::Linux(from, what) => (kernel < *from).then(|| format!("needs Linux {from}: {what}")),
        Needs::Kvm(why) => (speed != Speed::Kvm).then(|| format!("needs KVM: {why}")),
    }
}

/// Fails if the table names a test that does not exist.
pub(super) fn check(all: &[Test]) -> Result<()> {
    for (name, _) in EXCEPTIONS {
        if !all.iter().any(|test| test.name == *name) {
            bail!("there is no test {name} any more: mend the table of exceptions");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found() {
        let debian = "6.1.0-56-amd64 (debian-kernel@lists.debian.org) #1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-01-01)";
        assert_eq!(Version::parse(debian), Some(Version(6, 1, 192)));
        assert_eq!(Version::parse("6.18.44-fc (root@build) #1 SMP"), Some(Version(6, 18, 44)));
        assert_eq!(Version::parse("7.1-rc2 (x) #1"), Some(Version(7, 1, 0)));
        assert_eq!(Version::parse("nonsense"), None);
    }
}
