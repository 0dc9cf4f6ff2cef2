//! Checks of what services need for themselves, and need access to: addresses, the runtime directory,
//! users, commands.

use std::io::{self, ErrorKind};
use std::path::Path;

use super::Check;
use super::limits::GROUP;
use crate::config::{Ready, ServiceConfig};
use crate::domain::listener::Listener;

/// Findings about an address.
pub struct Address {
    /// Whether the address can be bound.
    pub had: io::Result<()>,
    /// Where sockets are that overlap with this one and belong to no daemon that answers.
    pub strangers: Result<Vec<Listener>, String>,
    /// Why some of these may be a daemon's own: one runs that does not answer.
    pub unknown: Option<String>,
    /// Why an IPv6 address cannot be bound, if this machine has no IPv6.
    pub no_ipv6: Option<&'static str>,
}

/// Checks the address of a listener of a service with so many workers.
#[must_use]
pub fn address(listener: &Listener, workers: usize, found: &Address) -> Check {
    let port = listener.address.port();
    if let Err(error) = &found.had {
        let means = "`run` cannot listen there, and does not start";
        let (says, mend) = match error.kind() {
            _ if listener.address.is_ipv6() && found.no_ipv6.is_some() => {
                ("this machine has no IPv6".into(), found.no_ipv6.unwrap_or_default().into())
            }
            ErrorKind::AddrInUse => (
                "it is in use by a socket without SO_REUSEPORT, or of another user".into(),
                format!("end its process, which `ss -ltunp sport = :{port}` shows, or take another port"),
            ),
            ErrorKind::AddrNotAvailable => (
                "no interface of this machine has that address".into(),
                "`ip address` lists those that there are; 0.0.0.0, [::] and * are all of them; with freebind = true it may come later".into(),
            ),
            ErrorKind::PermissionDenied => (
                format!("port {port} needs CAP_NET_BIND_SERVICE"),
                "see `rights`, or take a port from 1024 on".into(),
            ),
            _ => (format!("it cannot be had: {error}"), "take another address".into()),
        };
        return Check::failure("address", says, means, mend).about(listener);
    }
    let strangers = match &found.strangers {
        Ok(strangers) => strangers,
        Err(error) => {
            let means = "sockets of others on this port cannot be found, and `status` cannot count them";
            let mend = "load the kernel's modules `tcp_diag`, `udp_diag` and `inet_diag`";
            return Check::warning("address", format!("it can be had, but {error}"), means, mend)
                .about(listener);
        }
    };
    if workers + strangers.len() > GROUP {
        let says =
            format!("{} sockets of others are there, and a group has room for {GROUP}", strangers.len());
        let means = "`run` cannot open the sockets of all workers";
        return Check::failure("address", says, means, "end the processes that have them").about(listener);
    }
    if let (Some(why), false) = (&found.unknown, strangers.is_empty()) {
        let says = format!("{} sockets are there, and {why}", strangers.len());
        let means = "whether they are the daemon's own or those of other programs is not known";
        return Check::warning("address", says, means, "ask again as root, while the daemon answers")
            .about(listener);
    }
    let (mut same, mut narrower, mut wider, mut beside) = (0, 0, 0, 0);
    for theirs in strangers {
        match (listener.covers(theirs.address.ip()), theirs.covers(listener.address.ip())) {
            _ if theirs == listener => same += 1,
            // One of them is v6-only, the other dual-stack.
            (true, true) => beside += 1,
            (true, false) => narrower += 1,
            (false, _) => wider += 1,
        }
    }
    let mut parts = Vec::new();
    if same > 0 {
        parts.push((format!("{same} sockets of others are in its group"), "those in the group get nothing"));
    }
    if narrower > 0 {
        let says = format!("{narrower} sockets of others are on some of its addresses");
        parts.push((says, "those on some addresses get what is sent there, and the services do not"));
    }
    if wider > 0 {
        parts.push((
            format!("{wider} sockets of others are on all addresses"),
            "those on all addresses get nothing that is sent to this one",
        ));
    }
    if beside > 0 {
        parts.push((
            format!("{beside} sockets of others are on all IPv6 addresses, in another group"),
            "those in the other group get all of IPv6, and the services do not",
        ));
    }
    if parts.is_empty() {
        return Check::ok("address", "free for SO_REUSEPORT").about(listener);
    }
    let (says, means): (Vec<String>, Vec<&str>) = parts.into_iter().unzip();
    let mend =
        format!("`ss -ltunp sport = :{port}` shows whose they are; end those that should not be there");
    Check::warning("address", says.join(", "), means.join("; ") + ", while the daemon's are there", mend)
        .about(listener)
}

/// A warning about a configuration that is valid, but perhaps not meant.
#[must_use]
pub fn configuration_warning(line: String) -> Check {
    Check::warning("configuration", line, "it works so", "nothing, if that is meant")
}

/// Findings about a daemon in the runtime directory.
pub enum Daemon {
    /// No daemon runs.
    None,
    /// No daemon runs, but one has left so many services to be taken over.
    Left(usize),
    /// A daemon runs with this process id and these services.
    Running(u32, Vec<String>),
    /// A daemon seems to run, but does not answer; the text says why.
    Silent(String),
}

/// Checks whether a daemon uses the runtime directory.
#[must_use]
pub fn daemon(directory: &Path, found: &Daemon) -> Check {
    let place = directory.display();
    match found {
        Daemon::None => Check::ok("daemon", format!("none runs in {place}")),
        Daemon::Left(services) => Check::ok(
            "daemon",
            format!("none runs in {place}, but one left {services} services, which the next one takes over"),
        ),
        Daemon::Running(pid, services) => Check::ok(
            "daemon",
            format!(
                "process {pid} runs in {place} with {}; its sockets are no strangers, and another one needs its own \
                 --runtime-dir",
                services.join(", ")
            ),
        ),
        Daemon::Silent(error) => Check::warning(
            "daemon",
            format!("one seems to run in {place}, but does not tell: {error}"),
            "its sockets cannot be told from those of others",
            "run doctor as the daemon's user, or see whether the daemon hangs",
        ),
    }
}

/// What is wrong with the runtime directory.
#[derive(Default)]
pub struct RuntimeDir {
    /// The path has more than this number of bytes, the most for sockets in it.
    pub longest: Option<usize>,
    /// Other users may write it.
    pub others_may_write: bool,
    /// The directory belongs to this user, which is neither root nor the daemon's.
    pub owner: Option<u32>,
    /// A directory on the way that the daemon may not enter, and why.
    pub closed: Option<(String, String)>,
}

/// Checks the runtime directory.
#[must_use]
pub fn runtime_dir(directory: &Path, found: &RuntimeDir) -> Check {
    let place = directory.display();
    let stops = "`run` does not start there: its sockets, lock and state files are in it";
    let other = "or give another place with --runtime-dir";
    if let Some(longest) = found.longest {
        let says = format!("{place} is too long a path for sockets in it");
        return Check::failure("runtime-dir", says, stops, format!("use one of at most {longest} bytes"));
    }
    if found.others_may_write {
        let says = format!("others than its user may write {place}");
        let means = "`run` does not start there: what is in it is believed by the next daemon";
        return Check::failure("runtime-dir", says, means, format!("`chmod go-w {place}`, {other}"));
    }
    if let Some(owner) = found.owner {
        let says = format!("{place} belongs to user {owner}, who is neither root nor this one");
        let means = "`run` does not start there: what is in it is believed by the next daemon";
        return Check::failure("runtime-dir", says, means, format!("`chown` it, {other}"));
    }
    if let Some((part, error)) = &found.closed {
        let says =
            format!("{part} is closed to the daemon, without the right to override permissions: {error}");
        return Check::failure("runtime-dir", says, stops, format!("`chown` or `chmod` {part}, {other}"));
    }
    Check::ok("runtime-dir", format!("{place} can be used"))
}

/// Findings about the user of a service's workers.
pub struct WorkerUser<'a> {
    /// Name of the user; as an error, the daemon's user id if the service names no user.
    pub user: Result<&'a str, u32>,
    /// A directory on the way to the runtime directory that the user may not enter, and why.
    pub closed: Option<(String, String)>,
    /// Why that could not be tried.
    pub untried: Option<String>,
}

/// Checks whether workers can send messages to the daemon, and whether they run as root.
#[must_use]
pub fn worker(service: &ServiceConfig, found: &WorkerUser<'_>) -> Check {
    let who = match found.user {
        Ok(name) => name.to_owned(),
        Err(0) => "root".into(),
        Err(uid) => format!("user {uid}"),
    };
    let check = if let Some((part, error)) = &found.closed {
        closed(service, &who, part, error)
    } else if let Some(why) = &found.untried {
        let means = "whether its workers reach the daemon's sockets is not known";
        Check::warning(
            "user",
            format!("it could not be tried what {who} reaches: {why}"),
            means,
            "see `rights`",
        )
    } else if found.user == Err(0) && service.embedded {
        Check::warning(
            "user",
            "there is no user nobody, so embedded workers run as root, without rights of root",
            "an attacker in such a worker owns root's files",
            "add a user nobody, or set `user`",
        )
    } else if found.user == Err(0) && !service.command.is_empty() {
        Check::warning(
            "user",
            "its workers run as root",
            "an attacker in such a worker has the machine",
            "set `user` (or --user), if the command does not need root",
        )
    } else {
        Check::ok("user", format!("workers run as {who}, and reach the daemon's sockets"))
    };
    check.about(&service.name)
}

/// The check of workers that cannot send `READY=1`.
fn closed(service: &ServiceConfig, who: &str, part: &str, error: &str) -> Check {
    let says = format!("{who} cannot go through {part}: {error}");
    let mend =
        format!("`chmod o+x {part}`, or give a runtime directory that all may enter with --runtime-dir");
    if service.embedded {
        let means = "embedded workers end with \"cannot say READY=1 to the daemon: Permission denied\", and the start fails";
        return Check::failure("user", says, means, mend);
    }
    if service.command.is_empty() {
        let means = format!("`exec` as {who} cannot join: the daemon's socket is out of reach");
        return Check::failure("user", says, means, mend);
    }
    if service.ready == Ready::Notify {
        let means = "the command's READY=1 does not arrive, so its workers never become ready";
        return Check::failure("user", says, means, mend);
    }
    if service.watchdog.is_some() {
        let means = "the command's WATCHDOG=1 does not arrive, so its workers are killed again and again";
        return Check::failure("user", says, means, mend);
    }
    Check::warning("user", says, "the command's READY=1, STOPPING=1 and WATCHDOG=1 do not arrive", mend)
}

/// Findings about the command of a service: its path, and, if the workers' user may not execute it, the user and
/// the reason; or why no user can.
pub type Executable = Result<(String, Option<(String, String)>), String>;

/// Checks the command of a service.
#[must_use]
pub fn command(service: &ServiceConfig, found: &Executable) -> Check {
    let means = "no worker can be started, and `run` fails";
    match found {
        Err(error) => {
            let mend = "install it, or give its whole path; it is looked up from where the daemon is started";
            Check::failure("command", error, means, mend)
        }
        Ok((path, Some((who, error)))) => {
            let says = format!("{who} may not execute {path} ({error})");
            Check::failure(
                "command",
                says,
                means,
                "`chmod o+rx` it and the directories above it, or set another `user`",
            )
        }
        Ok((path, None)) => Check::ok("command", path),
    }
    .about(&service.name)
}

/// Checks the working directories of a service's workers: which of them, if any, `who` cannot enter, and why.
#[must_use]
pub fn directory(service: &ServiceConfig, cwd: &str, who: &str, closed: Option<(String, String)>) -> Check {
    match closed {
        None => Check::ok("cwd", format!("{who} may enter {cwd}")),
        Some((directory, error)) => Check::failure(
            "cwd",
            format!("{who} cannot enter {directory}: {error}"),
            "no worker can be started there, and `run` fails",
            "make the directory, `chmod o+x` it and those above it, or set another `cwd`",
        ),
    }
    .about(&service.name)
}

/// Checks the folders of the log files of a service's workers: which of them, if any, the daemon cannot write into, and
/// why.
#[must_use]
pub fn log(service: &ServiceConfig, file: &str, closed: Option<(String, String)>) -> Check {
    match closed {
        None => Check::ok("log", format!("{file} can be written")),
        Some((folder, error)) => Check::failure(
            "log",
            format!("log files cannot be made in {folder}: {error}"),
            "the output of workers would go to standard error instead, and `run` fails",
            "make the folder (`mkdir -p`), `chown` it to the daemon's user, or set another `log`",
        ),
    }
    .about(&service.name)
}

/// Checks the daemon's own binary, which is executed to start workers.
#[must_use]
pub fn binary(path: &str, closed: Option<&str>) -> Check {
    match closed {
        None => Check::ok("binary", path),
        Some(error) => Check::failure(
            "binary",
            format!("{path} is closed to the daemon, without the right to override permissions: {error}"),
            "`run` does not start: each worker is started from it",
            "put it where its user (root, if run with sudo) may go",
        ),
    }
}
