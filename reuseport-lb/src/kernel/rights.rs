//! The daemon's capabilities: which it needs, whether it has them, and giving up all others. Not: the rights of
//! workers, which depend on their user alone (`launch.rs`).

use anyhow::{Context, Result, bail};
use rustix::process::geteuid;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    configure_capability_in_ambient_set, set_capabilities,
};

/// A capability that the daemon needs.
pub struct Needed {
    /// The kernel's bit.
    pub capability: CapabilitySet,
    /// The name as in capabilities(7).
    pub name: &'static str,
    /// What the daemon does with it, for messages.
    pub reason: &'static str,
}

/// All capabilities that the daemon needs, if a BPF file system is mounted that it may write to; `tests/rights.rs`
/// leaves each out in turn. The daemon keeps them until it ends: a reload loads programs, a new worker needs
/// sockets and a user. Not needed: CAP_NET_ADMIN (programs of this type load without it), CAP_SYS_RESOURCE
/// (since Linux 5.11 maps are not locked memory), CAP_DAC_OVERRIDE and CAP_FOWNER (the daemon's files are its
/// own). Mounting the BPF file system would need CAP_SYS_ADMIN.
pub const NEEDED: &[Needed] = &[
    Needed { capability: CapabilitySet::BPF, name: "CAP_BPF", reason: "makes maps, loads and pins programs" },
    Needed {
        capability: CapabilitySet::PERFMON,
        name: "CAP_PERFMON",
        reason: "lets the verifier take the program as the compiler made it, at full speed",
    },
    Needed {
        capability: CapabilitySet::NET_BIND_SERVICE,
        name: "CAP_NET_BIND_SERVICE",
        reason: "listens on ports below 1024",
    },
    Needed {
        capability: CapabilitySet::SETUID,
        name: "CAP_SETUID",
        reason: "starts workers as their `user`",
    },
    Needed {
        capability: CapabilitySet::SETGID,
        name: "CAP_SETGID",
        reason: "starts workers with the groups of their `user`",
    },
    Needed { capability: CapabilitySet::KILL, name: "CAP_KILL", reason: "ends workers of other users" },
    Needed {
        capability: CapabilitySet::CHOWN,
        name: "CAP_CHOWN",
        reason: "gives a worker's notification socket, and with `socket_owner` the others, to its user",
    },
    Needed {
        capability: CapabilitySet::SYS_PTRACE,
        name: "CAP_SYS_PTRACE",
        reason: "takes over sockets of running workers with pidfd_getfd",
    },
];

/// Capabilities that a daemon of an ordinary user hands to a child that becomes a worker of another user.
const PASSED_ON: [CapabilitySet; 2] = [CapabilitySet::SETUID, CapabilitySet::SETGID];

/// [`NEEDED`] as a set.
fn needed() -> CapabilitySet {
    NEEDED.iter().map(|needed| needed.capability).collect()
}

/// Fails unless this process has all of [`NEEDED`]; says which are missing and how to get them.
pub fn require() -> Result<()> {
    match complaint()? {
        Some(complaint) => bail!("{}: {}", complaint.what, complaint.mend),
        None => Ok(()),
    }
}

/// Which capabilities are missing, and how to get them; for messages.
pub struct Complaint {
    /// The missing capabilities, each with its reason.
    pub what: String,
    /// What to do about it.
    pub mend: String,
}

/// Which of [`NEEDED`] this process lacks; `None` if it has all.
pub fn complaint() -> Result<Option<Complaint>> {
    let have = capabilities(None).context("cannot look at the capabilities of this process")?.effective;
    Ok(about(have, geteuid().is_root()))
}

fn about(have: CapabilitySet, root: bool) -> Option<Complaint> {
    let missing: Vec<&Needed> = NEEDED.iter().filter(|needed| !have.contains(needed.capability)).collect();
    if missing.is_empty() {
        return None;
    }
    let list: Vec<String> =
        missing.iter().map(|needed| format!("{} ({})", needed.name, needed.reason)).collect();
    let list = list.join(", ");
    if root {
        let mend =
            "add them to CapabilityBoundingSet= of the unit, or to what the container may do (--cap-add)";
        return Some(Complaint { what: format!("root lacks rights here: {list}"), mend: mend.into() });
    }
    let all: Vec<&str> = NEEDED.iter().map(|needed| needed.name).collect();
    let mend = format!(
        "run it with sudo, or with AmbientCapabilities={} in its unit, or give the file its rights with `setcap {}=ep`",
        all.join(" "),
        all.join(",").to_lowercase()
    );
    Some(Complaint { what: format!("not root, and without {list}"), mend })
}

/// Runs `act` with those rights only that the daemon keeps; afterwards this thread has its own again.
pub fn as_daemon<T>(act: impl FnOnce() -> T) -> Result<T> {
    const FAILED: &str = "cannot change the rights of this process (capset)";
    let before = capabilities(None).context(FAILED)?;
    let effective = before.effective & needed();
    set_capabilities(None, CapabilitySets { effective, ..before }).context(FAILED)?;
    let done = act();
    set_capabilities(None, before).context(FAILED)?;
    Ok(done)
}

/// Gives up all rights but [`NEEDED`], for good, if `check` succeeds with those alone; if it fails,
/// nothing is given up, so that the caller can remove what it has made. There must be no other thread yet.
///
/// The bounding set stays: a worker that runs as root gets root's rights at exec. A daemon of another user passes
/// on only the capabilities that becoming a worker's user takes.
pub fn drop_the_rest(check: impl FnOnce() -> Result<()>) -> Result<()> {
    const FAILED: &str = "cannot give up the rights that are not needed (capset)";
    let before = capabilities(None).context(FAILED)?;
    set_capabilities(None, CapabilitySets { effective: needed(), ..before }).context(FAILED)?;
    if let Err(error) = check() {
        set_capabilities(None, before).context(FAILED)?;
        return Err(error);
    }
    keep(needed(), geteuid().is_root()).context(FAILED)
}

fn keep(kept: CapabilitySet, root: bool) -> rustix::io::Result<()> {
    let passed_on = if root { CapabilitySet::empty() } else { PASSED_ON.into_iter().collect() };
    clear_ambient_capability_set()?;
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: passed_on })?;
    passed_on.iter().try_for_each(|capability| configure_capability_in_ambient_set(capability, true))
}

/// Gives up every right, for a worker that is not root. A change of user drops capabilities only when it
/// starts from root; a change from another user keeps them all.
pub fn drop_all() -> rustix::io::Result<()> {
    let none = CapabilitySet::empty();
    clear_ambient_capability_set()?;
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
}

/// Gives up every right but that to look at other processes (CAP_SYS_PTRACE), for good.
pub(super) fn keep_looking_at_others() -> rustix::io::Result<()> {
    let kept = CapabilitySet::SYS_PTRACE;
    clear_ambient_capability_set()?;
    set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_reason() {
        assert!(about(needed(), true).is_none());
        assert!(about(CapabilitySet::all(), false).is_none());
        for one in NEEDED {
            for root in [true, false] {
                let says = about(needed() - one.capability, root).map(|complaint| complaint.what);
                let says = says.unwrap_or_default();
                assert!(says.contains(&format!("{} ({})", one.name, one.reason)), "{says}");
                assert_eq!(says.matches('(').count(), 1, "{says}");
            }
        }
    }

    #[test]
    fn what_is_passed_on_is_among_what_is_kept() {
        assert!(needed().contains(PASSED_ON.into_iter().collect()));
    }
}
