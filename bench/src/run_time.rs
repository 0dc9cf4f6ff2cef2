//! What kernel programs have cost, from the kernel's run-time statistics, which cost about 56 ns a run themselves.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result};
use aya::programs::{ProgramInfo, loaded_programs};
use aya::sys::{Stats, enable_stats};

/// What a program has cost while statistics were switched on.
#[derive(Clone, Copy, Debug)]
pub struct RunTime {
    /// In all.
    pub time: Duration,
    /// How often it ran.
    pub runs: u64,
}

impl RunTime {
    /// Of the program with this id.
    pub fn of(id: u32) -> Result<Self> {
        Self::find(|program| program.id() == id)
    }

    /// Of a program with this name.
    pub fn named(name: &str) -> Result<Self> {
        Self::find(|program| program.name_as_str() == Some(name))
    }

    fn find(is: impl Fn(&ProgramInfo) -> bool) -> Result<Self> {
        let program = loaded_programs().filter_map(Result::ok).find(is).context("the program is gone")?;
        Ok(Self { time: program.run_time(), runs: program.run_count() })
    }

    /// What came after `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self { time: self.time - before.time, runs: self.runs - before.runs }
    }

    /// Nanoseconds of one run.
    #[must_use]
    pub fn nanos(self) -> f64 {
        self.time.as_nanos() as f64 / self.runs as f64
    }
}

/// Switches the statistics on, until what is returned is dropped.
pub fn switch_on() -> Result<OwnedFd> {
    enable_stats(Stats::RunTime).context("cannot switch the kernel's run-time statistics on")
}
