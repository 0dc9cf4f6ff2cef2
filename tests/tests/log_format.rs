//! The daemon's log as JSON: every line is an object, those of workers as well; and how it becomes that, or text again.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use serde_json::{Value, json};
use testkit::config::Config;
use testkit::daemon::{Daemon, Paths, settled, until};
use testkit::said::{assert_said, said};
use testkit::told::Told;
use testkit::world::World;

/// A line of a log, which must be an object with time, level and message; returns it without its time.
fn object(line: &str) -> Value {
    let mut value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let members = value.as_object_mut().unwrap();
    let time = members.remove("time").unwrap();
    let time = time.as_str().unwrap();
    assert!(time.len() == "2026-01-02T03:04:05.678901Z".len() && time.ends_with('Z'), "{line}");
    assert!(members["level"].is_string() && members["message"].is_string(), "{line}");
    assert!(!line.chars().any(char::is_control), "{line}");
    value
}

fn with_format(world: &World, format: &str, config: &Config) -> String {
    let text = format!("log_format = {format:?}\n{config}");
    world.file("config.toml", &text).to_str().unwrap().to_owned()
}

/// Waits for a line of a worker.
fn awaits(daemon: &Daemon, wanted: Value) {
    let lines = || daemon.log().lines().filter_map(|it| serde_json::from_str::<Value>(it).ok()).collect();
    until(&format!("{wanted}"), || {
        let lines: Vec<Value> = lines();
        let is =
            |it: &Value| wanted.as_object().unwrap().iter().all(|(name, value)| it.get(name) == Some(value));
        lines.iter().any(is).then_some(())
    });
}

#[test]
fn every_line_is_an_object_until_a_reload_says_text() {
    let world = World::new();
    let told = Told::new(&world);
    with_format(&world, "json", &told.config());
    let daemon = Daemon::start_until(&world, Paths::of(&world).run(), settled);
    told.does("echo plain; echo '<3>bad'; printf '\\033[1m\"red\"\\n'");
    awaits(&daemon, json!({ "level": "INFO", "message": "plain", "worker": "web/0" }));
    awaits(&daemon, json!({ "level": "ERROR", "message": "bad", "worker": "web/0" }));
    awaits(&daemon, json!({ "level": "INFO", "message": "\u{1b}[1m\"red\"", "worker": "web/0" }));
    let state = json!({ "level": "INFO", "message": "state changed", "worker": "web/0", "slot": 0, "from": "starting", "to": "ready" });
    awaits(&daemon, state);
    daemon.log().lines().for_each(|line| drop(object(line)));

    with_format(&world, "text", &told.config());
    daemon.run(&["reload"]);
    daemon.says(" INFO reloaded: web: not changed");
    // The process beside a worker that runs goes on as it was begun.
    told.does("echo later");
    awaits(&daemon, json!({ "level": "INFO", "message": "later", "worker": "web/0" }));
    daemon.run(&["restart", "web", "--trial", "0s"]);
    told.does("echo anew");
    daemon.says("\nweb/0: anew\n");
    daemon.stop();
}

#[test]
fn in_the_journal_objects_have_priorities() {
    let world = World::new();
    let told = Told::new(&world);
    with_format(&world, "json", &told.config());
    let daemon = Daemon::in_journal(&world);
    told.does("echo plain; echo '<3>bad'");
    for text in ["plain", "bad"] {
        daemon.says(&format!("\"message\":\"{text}\""));
    }
    let log = daemon.log();
    for line in log.lines() {
        let (priority, line) = line.split_at(3);
        let level = object(line)["level"].as_str().unwrap().to_owned();
        let expected = if priority == "<4>" {
            "WARN"
        } else if priority == "<3>" {
            "ERROR"
        } else {
            "INFO"
        };
        assert_eq!(level, expected, "{priority}{line}");
    }
    assert!(log.contains("\n<3>{\"time\""), "{log}");
    daemon.stop();
}

#[test]
fn what_is_wrong_with_the_file_is_an_object_and_the_command_line_counts_more() {
    let world = World::new();
    let paths = Paths::of(&world);
    let config = Config::web().workers(1).set("affinity", "none");
    let wrong = with_format(&world, "json", &config);
    let output = paths.output(&["run", "--config", &wrong]);
    assert_eq!(output.status.code(), Some(2));
    let error = object(said(&output).trim_end());
    let message = error["message"].as_str().unwrap();
    assert!(
        error["level"] == "ERROR" && message.contains("config.toml: line ") && message.contains("affinity"),
        "{error}"
    );
    let output = paths.output(&["run", "--config", &wrong, "--log-format", "text"]);
    assert!(said(&output).starts_with("reuseport-lb: "), "{}", said(&output));

    let unknown = with_format(&world, "xml", &Config::web());
    assert_said(&paths.output(&["check", &unknown]), 2, &["line 1", "xml", "\"text\" or \"json\""]);
    assert_said(&paths.output(&["run", "--log-format", "xml"]), 2, &["xml", "\"text\" or \"json\""]);
    let right = with_format(&world, "json", &Config::web());
    assert_said(&paths.output(&["check", &right]), 0, &["log_format json"]);
    assert_said(&paths.output(&["check", "--json", &right]), 0, &["\"log_format\": \"json\""]);

    let daemon = Daemon::start(
        &world,
        &["--listen", "tcp://127.0.0.1:3000", "--workers", "1", "--log-format", "json"],
    );
    awaits(
        &daemon,
        json!({ "level": "INFO", "message": "state changed", "worker": "demo/0", "to": "ready" }),
    );
    daemon.log().lines().for_each(|line| drop(object(line)));
    daemon.stop();
}
