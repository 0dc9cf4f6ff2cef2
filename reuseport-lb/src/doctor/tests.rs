//! Tests of each verdict.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::limits::*;
use super::places::*;
use super::system::*;
use super::*;
use crate::config::{Ready, ServiceConfig};
use crate::domain::listener::Listener;
use crate::kernel::findings::{HandOver, Memory};

fn service(listen: &[&str], workers: usize) -> ServiceConfig {
    ServiceConfig::new("web", listen.iter().map(|it| it.parse().unwrap()).collect(), workers)
}

fn with_command(ready: Ready) -> ServiceConfig {
    let command = vec!["x".into()];
    ServiceConfig { command, ready, ..service(&["tcp://127.0.0.1:80"], 1) }
}

/// Asserts the verdict, and that `says` are in some text of the check; all but `Ok` must say what it means and how to
/// mend it.
#[track_caller]
fn assert_said(check: &Check, verdict: Verdict, says: &[&str]) {
    assert_eq!(check.verdict, verdict, "{check:?}");
    let said = [&*check.says, &check.means, &check.mend].join("\n");
    for one in says {
        assert!(said.contains(one), "{one:?} is not in: {said}");
    }
    let explained = !check.means.is_empty() && !check.mend.is_empty();
    assert_eq!(explained, verdict != Verdict::Ok, "{check:?}");
}

use Verdict::{Failure, Ok as Fine, Warning};

#[test]
fn kernels_before_5_14_fail() {
    for release in ["4.19.0", "5.13.19-generic", "5.4"] {
        assert_said(&kernel(release), Failure, &[release, "older than 5.14", "boot a kernel"]);
    }
    for release in ["5.14.0", "5.15.1-x", "6.1.0-42-amd64", "7.0", "unheard of"] {
        assert_said(&kernel(release), Fine, &[release]);
    }
}

#[test]
fn rights_and_bpffs() {
    assert_said(&rights(None), Fine, &[]);
    assert_said(&rights(Some(("no CAP_BPF", "use sudo"))), Failure, &["no CAP_BPF", "refuses", "sudo"]);
    let refused = || Err("Operation not permitted".to_owned());
    for (found, verdict, says) in [
        (Bpffs::Mounted(Ok(())), Fine, "a BPF file system at /b"),
        (Bpffs::Mounted(refused()), Failure, "may not make directories"),
        (Bpffs::Free(Ok(())), Fine, "`run` mounts one"),
        (Bpffs::Free(refused()), Failure, "mount -t bpf bpf /b"),
        (Bpffs::Other("it is not empty".into()), Failure, "an empty directory made for it"),
        (Bpffs::Nothing, Failure, "make the directory"),
        (Bpffs::Other("it is no directory".into()), Failure, "it is no directory"),
    ] {
        assert_said(&bpffs("/b", &found), verdict, &[says]);
    }
}

#[test]
fn what_was_tried_and_what_was_not() {
    assert_said(&program("tcp", &Tried::Done(())), Fine, &[]);
    assert_said(&program("tcp", &Tried::Failed("EPERM".into())), Failure, &["EPERM", "cannot start"]);
    assert_said(&program("tcp", &Tried::Not("no bpffs".into())), Warning, &["not tried", "no bpffs"]);
    let woken = HandOver::Woken(Duration::from_micros(20));
    assert_said(&wake_up(&Tried::Done(woken)), Fine, &["woke up", "20.0µs"]);
    assert_said(
        &wake_up(&Tried::Done(HandOver::Silent)),
        Warning,
        &["nobody", "3864c6ba1e04", "another one comes"],
    );
    assert_said(&wake_up(&Tried::Done(HandOver::Lost)), Failure, &["lost", "reset"]);
    for tried in [Tried::Failed("no loopback".into()), Tried::Not("no loopback".into())] {
        assert_said(&wake_up(&tried), Warning, &["no loopback", "not known"]);
    }
    for there in [true, false] {
        assert_said(&btf(there, false), Fine, &["nothing here depends on it"]);
    }
    assert_said(&btf(true, true), Fine, &["is there"]);
    assert_said(&btf(false, true), Failure, &["is not there", "when_busy", "CONFIG_DEBUG_INFO_BTF"]);
    assert_said(&waiting(&Tried::Done(true)), Fine, &["told a worker that sleeps"]);
    assert_said(&waiting(&Tried::Done(false)), Failure, &["does not do", "leave `when_busy` out"]);
    assert_said(&waiting(&Tried::Failed("no loopback".into())), Warning, &["no loopback", "not known"]);
    assert_said(&counting(&Tried::Done(true)), Fine, &["from its beginning to its end"]);
    assert_said(&counting(&Tried::Done(false)), Failure, &["`balance`", "leave them out"]);
    assert_said(&counting(&Tried::Failed("no BTF".into())), Failure, &["no BTF", "CAP_PERFMON"]);
    assert_said(&jit(Some(0)), Warning, &["bpf_jit_enable=1"]);
    assert_said(&jit(Some(1)), Fine, &[]);
    assert_said(&jit(None), Fine, &["not visible"]);
}

#[test]
fn open_files_are_counted_by_workers_and_listeners() {
    let services = [service(&["tcp://127.0.0.1:80", "udp://127.0.0.1:80"], 10)];
    // 24 + 2 x 12 + 10 x (2 + 6), and 8 for another worker.
    assert_said(
        &open_files(127, &services),
        Failure,
        &["is 127", "about 128", "LimitNOFILE=256", "too many"],
    );
    assert_said(&open_files(135, &services), Warning, &["replacing a worker 8 more"]);
    assert_said(&open_files(136, &services), Fine, &["about 128, of 136"]);
    assert_said(&open_files(u64::MAX, &[]), Fine, &[]);
}

#[test]
fn memory_is_counted_by_groups() {
    let services = [service(&["tcp://127.0.0.1:80", "udp://127.0.0.1:80"], 10)];
    assert_said(&memory(None, &services, 2), Fine, &["of all listeners take about", "no cgroup"]);
    let limited =
        |limit: u64, used: u64| Some(Memory { cgroup: "/c".into(), limit: limit << 20, used: used << 20 });
    let at = |limit, used| memory(limited(limit, used).as_ref(), &services, 2);
    assert_said(&at(5, 0), Failure, &["/c may have 5 MiB", "MemoryMax="]);
    assert_said(&at(100, 95), Warning, &["has 95 MiB", "the next daemon"]);
    assert_said(&at(5, 9), Failure, &[]);
    assert_said(&at(100, 50), Fine, &[]);
    // Each CPU has counters of its own.
    assert_said(&memory(limited(100, 50).as_ref(), &services, 1024), Warning, &[]);
}

#[test]
fn queues() {
    let web = service(&["tcp://127.0.0.1:80"], 1);
    let capped = backlog(&web, Some(128)).unwrap();
    assert_said(&capped, Warning, &["caps it at 128", "somaxconn=4096", "`backlog = 128`"]);
    assert_eq!(capped.about, "web");
    assert_said(&backlog(&web, Some(4096)).unwrap(), Fine, &["4096"]);
    assert_eq!(backlog(&web, None), None);
    assert_eq!(backlog(&service(&["udp://127.0.0.1:80"], 1), Some(128)), None);
    assert_said(&receive_queue(4096), Warning, &["about 5 small", "dropped"]);
    assert_said(&receive_queue(212_992), Fine, &["about 277 small"]);
}

#[test]
fn ports_that_outgoing_connections_may_have() {
    let range = (32768, 60999);
    let web = service(&["tcp://127.0.0.1:40000", "udp://127.0.0.1:40000", "tcp://127.0.0.1:80"], 1);
    let check = local_ports(&web, range, "\n").unwrap();
    assert_said(&check, Warning, &["40000 is in", "reserved_ports=40000`"]);
    let check = local_ports(&web, range, "50000-50009,8080\n").unwrap();
    assert_said(&check, Warning, &["reserved_ports=50000-50009,8080,40000`"]);
    for reserved in ["40000", "1,39999-40001\n"] {
        assert_eq!(local_ports(&web, range, reserved), None);
    }
    assert_eq!(local_ports(&web, (40001, 60999), ""), None);
    assert_eq!(local_ports(&service(&["tcp://127.0.0.1:0"], 1), (0, 60999), ""), None);
}

/// `strangers`: their addresses, all with port 80.
fn found(had: io::Result<()>, strangers: &[&str]) -> Address {
    let at = |host: &&str| format!("tcp://{host}:80").parse().unwrap();
    let strangers: Vec<Listener> = strangers.iter().map(at).collect();
    Address { had, strangers: Ok(strangers), unknown: None, no_ipv6: None }
}

#[test]
fn addresses_that_cannot_be_had() {
    let listener = "tcp://127.0.0.1:80".parse().unwrap();
    for (errno, says) in [
        (libc_errno::EADDRINUSE, "without SO_REUSEPORT"),
        (libc_errno::EADDRNOTAVAIL, "no interface"),
        (libc_errno::EACCES, "CAP_NET_BIND_SERVICE"),
        (libc_errno::EAFNOSUPPORT, "cannot be had"),
    ] {
        let check = address(&listener, 1, &found(Err(io::Error::from_raw_os_error(errno)), &["127.0.0.1"]));
        assert_said(&check, Failure, &[says, "does not start"]);
        assert_eq!(check.about, "tcp://127.0.0.1:80");
    }
}

/// Error numbers of Linux.
mod libc_errno {
    pub(super) const EACCES: i32 = 13;
    pub(super) const EAFNOSUPPORT: i32 = 97;
    pub(super) const EADDRINUSE: i32 = 98;
    pub(super) const EADDRNOTAVAIL: i32 = 99;
}

#[test]
fn strangers_are_told_apart_by_where_they_are() {
    let one = "tcp://127.0.0.1:80".parse().unwrap();
    let all = "tcp://0.0.0.0:80".parse().unwrap();
    assert_said(&address(&one, 1, &found(Ok(()), &[])), Fine, &["free"]);
    let same = address(&one, 1, &found(Ok(()), &["127.0.0.1", "127.0.0.1"]));
    assert_said(&same, Warning, &["2 sockets of others are in its group", "get nothing", "ss -ltunp"]);
    let wider = address(&one, 1, &found(Ok(()), &["0.0.0.0", "*"]));
    assert_said(&wider, Warning, &["2 sockets of others are on all addresses"]);
    let narrower = address(&all, 1, &found(Ok(()), &["127.0.0.1", "0.0.0.0"]));
    assert_said(
        &narrower,
        Warning,
        &["1 sockets of others are in its group, 1 sockets of others are on some of its addresses"],
    );
    let both = "tcp://*:80".parse().unwrap();
    let found_at = |at: &[&str]| address(&both, 1, &found(Ok(()), at));
    assert_said(&found_at(&["*"]), Warning, &["1 sockets of others are in its group"]);
    let some = ["0.0.0.0", "127.0.0.1", "[::1]"];
    assert_said(&found_at(&some), Warning, &["3 sockets of others are on some", "the services do not"]);
    assert_said(&found_at(&["[::]"]), Warning, &["1 sockets of others are on all IPv6", "in another group"]);
    let unknown = Address { unknown: Some("a daemon is silent".into()), ..found(Ok(()), &["127.0.0.1"]) };
    assert_said(&address(&one, 1, &unknown), Warning, &["1 sockets are there, and a daemon is silent"]);
    let unlisted = Address { strangers: Err("no sock_diag".into()), ..found(Ok(()), &[]) };
    assert_said(&address(&one, 1, &unlisted), Warning, &["no sock_diag", "tcp_diag"]);
    let many = vec!["127.0.0.1"; 32_768];
    assert_said(&address(&one, 1, &found(Ok(()), &many)), Failure, &["room for 32768"]);
}

#[test]
fn the_runtime_directory_and_its_daemon() {
    let place = Path::new("/r");
    assert_said(&runtime_dir(place, &RuntimeDir::default()), Fine, &["/r can be used"]);
    let long = RuntimeDir { longest: Some(82), ..RuntimeDir::default() };
    assert_said(&runtime_dir(place, &long), Failure, &["at most 82 bytes"]);
    let open = RuntimeDir { others_may_write: true, ..RuntimeDir::default() };
    assert_said(&runtime_dir(place, &open), Failure, &["chmod go-w /r"]);
    let theirs = RuntimeDir { owner: Some(1000), ..RuntimeDir::default() };
    assert_said(&runtime_dir(place, &theirs), Failure, &["user 1000"]);
    let closed = RuntimeDir { closed: Some(("/p".into(), "no".into())), ..RuntimeDir::default() };
    assert_said(&runtime_dir(place, &closed), Failure, &["/p is closed"]);

    assert_said(&daemon(place, &Daemon::None), Fine, &["none runs"]);
    assert_said(&daemon(place, &Daemon::Left(2)), Fine, &["left 2 services"]);
    assert_said(
        &daemon(place, &Daemon::Running(7, vec!["web".into()])),
        Fine,
        &["process 7", "web", "no strangers"],
    );
    assert_said(&daemon(place, &Daemon::Silent("no answer".into())), Warning, &["no answer"]);
}

#[test]
fn a_worker_that_cannot_reach_the_daemon() {
    let closed = || WorkerUser {
        user: Ok("nobody"),
        closed: Some(("/private".into(), "Permission denied".into())),
        untried: None,
    };
    let embedded = ServiceConfig::demo();
    let says = ["nobody cannot go through /private", "cannot say READY=1", "chmod o+x /private"];
    assert_said(&worker(&embedded, &closed()), Failure, &says);
    assert_said(&worker(&with_command(Ready::Notify), &closed()), Failure, &["never become ready"]);
    assert_said(&worker(&with_command(Ready::Immediate), &closed()), Warning, &["do not arrive"]);
    let watched = ServiceConfig { watchdog: Some(Duration::from_secs(1)), ..with_command(Ready::Immediate) };
    assert_said(&worker(&watched, &closed()), Failure, &["killed again and again"]);
    assert_said(&worker(&service(&["tcp://127.0.0.1:80"], 0), &closed()), Failure, &["cannot join"]);
}

#[test]
fn the_user_of_workers() {
    let of = |user| WorkerUser { user, closed: None, untried: None };
    assert_said(&worker(&ServiceConfig::demo(), &of(Ok("nobody"))), Fine, &["run as nobody"]);
    assert_said(&worker(&ServiceConfig::demo(), &of(Err(0))), Warning, &["no user nobody"]);
    assert_said(&worker(&ServiceConfig::demo(), &of(Err(1000))), Fine, &["user 1000"]);
    assert_said(&worker(&with_command(Ready::Notify), &of(Err(0))), Warning, &["run as root", "set `user`"]);
    assert_said(&worker(&service(&["tcp://127.0.0.1:80"], 0), &of(Err(0))), Fine, &[]);
    let untried = WorkerUser { untried: Some("EPERM".into()), ..of(Ok("nobody")) };
    assert_said(&worker(&ServiceConfig::demo(), &untried), Warning, &["what nobody reaches: EPERM"]);
}

#[test]
fn commands_and_the_binary() {
    let web = with_command(Ready::Notify);
    assert_said(&command(&web, &Err("command not found: x".into())), Failure, &["not found", "`run` fails"]);
    let refused = ("/root/x".to_owned(), Some(("www-data".to_owned(), "Permission denied".to_owned())));
    assert_said(&command(&web, &Ok(refused)), Failure, &["www-data may not execute /root/x"]);
    assert_said(&command(&web, &Ok(("/x".into(), None))), Fine, &["/x"]);
    assert_said(&binary("/x", None), Fine, &["/x"]);
    assert_said(&binary("/x", Some("no")), Failure, &["/x is closed"]);
}

#[test]
fn a_report_has_the_worst_verdict_and_all_words() {
    let fine = kernel("6.1");
    let bad = rights(Some(("no CAP_BPF", "use sudo")));
    let report = Report::new("6.1".into(), vec![fine.clone(), capped(), bad]);
    assert_eq!(report.verdict, Failure);
    assert_eq!([Fine, Warning, Failure].map(|one| report.count(one)), [1, 1, 1]);
    let text = report.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[2], "ok       kernel         Linux 6.1");
    assert!(lines[3].starts_with("WARNING  backlog        web: `backlog` is 4096"), "{text}");
    assert!(lines[4].starts_with("                 means: each accept queue"), "{text}");
    assert!(lines[5].starts_with("                  mend: `sysctl"), "{text}");
    assert!(text.ends_with("\n1 ok, 1 warnings, 1 failures\n"), "{text}");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["checks"][1]["verdict"], "warning");
    let keys: BTreeSet<&String> = json["checks"][0].as_object().unwrap().keys().collect();
    assert_eq!(keys.into_iter().collect::<Vec<_>>(), ["check", "says", "verdict"]);
    assert_eq!(Report::new("6.1".into(), vec![fine]).verdict, Fine);
}

fn capped() -> Check {
    backlog(&service(&["tcp://127.0.0.1:80"], 1), Some(128)).unwrap()
}
