//! `reload --dry-run` says what `reload` then says, and changes nothing.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use serde_json::Value;
use testkit::config::Config;
use testkit::daemon::{Daemon, settled, until};
use testkit::said::said;
use testkit::world::World;

/// The status without what changes by itself.
fn status(daemon: &Daemon) -> Value {
    let mut all: Value = serde_json::from_str(&daemon.run(&["status", "--json"])).unwrap();
    all.as_object_mut().unwrap().remove("longest_step_ms").unwrap();
    for service in all["services"].as_array_mut().unwrap() {
        for worker in service["workers"].as_array_mut().unwrap() {
            worker.as_object_mut().unwrap().remove("usage").unwrap();
        }
    }
    all
}

/// All that the kernel keeps by names.
fn pins(at: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<PathBuf> = found.flat_map(|it| if it.is_dir() { pins(&it) } else { vec![it] }).collect();
    all.sort();
    all
}

/// What a dry run says and with which exit code, after which all must be as it was.
fn dry(world: &World, daemon: &Daemon) -> (String, Option<i32>) {
    until("all to be settled", || daemon.status().services.iter().all(settled).then_some(()));
    let before = (status(daemon), pins(&world.bpffs()));
    assert!(!before.1.is_empty());
    let output = daemon.paths().output(&["reload", "--dry-run"]);
    assert_eq!((status(daemon), pins(&world.bpffs())), before);
    (said(&output), output.status.code())
}

fn api(port: u16) -> Config {
    Config::service("api").listen(&format!("tcp://127.0.0.1:{port}")).workers(1)
}

#[test]
fn a_dry_run_says_what_the_reload_then_says() {
    let world = World::new();
    let web = || Config::web().workers(2).server(&world, "");
    let daemon = Daemon::with(&world, &web());
    let second = || web().listen("tcp://127.0.0.1:3002");
    for (config, says) in [
        (web(), "web: not changed"),
        (web().workers(3), "web: 2 → 3 workers"),
        (web().workers(2).toml("backlog", "77".into()), "web: 3 → 2 workers"),
        (web().toml("backlog", "78".into()), "web: settings changed"),
        (web().set("affinity", "source"), "web: tcp://127.0.0.1:3000 decides anew"),
        (
            web().workers(3).toml("env", "{ A = \"1\" }".into()),
            "web: tcp://127.0.0.1:3000 decides anew, 2 → 3 workers, 2 workers replaced",
        ),
        (web().workers(1), "web: 3 → 1 workers, 1 workers replaced"),
        (second(), "web: tcp://127.0.0.1:3002 added, 1 → 2 workers, 1 workers replaced"),
        (web(), "web: settings changed, 2 workers replaced"),
        (second().and(api(3001)), "api: new\nweb: tcp://127.0.0.1:3002 added, 2 workers replaced"),
        // A listener goes from one service to the other, and back, while one goes the other way.
        (
            web().and(api(3001).listen("tcp://127.0.0.1:3002")),
            "api: tcp://127.0.0.1:3002 added, 1 workers replaced\nweb: settings changed, 2 workers replaced",
        ),
        (second().and(api(3001)), "api: settings changed, 1 workers replaced"),
        (
            web().listen("tcp://127.0.0.1:3001").and(api(3002)),
            "web: tcp://127.0.0.1:3001 added, 2 workers replaced",
        ),
        (api(3002), "web: ended"),
    ] {
        config.write(&world);
        let told = dry(&world, &daemon);
        assert!(told.0.contains(says), "{told:?} is not {says:?}");
        let output = daemon.paths().output(&["reload"]);
        // While it goes on, it also says on standard error what it waits for.
        let done = String::from_utf8(output.stdout.clone()).unwrap();
        assert_eq!(told, (done, output.status.code()), "{}", said(&output));
    }
    daemon.stop();
}

#[test]
fn what_the_reload_would_refuse_is_refused_with_the_same_words() {
    let world = World::new();
    let web = || Config::web().workers(1);
    let daemon = Daemon::with(&world, &web());
    let taken = TcpListener::bind("127.0.0.1:3009").unwrap();
    let mut refused = Vec::new();
    for config in [
        web().set("affinity", "none"),
        web().command(&["no-such-command"]),
        web().set("user", "no-such-user"),
        web().listen("tcp://127.0.0.1:3009"),
        web().and(api(3009)),
        web().and(api(3001).listen("tcp://127.0.0.1:3009")),
    ] {
        config.write(&world);
        let told = dry(&world, &daemon);
        let output = daemon.paths().output(&["reload"]);
        assert_eq!(told, (said(&output), output.status.code()));
        assert_ne!(told.1, Some(0), "{told:?}");
        refused.push(told.0);
    }
    assert!(refused[0].contains("affinity") && refused[1].contains("no-such-command"), "{refused:?}");
    assert!(refused[3..].iter().all(|it| it.contains("tcp://127.0.0.1:3009")), "{refused:?}");
    drop(taken);
    let json = daemon.paths().output(&["reload", "--dry-run", "--json"]);
    let changes: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(changes["changes"], "api: new\nweb: not changed");
    daemon.stop();

    // Without a file there is nothing to read.
    let daemon = Daemon::start(&world, &["--listen", "tcp://127.0.0.1:3000", "--workers", "1"]);
    let (told, code) = dry(&world, &daemon);
    assert!(told.contains("without --config") && code == Some(1), "{told}");
    daemon.stop();
}
