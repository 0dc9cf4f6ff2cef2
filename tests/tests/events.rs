//! `events`: what happened, each with its reason and who asked for it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use testkit::background::Killed;
use testkit::client::ask;
use testkit::config::Config;
use testkit::daemon::{Daemon, signal, throughout, until};
use testkit::said::assert_said;
use testkit::world::World;

/// All events so far of a service, or a worker.
fn events(daemon: &Daemon, of: &[&str]) -> Vec<Value> {
    let printed = daemon.run(&[&["events", "--once"], of].concat());
    printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits for an event that `is` the wanted one.
fn happens(daemon: &Daemon, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    until(what, || events(daemon, &[]).into_iter().find(&is))
}

/// Runs a command that must succeed; returns who asked then, as events have it.
fn asks(daemon: &Daemon, command: &[&str]) -> Value {
    let mut process = daemon.paths().command(command).stdout(Stdio::null()).spawn().unwrap();
    let by = serde_json::json!({"pid": process.id(), "uid": 0, "command": "reuseport-lb"});
    assert!(process.wait().unwrap().success(), "{command:?}");
    by
}

/// Whether an event is a change of this worker's state, between these.
fn changes(event: &Value, worker: &str, from: &str, to: &str) -> bool {
    (&event["event"], &event["worker"], &event["from"], &event["to"])
        == (&"state".into(), &worker.into(), &from.into(), &to.into())
}

#[test]
fn each_event_has_its_reason_and_who_asked_for_it() {
    let world = World::new();
    // Its workers wait for work as well, and the daemon would see either first.
    let file = Config::web().workers(3).set("stall_timeout", "300ms").set("ready", "notify");
    let daemon = Daemon::with(&world, &file);
    let first = &events(&daemon, &[])[0];
    assert_eq!(
        (&first["seq"], &first["event"], &first["pid"]),
        (&1.into(), &"started".into(), &daemon.pid().into())
    );
    let ready = happens(&daemon, "web/0 to be ready", |it| changes(it, "web/0", "starting", "ready"));
    assert_eq!((&ready["reason"], &ready["by"]), (&"it said READY=1".into(), &Value::Null));

    // What ends by itself.
    let killed = daemon.workers()[1];
    signal(killed, Signal::SIGKILL);
    let ended = happens(&daemon, "web/1 to be held", |it| changes(it, "web/1", "ready", "held"));
    assert_eq!((&ended["reason"], &ended["by"]), (&"was killed by SIGKILL".into(), &Value::Null));
    happens(&daemon, "web/1 to be ready again", |it| {
        changes(it, "web/1", "starting", "ready") && it["seq"].as_u64() > ended["seq"].as_u64()
    });

    // What somebody asks for.
    let by = asks(&daemon, &["drain", "web/2"]);
    let drained = happens(&daemon, "web/2 to leave", |it| changes(it, "web/2", "ready", "draining"));
    assert_eq!((&drained["reason"], &drained["by"]), (&"it is drained".into(), &by));
    let removed = happens(&daemon, "web/2 to be removed", |it| it["event"] == "removed");
    assert_eq!((&removed["worker"], &removed["handed_over"]), (&"web/2".into(), &0.into()));

    let by = asks(&daemon, &["weight", "web/0", "5"]);
    let changed = happens(&daemon, "a weight", |it| it["event"] == "weight");
    assert_eq!((&changed["from"], &changed["to"], &changed["by"]), (&1.into(), &5.into(), &by));

    let by = asks(&daemon, &["restart", "web/0"]);
    let left = happens(&daemon, "web/0 to be replaced", |it| changes(it, "web/0", "ready", "draining"));
    let reason = "its successor serves: it is restarted";
    assert_eq!((&left["reason"], &left["by"]), (&reason.into(), &by));

    // A reload by a signal, which is refused, and one that is not.
    let path = file.write(&world);
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, "nonsense").unwrap();
    signal(daemon.pid(), Signal::SIGHUP);
    let refused = happens(&daemon, "a reload to be refused", |it| it["event"] == "reload_failed");
    assert_eq!(refused["by"], serde_json::json!({"signal": "SIGHUP"}));
    assert!(refused["reason"].as_str().unwrap().contains("nonsense"), "{refused}");
    fs::write(&path, good).unwrap();
    let by = asks(&daemon, &["reload"]);
    let reloaded = happens(&daemon, "a reload", |it| it["event"] == "reloaded");
    assert_eq!((&reloaded["changes"], &reloaded["by"]), (&"web: 2 → 3 workers".into(), &by));
    let scaled = happens(&daemon, "a scaling", |it| it["event"] == "scaled");
    assert_eq!((&scaled["from"], &scaled["to"], &scaled["by"]), (&2.into(), &3.into(), &by));

    // One that does not accept.
    throughout(Duration::from_millis(1500), || drop(ask("127.0.0.1:3000".parse().unwrap()).unwrap()));
    let stopped = daemon.workers()[0];
    signal(stopped, Signal::SIGSTOP);
    let mut waiting = Vec::new();
    let stalled = until("a stall", || {
        waiting.push(TcpStream::connect("127.0.0.1:3000").unwrap());
        events(&daemon, &["web/0"]).into_iter().find(|it| it["event"] == "stalled")
    });
    assert_eq!(stalled["listen"], "tcp://127.0.0.1:3000");
    signal(stopped, Signal::SIGCONT);
    happens(&daemon, "the stall to end", |it| it["event"] == "recovered");

    // Numbers have no gaps, and names are names.
    let all = events(&daemon, &[]);
    assert!((1..).zip(&all).all(|(seq, event): (u64, _)| event["seq"] == seq));
    assert!(events(&daemon, &["web/1"]).iter().all(|event| event["worker"] == "web/1"));
    let unknown = [
        (&["events", "wbe"][..], "there is no service \"wbe\"; there is web"),
        (&["events", "web/9", "--once"], "there is no worker web/9; there is web/0, web/1"),
        (&["events", "web/", "--once"], "there is no worker web/; there is web/0, web/1"),
    ];
    for (command, error) in unknown {
        assert_said(&daemon.paths().output(command), 1, &[error]);
    }
    let text = daemon.run(&["events", "web", "--once", "--text"]);
    assert!(text.contains("web/2 ready → draining: it is drained (by reuseport-lb, pid "), "{text}");
}

#[test]
fn a_reader_that_follows_gets_each_event_until_the_daemon_ends() {
    let world = World::new();
    let daemon = Daemon::with(&world, &Config::web().workers(1));
    let mut command = daemon.paths().command(&["events"]);
    let mut follower = Killed(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(follower.0.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    while next()["event"] != "up" {}
    daemon.run(&["scale", "web", "2"]);
    let mut seen = Vec::new();
    while seen.last().is_none_or(|it: &Value| !changes(it, "web/1", "starting", "ready")) {
        seen.push(next());
    }
    let order: Vec<&str> =
        seen.iter().filter_map(|it| it["event"].as_str()).filter(|it| *it != "moved").collect();
    assert_eq!(order, ["added", "scaled", "state"]);
    daemon.run(&["stop"]);
    let mut last = next();
    while last["event"] != "removed" || last["worker"] != "web/1" {
        if last["event"] == "stopping" {
            assert_eq!(last["by"]["command"], "reuseport-lb");
        }
        last = next();
    }
}
