//! Whether new traffic should be sent to this machine, and how much: one judgement for all who ask (`/readyz`, `/weight`,
//! `health`, the agent), PURE. Not: who asks, and in which words it is told.

/// What is judged of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measure<'a> {
    /// Name of the service.
    pub service: &'a str,
    /// It is to end, be it that it goes on for a while.
    pub ending: bool,
    /// Sum of the weights of the workers that are wanted.
    pub wanted: u64,
    /// Sum of the weights of those of them that get new connections.
    pub serving: u64,
    /// Number of workers that are ready, be it that none of them gets anything new.
    pub ready: usize,
}

/// What is told to whoever decides where traffic goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// New traffic is welcome: so many percent, from 1 to 100, of what is wanted serves.
    Up(u32),
    /// What is here goes on, and nothing new should come, for these reasons.
    Drained(Vec<String>),
    /// Something cannot be served, for these reasons.
    Down(Vec<String>),
}

impl Judgement {
    /// Judges services that are asked for together: the worst of them counts. `drained`: the machine is to get nothing new.
    #[must_use]
    pub fn of(drained: bool, services: &[Measure<'_>]) -> Self {
        let (mut quiet, mut down) = (Vec::new(), Vec::new());
        if drained {
            quiet.push("the host is drained".to_owned());
        }
        for Measure { service, ending, wanted, serving, ready } in services {
            if *ending {
                quiet.push(format!("{service} is ending"));
            } else if *ready == 0 {
                down.push(format!("{service} has no worker that is ready"));
            } else if *wanted == 0 {
                quiet.push(format!("{service} has no worker with a weight"));
            } else if *serving == 0 {
                down.push(format!("{service} has no worker that gets anything new"));
            }
        }
        if services.is_empty() {
            down.push("there is no service".to_owned());
        }
        match (down.is_empty(), quiet.is_empty()) {
            (true, true) => Self::Up(services.iter().map(Measure::percent).min().unwrap_or_default()),
            (true, false) => Self::Drained(quiet),
            (false, _) => Self::Down([quiet, down].concat()),
        }
    }

    /// How much of what is wanted serves, in percent; 0 unless new traffic is welcome.
    #[must_use]
    pub fn weight(&self) -> u32 {
        match self {
            Self::Up(weight) => *weight,
            Self::Drained(_) | Self::Down(_) => 0,
        }
    }

    /// Why nothing new should come; empty if it is welcome.
    #[must_use]
    pub fn reasons(&self) -> &[String] {
        match self {
            Self::Up(_) => &[],
            Self::Drained(reasons) | Self::Down(reasons) => reasons,
        }
    }
}

impl Measure<'_> {
    /// At least 1 if anything serves, and 100 only if all does.
    fn percent(&self) -> u32 {
        let percent = (self.serving * 100).checked_div(self.wanted).unwrap_or_default();
        u32::try_from(percent).unwrap_or(100).clamp(1, 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: Measure<'_> = Measure { service: "web", ending: false, wanted: 4, serving: 4, ready: 4 };
    const DNS: Measure<'_> = Measure { service: "dns", wanted: 2, serving: 2, ready: 2, ..WEB };

    fn why(reasons: &[&str]) -> Vec<String> {
        reasons.iter().map(|it| (*it).to_owned()).collect()
    }

    #[test]
    fn one_judgement_by_table() {
        let ending = Measure { ending: true, ..WEB };
        let nothing = Measure { serving: 0, ready: 0, ..DNS };
        let unweighed = Measure { wanted: 0, serving: 0, ..WEB };
        let cases: [(bool, &[Measure<'_>], Judgement); 15] = [
            (false, &[], Judgement::Down(why(&["there is no service"]))),
            (false, &[WEB, DNS], Judgement::Up(100)),
            (false, &[Measure { serving: 2, ..WEB }, DNS], Judgement::Up(50)),
            // Rounded down: all is said only if it is all; and never to nothing.
            (false, &[Measure { wanted: 1000, serving: 999, ..WEB }], Judgement::Up(99)),
            (false, &[Measure { wanted: 1_000_000, serving: 1, ..WEB }], Judgement::Up(1)),
            (false, &[Measure { wanted: 4, serving: 6, ..WEB }], Judgement::Up(100)),
            (
                false,
                &[Measure { wanted: u64::MAX / 100, serving: u64::MAX / 100, ..WEB }],
                Judgement::Up(100),
            ),
            (true, &[WEB], Judgement::Drained(why(&["the host is drained"]))),
            (false, &[ending.clone(), DNS], Judgement::Drained(why(&["web is ending"]))),
            (false, &[unweighed, DNS], Judgement::Drained(why(&["web has no worker with a weight"]))),
            // Some are ready, and wait for those that start with them.
            (
                false,
                &[Measure { serving: 0, ready: 3, ..WEB }, DNS],
                Judgement::Down(why(&["web has no worker that gets anything new"])),
            ),
            (false, &[WEB, nothing.clone()], Judgement::Down(why(&["dns has no worker that is ready"]))),
            // What ends does so in order, also when its last worker is gone.
            (
                false,
                &[Measure { serving: 0, ready: 0, ..ending.clone() }],
                Judgement::Drained(why(&["web is ending"])),
            ),
            (
                true,
                std::slice::from_ref(&nothing),
                Judgement::Down(why(&["the host is drained", "dns has no worker that is ready"])),
            ),
            (
                false,
                &[ending, nothing.clone()],
                Judgement::Down(why(&["web is ending", "dns has no worker that is ready"])),
            ),
        ];
        for (drained, services, wanted) in cases {
            let judgement = Judgement::of(drained, services);
            assert_eq!(judgement, wanted, "{drained} {services:?}");
            assert_eq!(judgement.weight() == 0, !judgement.reasons().is_empty());
        }
    }
}
