//! Processes with fewer rights than the test has.

use std::io;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::unistd::{Gid, Uid};
use reuseport_lb::kernel::rights::NEEDED;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities,
};

use crate::daemon::{Paths, binary};
use crate::world::World;

/// An ordinary user, who need not be in the password database.
pub const ORDINARY: u32 = 12345;

/// What the daemon needs, as a set.
#[must_use]
pub fn needed() -> CapabilitySet {
    NEEDED.iter().map(|needed| needed.capability).collect()
}

/// Makes `command` run as `uid` with these capabilities, and no way to get others.
#[expect(unsafe_code, reason = "rights are changed between fork and exec")]
pub fn limit(command: &mut Command, uid: u32, to: CapabilitySet) {
    let limited = move || -> io::Result<()> {
        for number in 0..CapabilitySet::all().bits().count_ones() {
            let one = CapabilitySet::from_bits_retain(1 << number);
            // A kernel that does not know it yet has nothing to take away.
            if !to.contains(one) && capability_is_in_bounding_set(one).unwrap_or(false) {
                remove_capability_from_bounding_set(one)?;
            }
        }
        if uid != 0 {
            set_keep_capabilities(true)?;
            nix::unistd::setgroups(&[])?;
            nix::unistd::setgid(Gid::from_raw(uid))?;
            nix::unistd::setuid(Uid::from_raw(uid))?;
        }
        set_capabilities(None, CapabilitySets { effective: to, permitted: to, inheritable: to })?;
        if uid != 0 {
            to.iter().try_for_each(|one| configure_capability_in_ambient_set(one, true))?;
        }
        Ok(())
    };
    // SAFETY: system calls only; nothing is allocated.
    unsafe { command.pre_exec(limited) };
}

/// The daemon's command line in a world that belongs to `uid`, with these capabilities.
///
/// # Panics
/// If the world cannot be given away.
#[must_use]
pub fn command(world: &World, uid: u32, to: CapabilitySet, arguments: &[&str]) -> Command {
    for path in [world.path("."), world.bpffs()] {
        chown(path, Some(uid), Some(uid)).expect("cannot give a directory away");
    }
    // The binary may lie where others cannot look.
    let copy = world.program(&binary(), "reuseport-lb");
    let usual = Paths::of(world).command(arguments);
    let mut command = Command::new(copy);
    command.args(usual.get_args()).current_dir("/").stdin(Stdio::null());
    limit(&mut command, uid, to);
    command
}
