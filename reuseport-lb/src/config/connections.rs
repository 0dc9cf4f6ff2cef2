//! Settings about live TCP connections: whether they are counted, and what follows from their number.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::choices::{Balance, DrainUntil, WhenBusy};

/// What becomes of the number of a worker's live connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConnectionSettings {
    /// It is shown, even if nothing else needs it.
    pub count: bool,
    /// What a leaving worker's end waits for.
    pub drain_until: DrainUntil,
    /// Which worker gets a new connection.
    pub balance: Balance,
}

/// What `bounded` may be. With 1.0 all would have equally many, and hardly any client kept its worker.
const BOUNDS: RangeInclusive<f64> = 1.01..=100.0;

impl ConnectionSettings {
    /// Whether live connections are counted.
    #[must_use]
    pub fn are_counted(&self) -> bool {
        self.count || self.drain_until == DrainUntil::Connections || self.balance != Balance::Table
    }
}

/// The keys of the file.
pub(super) struct Written {
    pub(super) count: Option<Spanned<bool>>,
    pub(super) drain_until: Option<Spanned<DrainUntil>>,
    pub(super) balance: Option<Spanned<Balance>>,
}

impl Written {
    /// The place of the first of these keys that is there.
    pub(super) fn span(&self) -> Option<std::ops::Range<usize>> {
        let count = self.count.as_ref().map(Spanned::span);
        let drain_until = self.drain_until.as_ref().map(Spanned::span);
        count.or(drain_until).or_else(|| self.balance.as_ref().map(Spanned::span))
    }

    /// The settings. An error has the place of the key that is wrong.
    pub(super) fn validated(
        self,
        when_busy: WhenBusy,
    ) -> Result<ConnectionSettings, (std::ops::Range<usize>, String)> {
        let balance = match self.balance {
            None => Balance::Table,
            Some(written) => {
                let span = written.span();
                let balance = written.into_inner();
                check(balance, when_busy).map_err(|error| (span, error))?;
                balance
            }
        };
        let drain_until = self.drain_until.map(Spanned::into_inner).unwrap_or_default();
        Ok(ConnectionSettings { count: self.count.is_some_and(Spanned::into_inner), drain_until, balance })
    }
}

fn check(balance: Balance, when_busy: WhenBusy) -> Result<(), String> {
    if let Balance::Bounded(factor) = balance
        && !BOUNDS.contains(&factor)
    {
        return Err(format!(
            "`bounded` is {factor}; it must be a number from {} to {}: 1.25 lets a worker have a quarter more than its share",
            BOUNDS.start(),
            BOUNDS.end()
        ));
    }
    if balance != Balance::Table && when_busy == WhenBusy::Next {
        return Err(
            "`balance` and `when_busy = \"next\"` both say which worker gets a connection: leave one of them out; `balance` \
             fits connections that stay open, `when_busy` fits one request a connection"
                .into(),
        );
    }
    Ok(())
}
