//! Giving up rights that the daemon does not need. Not: which it needs (`kernel/rights.rs`).

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::paths::Paths;
use crate::kernel::bpffs::all_pins;
use crate::kernel::host::{self, Access};
use crate::kernel::rights;
use crate::service::{sd_notify, state_file};

/// Gives up all rights that the daemon does not need from here on. Fails if one of its files is not accessible without
/// them: root enters directories of other users by CAP_DAC_OVERRIDE, which is given up.
pub(super) fn give_up(paths: &Paths) -> Result<()> {
    let (inside, run) = (Access::WRITE_OK | Access::EXEC_OK, Access::EXEC_OK);
    let files = [
        (paths.runtime_dir.clone(), inside),
        (sd_notify::directory(&paths.runtime_dir), inside),
        (state_file::directory(&paths.runtime_dir), inside),
        (all_pins(&paths.bpffs), inside),
        ("/proc/self/exe".into(), run),
    ];
    rights::drop_the_rest(|| files.into_iter().try_for_each(|(path, what)| within_reach(path, what)))
}

fn within_reach(path: PathBuf, what: Access) -> Result<()> {
    host::reaches(&path, what).with_context(|| {
        let place = fs::read_link(&path).unwrap_or(path);
        format!(
            "{} is out of reach for the daemon, which gives up the right to override permissions (CAP_DAC_OVERRIDE): \
             put it where its user (root, if run with sudo) may go without",
            place.display()
        )
    })
}
