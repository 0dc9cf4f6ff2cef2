//! Which rights the daemon keeps.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::paths::Paths;
use crate::kernel::bpffs::all_pins;
use crate::kernel::host::{self, Access};
use crate::kernel::rights;
use crate::service::{sd_notify, state_file};

/// Gives up the rights that nothing needs from here on, if the daemon's own files do without: root
/// enters the folders of others by a right that it no longer has then.
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
