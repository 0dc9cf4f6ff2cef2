//! Commands that take their time say each second what they wait for; what they print at the end stays as it is.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use testkit::config::Config;
use testkit::daemon::{Daemon, Paths};
use testkit::world::World;

/// What a command prints, and what it says meanwhile.
fn said(paths: &Paths, arguments: &[&str]) -> (String, String) {
    let output = paths.output(arguments);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, meanwhile) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{arguments:?}: {out}{meanwhile}");
    (out, meanwhile)
}

#[test]
fn restart_reload_and_stop_say_what_they_wait_for() {
    let world = World::new();
    let server = "--ready notify --load 1300ms --wait keep --term ignore";
    let config = Config::web().workers(1).set("ready", "notify").set("drain_timeout", "1300ms");
    let daemon = Daemon::with(&world, &config.clone().server(&world, server));
    let paths = daemon.paths().clone();
    let (out, meanwhile) = said(&paths, &["restart", "web", "--trial", "0s"]);
    assert!(out.ends_with("web: 1 replaced\n") && !out.contains("waits for"), "{out}");
    assert!(
        meanwhile.contains(
            "web: waits for web/0 (starting, has not said READY=1 yet, and does not wait for work yet on"
        ),
        "{meanwhile}"
    );
    assert!(meanwhile.contains("web: waits for web/0 (draining"), "{meanwhile}");
    let (out, meanwhile) = said(&paths, &["restart", "web", "--trial", "0s", "--json"]);
    assert!(out.lines().all(|line| line.starts_with("{\"event\":")), "{out}");
    assert_eq!(meanwhile, "");
    config.toml("env", "{ A = \"1\" }".into()).server(&world, server).write(&world);
    let (out, meanwhile) = said(&paths, &["reload"]);
    assert_eq!(out, "web: settings changed, 1 workers replaced\n");
    assert!(meanwhile.contains("web: waits for web/0 (starting"), "{meanwhile}");
    let (out, meanwhile) = said(&paths, &["stop"]);
    assert_eq!(out, format!("stopped (process {})\n", daemon.pid()));
    assert!(meanwhile.contains("web: waits for web/0 (draining"), "{meanwhile}");
}
