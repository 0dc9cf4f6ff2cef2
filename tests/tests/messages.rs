//! What messages about a configuration file say, and what they do not.

use testkit::config::Config;
use testkit::daemon::{Daemon, Paths};
use testkit::said::{assert_said, said};
use testkit::server;
use testkit::world::{World, program};

const HEAD: &str =
    "[[service]]\nname = \"web\"\nlisten = [\"tcp://127.0.0.1:3000\"]\ncommand = [\"sleep\", \"9\"]\n";

#[test]
fn no_message_has_a_value_of_env() {
    let world = World::new();
    let daemon = Daemon::with(&world, &Config::web().workers(1));
    let file = world.path("config.toml").display().to_string();
    for (wrong, line, says) in [
        ("env = { PIN = 271828 }", 5, "the variable PIN in `env` cannot be that: write a text in quotes"),
        ("env = { A = \"271828\", LISTEN_FDS = \"1\" }", 5, "gives each worker a LISTEN_FDS of its own"),
        ("env = \"271828\"", 5, "`env` cannot be that: write a table of variables"),
        ("env = [\"A=271828\"]", 5, "`env` cannot be that: write a table of variables"),
        ("[service.env]\nuser = 271828", 6, "the variable user in `env` cannot be that"),
        ("env = { A = \"271828 }", 5, "line 5: "),
        ("env.A = 271828x", 5, "line 5: "),
        ("env.A = \"271828\"\nenv.A = \"271828\"", 6, "duplicate key"),
    ] {
        let _ = world.file("config.toml", &format!("{HEAD}{wrong}\n"));
        let paths = daemon.paths();
        for command in [&["check", &file][..], &["check", "--offline", &file], &["doctor", "--config", &file]]
        {
            let output = paths.output(command);
            assert_said(&output, 2, &[&format!("line {line}: "), says, "not shown: it belongs to `env`"]);
            assert!(!said(&output).contains("271828"), "{command:?} {wrong}: {}", said(&output));
        }
        let output = paths.output(&["reload"]);
        assert_said(&output, 2, &["nothing is changed", says]);
        assert!(!said(&output).contains("271828") && !daemon.log().contains("271828"), "{}", said(&output));
    }
    daemon.stop();
}

#[test]
fn a_misspelt_placeholder_is_said_aloud_and_other_braces_are_not() {
    let world = World::new();
    let config = Config::web().workers(1).command(&server::words(&world, "--ready notify"));
    let config = config.toml("env", "{ PORT = \"271828{indx}\", NAME = \"{name} {\\\"a\\\": {}}\" }".into());
    let file = config.write(&world).display().to_string();
    let says = "service web: {indx} in the variable PORT is no placeholder, and stays as it is: did you mean {index}?";
    let paths = Paths::of(&world);
    assert_said(&paths.output(&["check", &file]), 0, &["warning: ", says]);
    let output = paths.output(&["doctor", "--config", &file]);
    assert_said(&output, 0, &["WARNING", says]);
    assert!(!said(&output).contains("271828") && !said(&output).contains("{name}"), "{}", said(&output));
    let daemon = Daemon::with(&world, &config);
    assert_eq!(daemon.log().matches(says).count(), 1, "{}", daemon.log());
    assert!(!daemon.log().contains("271828"), "{}", daemon.log());
    daemon.stop();
}

#[test]
fn a_command_of_a_known_server_that_cannot_work_is_said_aloud() {
    let world = World::new();
    let uvicorn = program("uvicorn").display().to_string();
    let config = Config::web().workers(1).set("ready", "notify").set("stop_signal", "INT");
    let config = config.command(&["/usr/bin/env", "A=1", &uvicorn, "app:app"]);
    let file = config.write(&world).display().to_string();
    let says = [
        "service web: uvicorn ends in order with TERM, and INT may cut its connections: set stop_signal = \"TERM\"",
        "service web: uvicorn opens sockets of its own, and gets nothing, without --fd 3",
        "service web: uvicorn does not say READY=1: set ready = \"accepting\", or it is never ready",
    ];
    let paths = Paths::of(&world);
    assert_said(&paths.output(&["check", &file]), 0, &says);
    assert_said(&paths.output(&["doctor", "--config", &file]), 0, &says);
    // There is no such application, so the start fails; the reason that matters stands before that.
    assert_said(&paths.run().output().unwrap(), 1, &says);
}

#[test]
fn check_shows_every_value_and_which_are_defaults() {
    let world = World::new();
    let config = Config::web().workers(2).set("hold_timeout", "5s").command(&["sleep", "9"]);
    let file = config.write(&world).display().to_string();
    let paths = Paths::of(&world);
    let (set, default) = ("set here: hold_timeout 5s", "by default: affinity flow, ready accepting");
    assert_said(
        &paths.output(&["check", &file]),
        0,
        &["service web: 2 x sleep 9", set, default, "backlog 4096"],
    );
    let json = said(&paths.output(&["check", "--json", &file]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let service = &json["services"][0];
    for (key, value) in [("hold_timeout", "5s"), ("on_crash", "hold"), ("when_empty", "hold")] {
        assert_eq!(service[key], value, "{key}");
    }
    assert_eq!((service["backlog"].as_u64(), service["workers"].as_u64()), (Some(4096), Some(2)));
}
