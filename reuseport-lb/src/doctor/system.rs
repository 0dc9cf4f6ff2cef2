//! Checks of the kernel and of the rights of this process: version, capabilities, BPF file system, program,
//! hand-over of connections.

use super::{Check, Tried};
use crate::kernel::findings::HandOver;

/// The first version with SK_REUSEPORT programs that migrate connections.
const OLDEST: (u32, u32) = (5, 14);

/// Checks the kernel's release, like `6.1.0-42-amd64`.
#[must_use]
pub fn kernel(release: &str) -> Check {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < OLDEST => Check::failure(
            "kernel",
            format!("Linux {release} is older than 5.14"),
            "it has no SK_REUSEPORT programs that migrate connections, so `run` cannot load its own",
            "boot a kernel from 5.14 on",
        ),
        _ => Check::ok("kernel", format!("Linux {release}")),
    }
}

/// Checks the capabilities of this process; `complaint`: which are missing, and how to get them.
#[must_use]
pub fn rights(complaint: Option<(&str, &str)>) -> Check {
    match complaint {
        None => Check::ok("rights", "all capabilities that the daemon needs"),
        Some((what, mend)) => Check::failure("rights", what, "`run` refuses to start", mend),
    }
}

/// Findings at the path of the BPF file system.
pub enum Bpffs {
    /// A BPF file system, and whether the daemon may make directories there.
    Mounted(Result<(), String>),
    /// An empty directory, and whether a BPF file system could be mounted there.
    Free(Result<(), String>),
    /// The path does not exist.
    Nothing,
    /// No BPF file system can be there, for this reason.
    Other(String),
}

/// Checks the path of the BPF file system.
#[must_use]
pub fn bpffs(place: &str, found: &Bpffs) -> Check {
    const STOPS: &str = "`run` cannot start: programs and maps are pinned there, to outlive the daemon";
    match found {
        Bpffs::Mounted(Ok(())) => Check::ok("bpffs", format!("a BPF file system at {place}")),
        Bpffs::Mounted(Err(error)) => Check::failure(
            "bpffs",
            format!("the daemon may not make directories in the BPF file system at {place}: {error}"),
            STOPS,
            "mount another one that belongs to the daemon's user (docs/SYSTEMD.md), and give it with --bpffs",
        ),
        Bpffs::Free(Ok(())) => {
            Check::ok("bpffs", format!("none is mounted at {place}; `run` mounts one there"))
        }
        Bpffs::Free(Err(error)) => Check::failure(
            "bpffs",
            format!("none is mounted at {place}, and this process cannot mount one: {error}"),
            STOPS,
            format!("as root, `mount -t bpf bpf {place}`; or give the place of another with --bpffs"),
        ),
        Bpffs::Nothing => Check::failure(
            "bpffs",
            format!("{place} does not exist"),
            STOPS,
            "make the directory, or give another with --bpffs; /sys/fs/bpf is there where the kernel has BPF",
        ),
        Bpffs::Other(why) => Check::failure(
            "bpffs",
            format!("{place} cannot have a BPF file system: {why}"),
            STOPS,
            "give an empty directory made for it with --bpffs, or leave that out; the usual one is /sys/fs/bpf",
        ),
    }
}

/// Checks the trial of loading the program for one kind of listener.
#[must_use]
pub fn program(kind: &str, tried: &Tried<()>) -> Check {
    match tried {
        Tried::Done(()) => Check::ok("program", "loads"),
        Tried::Failed(error) => Check::failure(
            "program",
            format!("it cannot be loaded: {error}"),
            "`run` cannot start: there is no listener without a program",
            "see the reason; rights, memory and the kernel's version have lines of their own here",
        ),
        Tried::Not(why) => Check::warning(
            "program",
            format!("it was not tried: {why}"),
            "whether this kernel takes it is not known",
            "mend that first",
        ),
    }
    .about(kind)
}

/// Checks the trial of handing a connection over ([`HandOver`]).
#[must_use]
pub fn wake_up(tried: &Tried<HandOver>) -> Check {
    const CHECK: &str = "hand-over";
    match tried {
        Tried::Done(HandOver::Woken(time)) => Check::ok(
            CHECK,
            format!("a connection that moved to another socket woke up who waited there, after {time:.1?}"),
        ),
        Tried::Done(HandOver::Silent) => Check::warning(
            CHECK,
            "a connection moved to another socket, and nobody who waited there woke up",
            "this kernel lacks a fix of 2026: a connection that is handed over when a worker leaves, crashes or \
             stalls is accepted only when another one comes",
            "boot a kernel with commit 3864c6ba1e04, like 6.18.44, 6.1.192, or a later one of their series",
        ),
        Tried::Done(HandOver::Lost) => Check::failure(
            CHECK,
            "a queued connection was lost when it should have moved to another socket",
            "connections that a worker has not accepted are reset when it leaves or crashes",
            "boot another kernel, and report this one",
        ),
        Tried::Failed(why) | Tried::Not(why) => Check::warning(
            CHECK,
            format!("it was not tried: {why}"),
            "whether workers wake up for connections that are handed to them is not known",
            "mend that first; loopback must be up",
        ),
    }
}

/// Checks the trial of telling busy workers from waiting ones, which `when_busy = "next"` needs.
#[must_use]
pub fn waiting(tried: &Tried<bool>) -> Check {
    const CHECK: &str = "waiting";
    const MEND: &str = "leave `when_busy` out, and report this kernel";
    match tried {
        Tried::Done(true) => {
            Check::ok(CHECK, "the program told a worker that sleeps in epoll from one that does not")
        }
        Tried::Done(false) => Check::failure(
            CHECK,
            "the program did not tell a worker that sleeps in epoll from one that does not",
            "`when_busy = \"next\"` does not do on this kernel what it says",
            MEND,
        ),
        Tried::Failed(why) | Tried::Not(why) => Check::warning(
            CHECK,
            format!("it was not tried: {why}"),
            "whether `when_busy = \"next\"` works on this kernel is not known",
            "mend that first; loopback must be up",
        ),
    }
}

/// Checks the trial of counting a connection, which `balance`, `drain_until` and `count_connections` need.
#[must_use]
pub fn counting(tried: &Tried<bool>) -> Check {
    const CHECK: &str = "connections";
    match tried {
        Tried::Done(true) => {
            Check::ok(CHECK, "the kernel counted a connection from its beginning to its end")
        }
        Tried::Done(false) => Check::failure(
            CHECK,
            "the kernel did not count a connection from its beginning to its end",
            "`balance`, `drain_until = \"connections\"` and `count_connections` do not do on this kernel what they say",
            "leave them out, and report this kernel",
        ),
        Tried::Failed(why) => Check::failure(
            CHECK,
            format!("connections cannot be counted: {why}"),
            "`run` cannot start services with `balance`, `drain_until = \"connections\"` or `count_connections`",
            "leave them out, or mend that: it needs CAP_BPF, CAP_PERFMON and CONFIG_DEBUG_INFO_BTF",
        ),
        Tried::Not(why) => Check::warning(
            CHECK,
            format!("it was not tried: {why}"),
            "whether connections can be counted on this kernel is not known",
            "mend that first; loopback must be up",
        ),
    }
}

/// Checks that the kernel has type information (BTF); `needed`: a service has `when_busy = "next"` or counts connections.
#[must_use]
pub fn btf(there: bool, needed: bool) -> Check {
    match (there, needed) {
        (false, true) => Check::failure(
            "btf",
            "/sys/kernel/btf/vmlinux is not there",
            "`run` cannot start services with `when_busy = \"next\"`, `balance`, `drain_until = \"connections\"` or \
             `count_connections`: where the kernel keeps what these read is not known",
            "boot a kernel with CONFIG_DEBUG_INFO_BTF, or leave those out",
        ),
        (true, true) => Check::ok("btf", "/sys/kernel/btf/vmlinux is there"),
        (there, false) => {
            let kernel = if there { "is there" } else { "is not there" };
            Check::ok("btf", format!("/sys/kernel/btf/vmlinux {kernel}; nothing here depends on it"))
        }
    }
}

/// Checks that the machine has IPv6; `demo`: for the service of `run` without options.
#[must_use]
pub fn ipv6(there: bool, demo: bool) -> Check {
    match (there, demo) {
        (true, _) => Check::ok("ipv6", "there are IPv6 addresses"),
        (false, true) => Check::warning(
            "ipv6",
            "IPv6 is off on this machine",
            "`run` alone listens on 127.0.0.1:8080 only, and says so",
            "nothing, if IPv4 is enough; else net.ipv6.conf.all.disable_ipv6=0",
        ),
        (false, false) => Check::ok("ipv6", "IPv6 is off on this machine; IPv6 listeners would not start"),
    }
}

/// Checks `net.core.bpf_jit_enable`, which does not exist in other network namespaces than the first.
#[must_use]
pub fn jit(enabled: Option<u64>) -> Check {
    match enabled {
        Some(0) => Check::warning(
            "jit",
            "net.core.bpf_jit_enable is 0, so programs are interpreted",
            "each connection and each datagram costs several times as much to decide",
            "`sysctl -w net.core.bpf_jit_enable=1` before the daemon starts; programs that are loaded stay as they are",
        ),
        Some(_) => Check::ok("jit", "programs are compiled to machine code"),
        None => Check::ok("jit", "the setting is not visible here; nothing depends on it but speed"),
    }
}
