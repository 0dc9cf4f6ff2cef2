//! `top`, in a terminal (tmux) and without one.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod pane;

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use nix::sys::signal::Signal;
use testkit::client::ask;
use testkit::config::Config;
use testkit::daemon::{Daemon, Paths, is_alive, settled, signal, throughout, until};
use testkit::load::Load;
use testkit::world::World;

use pane::Pane;

fn to() -> SocketAddr {
    "127.0.0.1:3000".parse().unwrap()
}

#[test]
fn a_stalled_worker_is_shown_and_another_one_drained_by_keys() {
    let world = World::new();
    let config = Config::web().workers(3).set("stall_timeout", "300ms");
    let daemon = Daemon::with(&world, &config);
    let pane = Pane::new(&world, "");
    let before = pane.settings();
    pane.start("");
    for worker in ["web/0", "web/1", "web/2"] {
        pane.shows_line(&[worker, " ready "]);
    }
    // One that was not seen to accept for a moment is loading.
    throughout(Duration::from_millis(1500), || drop(ask(to()).unwrap()));
    let stopped = daemon.workers()[1];
    signal(stopped, Signal::SIGSTOP);
    let mut waiting = Vec::new();
    until("it to be stalled", || {
        waiting.push(TcpStream::connect(to()).unwrap());
        (daemon.service().workers[1].state == "stalled").then_some(())
    });
    pane.shows_line(&["web/1", " stalled "]);
    pane.shows_line(&["service web: 2 of 3 workers ready"]);
    pane.shows_line(&["Z web/1 stalls on tcp://127.0.0.1:3000: it does not accept"]);

    // A key alone, and another answer than y, do nothing.
    pane.key("Down");
    pane.key("Down");
    pane.shows_line(&["> web/2 "]);
    pane.key("d");
    pane.shows("drain web/2? It leaves, and is not replaced.");
    pane.key("n");
    pane.shows("nothing was done");
    pane.key("d");
    pane.shows("drain web/2?");
    assert_eq!(daemon.service().wanted, 3);
    pane.key("y");
    until("it to leave", || (daemon.service().workers.len() == 2).then_some(()));
    pane.shows_line(&["web/2: 0 waited for it", "gone after"]);
    pane.shows_line(&["Z web/2 removed after"]);
    assert_eq!((daemon.service().wanted, daemon.workers()[1]), (2, stopped));
    pane.shows_line(&["web/1", " stalled "]);

    pane.key("q");
    pane.ended(0);
    assert_eq!(pane.settings(), before);
    signal(stopped, Signal::SIGCONT);
    daemon.stop();
}

#[test]
fn whatever_ends_it_leaves_the_terminal_as_it_was() {
    let world = World::new();
    let daemon = Daemon::with(&world, &Config::web().workers(1));
    let pane = Pane::new(&world, "");
    let before = pane.settings();
    for (key, code) in [("q", 0), ("Escape", 0), ("C-c", 0)] {
        pane.line("clear; echo; echo what was there before");
        pane.start("");
        pane.key(key);
        pane.ended(code);
    }
    for end in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        pane.line("clear; echo; echo what was there before");
        let pid = pane.start("");
        assert_ne!(pane.settings(), before);
        signal(pid, end);
        pane.ended(128 + end as i32);
    }
    assert_eq!(pane.settings(), before);
    // The terminal goes away.
    let pid = pane.start("");
    drop(pane);
    until("it to end without its terminal", || (!is_alive(pid)).then_some(()));
    daemon.stop();
}

#[test]
fn a_size_that_is_too_small_shows_what_there_is_room_for() {
    let world = World::new();
    let daemon = Daemon::with(&world, &Config::web().workers(20));
    let pane = Pane::new(&world, "");
    pane.start("");
    let resize = |width: &str, height: &str| pane.tmux(&["resize-window", "-x", width, "-y", height]);
    for (width, height) in [("1", "1"), ("20", "5"), ("20", "1"), ("3", "30")] {
        resize(width, height);
        pane.key("Down");
    }
    resize("20", "5");
    pane.until("the selected worker, alone", |text| {
        let lines: Vec<&str> = text.lines().collect();
        (lines.len() == 5
            && lines[1] == "  WORKER  STATE"
            && lines.iter().any(|it| it.starts_with("> web/4 ")))
        .then_some(())
    });
    resize("120", "30");
    pane.shows_line(&["> web/4 ", "ready"]);
    pane.key("End");
    pane.shows_line(&["> web/19 ", "ready"]);
    pane.key("q");
    pane.ended(0);
    daemon.stop();
}

#[test]
fn a_daemon_that_goes_is_missed_and_its_successor_is_seen() {
    let world = World::new();
    let config = Config::web().workers(2);
    let daemon = Daemon::with(&world, &config);
    let workers = daemon.workers();
    let pane = Pane::new(&world, "");
    pane.start("web");
    pane.shows_line(&["web/1", "ready"]);
    daemon.kill();
    pane.shows_line(&["NO DAEMON for ", "no daemon runs there"]);
    pane.shows_line(&["Z the daemon does not answer: cannot reach"]);
    // What it was like stays, and an action says why it fails.
    pane.shows_line(&["> web/0", "ready"]);
    pane.key("d");
    pane.shows("drain web/0?");
    pane.key("y");
    pane.shows_line(&["web/0: cannot reach ", "no daemon runs there"]);
    let daemon = Daemon::with(&world, &config);
    assert_eq!(daemon.workers(), workers);
    pane.shows_line(&["the daemon answers again, process ", &daemon.pid().to_string()]);
    pane.until("the head", |text| text.starts_with("reuseport-lb ").then_some(()));
    pane.key("q");
    pane.ended(0);
    daemon.stop();
}

#[test]
fn keys_set_a_weight_restart_a_worker_and_show_decisions() {
    let world = World::new();
    let daemon = Daemon::with(&world, &Config::web().workers(2));
    let before = daemon.workers();
    let pane = Pane::new(&world, "");
    pane.start("");
    pane.key("w");
    pane.shows("weight of web/0 (Enter: set it, Esc: do not): _");
    pane.tmux(&["send-keys", "-l", "3"]);
    pane.key("Enter");
    until("the weight", || (daemon.service().workers[0].weight == 3).then_some(()));
    pane.shows_line(&["web/0: weight 3"]);
    pane.shows_line(&["Z web/0 weight 1 → 3", "(by reuseport-lb, pid "]);
    pane.shows_line(&["> web/0", " 75.0%"]);

    pane.key("r");
    pane.shows("restart web/0? A new process takes over.");
    pane.key("y");
    let after = daemon.settled_without(before[0]);
    let successor = after.workers[0].pid.unwrap();
    assert_eq!(after.workers[1].pid, Some(before[1]));
    pane.shows_line(&["Z web/0: 1 replaced"]);
    pane.shows_line(&["> web/0", "ready", &successor.to_string()]);

    // It gets what its share says, give or take.
    let load = Load::to(to()).kept(0).clients(8).start();
    pane.until("what it got", |text| {
        let line = text.lines().find(|line| line.starts_with("> web/0"))?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "75.0%")?;
        let got: f64 = words[at + 1].strip_suffix('%')?.parse().ok()?;
        let each_second: u64 = words[at + 2].parse().ok()?;
        ((55.0..95.0).contains(&got) && each_second > 10).then_some(())
    });
    pane.shows_line(&["service web: 2 of 2 workers ready", " new/s"]);
    pane.key("t");
    pane.shows("decisions of web (t: back to the events)");
    pane.shows_line(&["tcp://127.0.0.1:3000 from 127.0.0.1:", " → web/1  (arrival_packet owner_taken)"]);
    pane.key("t");
    pane.shows_line(&["Z web/0: 1 replaced"]);
    let report = load.end();
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    until("it to be settled", || settled(&daemon.service()).then_some(()));

    // A paste is no keys.
    pane.tmux(&["set-buffer", "dy"]);
    pane.tmux(&["paste-buffer", "-p"]);
    pane.key("s");
    pane.shows(", sorted by STATE");
    assert_eq!(daemon.service().wanted, 2);
    pane.key("/");
    pane.tmux(&["send-keys", "-l", "EB/1"]);
    pane.key("Enter");
    pane.until("one worker", |text| {
        (text.contains("> web/1 ") && !text.contains("\n  web/0 ") && text.contains("only \"EB/1\""))
            .then_some(())
    });
    pane.key("q");
    pane.ended(0);
    daemon.stop();
}

#[test]
fn colours_are_shown_unless_they_are_not_wanted() {
    let world = World::new();
    let daemon = Daemon::with(&world, &Config::web().workers(1));
    let coloured = |pane: &Pane| pane.tmux(&["capture-pane", "-p", "-e"]).contains("\u{1b}[38;5;");
    let pane = Pane::new(&world, "");
    pane.start("");
    assert!(coloured(&pane), "{}", pane.text());
    drop(pane);
    let pane = Pane::new(&world, "NO_COLOR=1");
    pane.start("");
    assert!(!coloured(&pane), "{}", pane.text());
    pane.shows_line(&["> web/0", "ready"]);
    pane.key("q");
    pane.ended(0);
    daemon.stop();
}

#[test]
fn without_a_terminal_it_prints_one_table() {
    let world = World::new();
    let config = Config::service("dns").listen("udp://127.0.0.1:5300").workers(1);
    let daemon = Daemon::with(&world, &config.and(Config::web().workers(2)));
    let load = Load::to(to()).kept(0).clients(4).start();
    load.until_answered(20);
    let text = daemon.run(&["top"]);
    drop(load.end());
    assert!(!text.contains('\u{1b}'), "{text:?}");
    let line =
        |begin: &str| text.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("{text}"));
    assert_eq!(line("service dns"), "service dns: 1 of 1 workers ready, affinity flow, 0 new/s");
    let rate =
        line("service web: 2 of 2 workers ready, affinity flow, ").split_whitespace().nth_back(1).unwrap();
    assert!(rate.parse::<u64>().unwrap() > 0, "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("  WORKER  STATE  SINCE ")).count(), 2, "{text}");
    assert_eq!(
        text.lines().filter(|line| line.starts_with("  web/") && line.contains("  ready ")).count(),
        2
    );
    let got: Vec<f64> = ["  web/0", "  web/1"]
        .map(|worker| {
            line(worker).split_whitespace().nth(6).unwrap().strip_suffix('%').unwrap().parse().unwrap()
        })
        .into();
    assert!((got.iter().sum::<f64>() - 100.0).abs() < 0.2, "{text}");

    let text = daemon.run(&["top", "--once", "web"]);
    assert!(text.starts_with("service web: ") && !text.contains("dns"), "{text}");
    let pane = Pane::new(&world, "TERM=dumb");
    pane.line(&format!("sh {}", pane.script().display()));
    pane.shows_line(&["service dns: 1 of 1"]);
    pane.shows_line(&["  web/1", "ready"]);
    assert_eq!(pane.modes(), "alternate 0 cursor 1");

    for (what, code, says) in [
        ("wbe", 1, "there is no service \"wbe\""),
        ("web/1", 2, "\"web/1\" is a worker, and `top` takes a service: write `top web`"),
    ] {
        let output = daemon.paths().output(&["top", what]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.code() == Some(code) && said.contains(says) && output.stdout.is_empty(),
            "{said}"
        );
    }
    daemon.stop();
    let output = Paths::of(&world).output(&["top"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("no daemon runs there"), "{said}");
}
