//! `--json`: each verb prints one JSON value a line, as control.sock answers, and a failure as an object, too.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use serde_json::{Value, json};
use testkit::config::Config;
use testkit::daemon::{Daemon, Paths};
use testkit::server;
use testkit::world::World;

/// The values that a command prints with `--json`, what it says on standard error, and its exit code.
fn values(paths: &Paths, arguments: &[&str]) -> (Vec<Value>, String, Option<i32>) {
    let output = paths.output(&[arguments, &["--json"]].concat());
    let (out, told) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    let values =
        out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|it| panic!("{it}: {line}")));
    (values.collect(), told, output.status.code())
}

/// The values of a command that succeeds and has nothing else to say.
fn said(paths: &Paths, arguments: &[&str]) -> Vec<Value> {
    let (values, told, code) = values(paths, arguments);
    assert_eq!((&*told, code), ("", Some(0)), "{arguments:?}: {values:?}");
    values
}

/// Asserts that all values but the last say what is waited for, among it `worker` with this state; returns the last one.
fn after_waiting(mut values: Vec<Value>, worker: &str, state: &str) -> Value {
    let last = values.pop().unwrap();
    let says = |value: &Value| {
        assert!(value["event"] == "waiting" && value["seconds"].as_f64().unwrap() >= 0.9, "{value}");
        let workers = value["workers"].as_array().unwrap();
        workers.iter().any(|it| it["worker"] == worker && it["state"] == state)
    };
    let waits = values.iter().filter(|value| says(value)).count();
    assert!(waits > 0, "nothing is said while {worker} is {state}: {values:?}");
    last
}

#[test]
fn every_verb_answers_as_control_sock_does() {
    let world = World::new();
    let server = "--ready notify --wait keep --load 1300ms --term ignore";
    let config = Config::web().workers(1).set("ready", "notify").set("drain_timeout", "1300ms");
    let daemon = Daemon::with(&world, &config.clone().server(&world, server));
    let paths = daemon.paths().clone();
    assert_eq!(said(&paths, &["weight", "web/0", "5"]), [json!({ "weight": 5 })]);
    let scaled = after_waiting(said(&paths, &["scale", "web", "2"]), "web/1", "starting");
    assert_eq!(scaled, json!({ "before": 1, "after": 2 }));
    assert_eq!(said(&paths, &["scale", "web", "+0", "--no-wait"]), [json!({ "before": 2, "after": 2 })]);
    let drained = after_waiting(said(&paths, &["drain", "web/1"]), "web/1", "draining");
    assert_eq!((&drained["worker"], &drained["end"]), (&json!("web/1"), &json!("was killed by SIGKILL")));

    let restarted = said(&paths, &["restart", "web", "--trial", "0s"]);
    let events: Vec<&str> = restarted.iter().map(|it| it["event"].as_str().unwrap()).collect();
    let steps: Vec<&str> = events.iter().copied().filter(|it| *it != "waiting").collect();
    assert_eq!(steps, ["starting", "ready", "replaced", "done"], "{restarted:?}");
    assert!(events.contains(&"waiting"), "{restarted:?}");
    assert_eq!(restarted.last().unwrap(), &json!({ "event": "done", "replaced": 1, "error": null }));

    config.toml("env", "{ A = \"1\" }".into()).server(&world, server).write(&world);
    let reloaded = after_waiting(said(&paths, &["reload"]), "web/0", "starting");
    assert_eq!(reloaded, json!({ "changes": "web: settings changed, 1 workers replaced" }));
    let stopped = after_waiting(said(&paths, &["stop"]), "web/0", "draining");
    assert_eq!(stopped, json!({ "pid": daemon.pid() }));
}

#[test]
fn a_failure_is_the_last_value_and_stands_on_standard_error_as_well() {
    let world = World::new();
    let paths = Paths::of(&world);
    let config = Config::web().workers(1).set("ready", "notify").server(&world, "--ready notify");
    let fails = |arguments: &[&str], code: i32, says: &str| {
        let (values, told, ended) = values(&paths, arguments);
        let [value] = &values[..] else { panic!("{arguments:?}: {values:?}") };
        let error = value["error"].as_str().unwrap_or_default();
        assert!(error.contains(says), "{arguments:?}: {value}");
        assert_eq!((told, ended), (format!("reuseport-lb: {error}\n"), Some(code)), "{arguments:?}");
    };
    for arguments in [
        &["status"][..],
        &["trace", "web"],
        &["scale", "web", "2"],
        &["weight", "web/0", "1"],
        &["drain", "web/0"],
        &["restart", "web"],
        &["reload"],
        &["stop"],
    ] {
        fails(arguments, 1, "no daemon runs there");
    }
    fails(&["drain", "web"], 2, "is not a worker");
    fails(&["check", "/no/such.toml"], 2, "cannot read /no/such.toml");
    let daemon = Daemon::with(&world, &config);
    fails(&["scale", "api", "1"], 1, "no service \"api\"");
    fails(&["scale", "web", "-2"], 1, "cannot have 2 fewer");
    fails(&["weight", "web/7", "1"], 1, "no worker web/7");

    // What control.sock says as an event or a verdict is not said twice.
    Config::web().workers(1).set("ready", "notify").command(&["false"]).write(&world);
    let (reloaded, _, code) = values(&paths, &["reload"]);
    assert_eq!((reloaded.len(), code), (1, Some(1)), "{reloaded:?}");
    assert!(reloaded[0]["error"].as_str().unwrap().contains("exited with status 1"), "{reloaded:?}");
    daemon.stop();
    let (broken, words) = (world.path("broken"), server::words(&world, "--ready notify").join(" "));
    let script = format!("test -e {} && exit 1; exec {words}", broken.display());
    let config = Config::web().workers(1).set("ready", "notify").command(&["sh", "-c", &script]);
    let daemon = Daemon::with(&world, &config);
    std::fs::write(&broken, "").unwrap();
    let (restarted, told, code) = values(&paths, &["restart", "web"]);
    let done = restarted.last().unwrap();
    assert_eq!(
        (&done["event"], &done["replaced"], code),
        (&json!("done"), &json!(0), Some(1)),
        "{restarted:?}"
    );
    assert!(told.contains(done["error"].as_str().unwrap()), "{told}");
    daemon.stop();
}
