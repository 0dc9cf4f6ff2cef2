//! `chaos`: kills the daemon again and again at random moments, breaks other things meanwhile, and
//! checks that each next daemon has the services of its file. `test` runs it for some seconds.

use anyhow::Result;

use crate::build;
use crate::run::needs_root;
use crate::shell::{self, cargo};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long it runs
    #[arg(long, value_name = "N", default_value_t = 1200)]
    seconds: u64,
    /// Makes the same random choices as a run that printed it
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    needs_root("chaos")?;
    build::run()?;
    let mut test = cargo(&["test", "--quiet", "--package", "tests", "--test", "chaos", "--", "--nocapture"]);
    test.env("REUSEPORT_LB_CHAOS", arguments.seconds.to_string());
    if let Some(seed) = arguments.seed {
        test.env("REUSEPORT_LB_SEED", seed.to_string());
    }
    shell::run(&mut test)
}
