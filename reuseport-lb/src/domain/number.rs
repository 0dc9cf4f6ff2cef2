//! The number in a worker's name.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

/// The number in a worker's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number {
    /// That of the worker whose process it is.
    pub worker: usize,
    /// 0, or that of a further socket of the process: `web/2.1`.
    pub part: usize,
}

impl From<usize> for Number {
    fn from(worker: usize) -> Self {
        Self { worker, part: 0 }
    }
}

impl FromStr for Number {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        let (worker, part) = text.split_once('.').unwrap_or((text, "0"));
        Ok(Self { worker: worker.parse()?, part: part.parse()? })
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.part {
            0 => self.worker.fmt(f),
            part => write!(f, "{}.{part}", self.worker),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_written_as_it_is_read() {
        for (text, worker, part) in [("0", 0, 0), ("12", 12, 0), ("2.1", 2, 1), ("0.10", 0, 10)] {
            assert_eq!(text.parse(), Ok(Number { worker, part }));
            assert_eq!(Number { worker, part }.to_string(), text);
        }
        for wrong in ["", "x", "1.", ".1", "1.2.3", "-1"] {
            assert!(wrong.parse::<Number>().is_err(), "{wrong}");
        }
    }
}
