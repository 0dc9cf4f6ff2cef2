//! Checks of what `sockets = "bind"` needs.

use super::{Check, Tried};
use crate::kernel::findings::Answering;

const CHECK: &str = "bind";

/// Checks the trial of answering a call of bind(2) ([`Answering`]); `needed`: a service has `sockets = "bind"`.
#[must_use]
pub fn answering(tried: &Tried<Answering>, needed: bool) -> Check {
    let outcome = match tried {
        Tried::Done(outcome) => outcome,
        Tried::Failed(why) | Tried::Not(why) if needed => {
            return Check::warning(
                CHECK,
                format!("it was not tried: {why}"),
                "whether `sockets = \"bind\"` works here is not known",
                "mend that first; loopback must be up",
            );
        }
        Tried::Failed(why) | Tried::Not(why) => {
            return Check::ok(CHECK, format!("it was not tried: {why}; no service needs it"));
        }
    };
    let (says, mend) = match outcome {
        Answering::Works { no_new_privs, synchronous } => return works(*no_new_privs, *synchronous),
        Answering::Occupied => (
            "calls of this process are answered by another program already (seccomp: EBUSY), as in some containers".to_owned(),
            "run it in a container without such a filter (lxc: `security.syscalls.intercept.*`)",
        ),
        Answering::NoFilter(error) => (
            format!("the kernel takes no filter whose calls somebody answers (seccomp: {})", words(*error)),
            "a kernel with CONFIG_SECCOMP_FILTER, and in a container a seccomp profile that allows seccomp(2)",
        ),
        Answering::Unseen => (
            "the processes of workers are hidden in /proc".to_owned(),
            "CAP_SYS_PTRACE, or mount /proc without `hidepid`",
        ),
        Answering::Unread => (
            "the memory of workers cannot be read (process_vm_readv)".to_owned(),
            "CAP_SYS_PTRACE, and kernel.yama.ptrace_scope below 3, which needs a reboot",
        ),
        Answering::NotTaken(error) => (
            format!("sockets of workers cannot be taken (pidfd_getfd: {})", words(*error)),
            "CAP_SYS_PTRACE, and kernel.yama.ptrace_scope below 3, which needs a reboot",
        ),
        Answering::NotReplaced(error) => (
            format!("a worker cannot get another socket in place of its own (SECCOMP_IOCTL_NOTIF_ADDFD: {})", words(*error)),
            "boot another kernel, and report this one",
        ),
    };
    match needed {
        true => Check::failure(CHECK, says, "services with `sockets = \"bind\"` do not work here", mend),
        false => Check::ok(CHECK, format!("{says}; no service needs it")),
    }
}

fn works(no_new_privs: bool, synchronous: bool) -> Check {
    let mut says = "a process got another socket by its call of bind".to_owned();
    if no_new_privs {
        says += "; without CAP_SYS_ADMIN it has no_new_privs: setuid programs that workers start stay their own user's";
    }
    if !synchronous {
        says += "; before Linux 6.6 each call takes some microseconds more";
    }
    Check::ok(CHECK, says)
}

fn words(error: i32) -> String {
    std::io::Error::from_raw_os_error(error).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn what_keeps_calls_from_being_answered_is_said_and_fails_where_it_is_needed() {
        for (outcome, says) in [
            (Answering::Occupied, "by another program already (seccomp: EBUSY)"),
            (Answering::NoFilter(38), "takes no filter whose calls somebody answers (seccomp: Function"),
            (Answering::Unseen, "hidden in /proc"),
            (Answering::Unread, "cannot be read (process_vm_readv)"),
            (Answering::NotTaken(1), "(pidfd_getfd: Operation not permitted"),
            (Answering::NotReplaced(22), "in place of its own (SECCOMP_IOCTL_NOTIF_ADDFD: Invalid"),
        ] {
            let failed = answering(&Tried::Done(outcome), true);
            assert!(failed.verdict == Verdict::Failure && failed.says.contains(says), "{failed:?}");
            assert!(!failed.mend.is_empty() && failed.means.contains("do not work here"), "{failed:?}");
            let fine = answering(&Tried::Done(outcome), false);
            assert_eq!((fine.verdict, fine.means.as_str()), (Verdict::Ok, ""));
            assert!(fine.says.contains(says) && fine.says.ends_with("; no service needs it"), "{fine:?}");
        }
        for (needed, verdict) in [(true, Verdict::Warning), (false, Verdict::Ok)] {
            let failed = answering(&Tried::Failed("no loopback".into()), needed);
            assert!(
                failed.verdict == verdict && failed.says.contains("not tried: no loopback"),
                "{failed:?}"
            );
        }
    }

    #[test]
    fn what_an_answer_costs_is_said_where_it_works() {
        for (no_new_privs, synchronous) in [(false, true), (true, true), (false, false), (true, false)] {
            for needed in [true, false] {
                let fine = answering(&Tried::Done(Answering::Works { no_new_privs, synchronous }), needed);
                assert_eq!(fine.verdict, Verdict::Ok);
                assert_eq!(fine.says.contains("no_new_privs"), no_new_privs, "{fine:?}");
                assert_eq!(fine.says.contains("Linux 6.6"), !synchronous, "{fine:?}");
            }
        }
    }
}
