//! `status --check`, for monitoring, and `status --watch`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use reuseport_lb_client::api::Status;
use testkit::client::ask;
use testkit::config::Config;
use testkit::daemon::{Daemon, signal, throughout, until};
use testkit::world::World;

fn to() -> SocketAddr {
    "127.0.0.1:3000".parse().unwrap()
}

/// Exit code, and what was said.
fn check(daemon: &Daemon, what: &[&str]) -> (i32, String) {
    let output = daemon.paths().output(&[&["status", "--check"], what].concat());
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

#[test]
fn a_check_fails_just_while_something_is_not_as_it_is_wanted() {
    let world = World::new();
    let daemon =
        Daemon::with(&world, &Config::web().workers(2).set("stall_timeout", "300ms").set("lame_duck", "1h"));
    let well = (0, "all that is wanted is ready: web (2 workers)\n".to_owned());
    assert_eq!(check(&daemon, &[]), well);
    assert_eq!(check(&daemon, &["web/1"]), (0, "all that is wanted is ready: web/1\n".into()));
    let (code, said) = check(&daemon, &["wbe"]);
    assert!(code == 1 && said.contains("there is no service \"wbe\"; there is web"), "{said}");

    // One that was not seen to accept for a moment is loading.
    throughout(Duration::from_millis(1500), || drop(ask(to()).unwrap()));
    let stopped = daemon.workers()[0];
    signal(stopped, Signal::SIGSTOP);
    let mut waiting = Vec::new();
    let said = until("a check to fail", || {
        waiting.push(TcpStream::connect(to()).unwrap());
        let (code, said) = check(&daemon, &[]);
        (code == 1).then_some(said)
    });
    let wanted = "reuseport-lb: not all that is wanted is ready: web/0 is stalled\n";
    assert_eq!(said, wanted);
    assert_eq!(check(&daemon, &["web/1"]).0, 0);
    signal(stopped, Signal::SIGCONT);
    until("a check to succeed", || (check(&daemon, &[]) == well).then_some(()));

    let mut stopping = daemon.paths().command(&["stop"]).stdout(Stdio::null()).spawn().unwrap();
    let wanted = (1, "reuseport-lb: not all that is wanted is ready: web is ending\n".to_owned());
    until("the end to be announced", || (check(&daemon, &[]) == wanted).then_some(()));
    daemon.run(&["stop"]);
    assert!(stopping.wait().unwrap().success());
}

fn watch(daemon: &Daemon, arguments: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut command = daemon.paths().command(&[&["status", "--watch=0.2"], arguments].concat());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    (child, lines)
}

#[test]
fn what_is_watched_through_a_pipe_is_tables_or_lines_of_json_until_nobody_reads() {
    let world = World::new();
    let daemon = Daemon::with(&world, &Config::web().workers(1));
    let (mut watching, mut lines) = watch(&daemon, &[]);
    let mut table = || {
        let mut text = String::new();
        // An empty line is in a table, and one more is behind it.
        while !text.ends_with("\n\n") || text.matches("\n\n").count() < 2 {
            assert!(lines.read_line(&mut text).unwrap() > 0, "{text}");
        }
        text
    };
    let first = table();
    assert!(first.starts_with("reuseport-lb ") && first.contains(" NEW/S\n"), "{first}");
    assert!(first.lines().any(|line| line.contains(" web/0 ") && line.ends_with(" -")), "{first}");
    assert!(!first.contains('\u{1b}'), "{first}");
    let rate = |table: &str| {
        let line = table.lines().find(|line| line.trim_start().starts_with("web/0 "))?;
        line.rsplit(' ').next()?.parse::<u64>().ok()
    };
    (0..100).for_each(|_| drop(ask(to()).unwrap()));
    let mut seen = 0;
    // What was new may be in two tables; each is of at least 0.2 s.
    for _ in 0..3 {
        seen += rate(&table()).unwrap_or_default();
    }
    assert!((1..=500).contains(&seen), "{seen} a second in three tables");
    assert_eq!(rate(&table()), Some(0));
    drop(lines);
    assert!(watching.wait().unwrap().success(), "it ends when nobody reads");

    let (mut watching, lines) = watch(&daemon, &["--json", "web"]);
    let read: Vec<Status> =
        lines.lines().take(2).map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    assert!(read.iter().all(|status| status.services[0].workers[0].name == "web/0"));
    assert!(watching.wait().unwrap().success(), "it ends when nobody reads");
    let refused = daemon.paths().output(&["status", "--watch=0"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(2) && said.contains("from 0.1 to 3600"), "{said}");
    daemon.stop();
}
