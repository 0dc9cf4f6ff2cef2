//! The checks of `doctor`, PURE: findings → verdicts, with what is wrong, what that means and how to mend
//! it. Not: finding out (`cmd/doctor.rs`, `kernel/probe.rs`).

pub mod limits;
pub mod opening;
pub mod places;
pub mod system;

use serde::Serialize;

use crate::printable::inline;

/// Outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing is wrong.
    Ok,
    /// Services would work, but not as well as they could; or it could not be tried.
    Warning,
    /// Services would not start, or not work.
    Failure,
}

/// One check with its outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Name of the check, which stays in later versions.
    pub check: &'static str,
    /// The service, listener or user that was checked; empty if the check concerns all.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// The outcome.
    pub verdict: Verdict,
    /// What was found.
    pub says: String,
    /// What that means for the user.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub means: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mend: String,
}

impl Check {
    fn ok(check: &'static str, says: impl Into<String>) -> Self {
        let [about, means, mend] = Default::default();
        Self { check, about, verdict: Verdict::Ok, says: says.into(), means, mend }
    }

    fn warning(
        check: &'static str,
        says: impl Into<String>,
        means: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        let (means, mend) = (means.into(), mend.into());
        Self { verdict: Verdict::Warning, means, mend, ..Self::ok(check, says) }
    }

    fn failure(
        check: &'static str,
        says: impl Into<String>,
        means: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self { verdict: Verdict::Failure, ..Self::warning(check, says, means, mend) }
    }

    fn about(self, about: impl ToString) -> Self {
        Self { about: about.to_string(), ..self }
    }
}

/// Outcome of a trial on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tried<T> {
    /// The trial was made.
    Done(T),
    /// The kernel refused; the text says why.
    Failed(String),
    /// An earlier failure prevented the trial; the text says which.
    Not(String),
}

/// All checks.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of reuseport-lb.
    pub version: &'static str,
    /// Release of the kernel.
    pub kernel: String,
    /// The worst of all checks.
    pub verdict: Verdict,
    /// In the order in which they depend on each other.
    pub checks: Vec<Check>,
}

impl Report {
    /// Makes a report of these checks.
    #[must_use]
    pub fn new(kernel: String, checks: Vec<Check>) -> Self {
        let verdict = checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Ok);
        Self { version: env!("CARGO_PKG_VERSION"), kernel, verdict, checks }
    }

    /// Number of checks with this outcome.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.checks.iter().filter(|check| check.verdict == verdict).count()
    }

    /// The report as text, as `doctor` prints it without `--json`.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("reuseport-lb {}, Linux {}\n\n", self.version, self.kernel);
        for check in &self.checks {
            let verdict = match check.verdict {
                Verdict::Ok => "ok",
                Verdict::Warning => "WARNING",
                Verdict::Failure => "FAILURE",
            };
            let about = if check.about.is_empty() { String::new() } else { format!("{}: ", check.about) };
            text += &format!("{verdict:7}  {:<13}  {about}{}\n", check.check, inline(&check.says));
            for (what, words) in [("means", &check.means), ("mend", &check.mend)] {
                if !words.is_empty() {
                    text += &format!("         {what:>13}: {}\n", inline(words));
                }
            }
        }
        let [fine, so, bad] = [Verdict::Ok, Verdict::Warning, Verdict::Failure].map(|one| self.count(one));
        text + &format!("\n{fine} ok, {so} warnings, {bad} failures\n")
    }
}

#[cfg(test)]
mod tests;
