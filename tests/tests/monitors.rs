//! `monitors`: members of a group may ask what changes nothing; all else is for root and the daemon's user.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};

use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
use testkit::config::Config;
use testkit::daemon::{Daemon, binary, until};
use testkit::said::assert_said;
use testkit::world::{World, program};

/// A group and users that no database has.
const GROUP: &str = "74211";
const MEMBER: &str = "74212";
const OTHER: &str = "74213";

/// What only root and the daemon's user may.
const ALL_ELSE: &[&[&str]] = &[
    &["trace", "web", "--count", "1"],
    &["scale", "web", "3"],
    &["weight", "web/1", "5"],
    &["drain", "web/1"],
    &["restart", "web"],
    &["restart", "web/0"],
    &["reload"],
    &["reload", "--dry-run"],
    &["adopt", "more", "--any", "--listen", "tcp://127.0.0.1:9"],
    &["release", "web"],
    &["stop"],
    &["stop", "--keep"],
];

/// What changes nothing.
const ASKS: &[&[&str]] = &[
    &["status"],
    &["status", "web/1", "--json"],
    &["status", "--check"],
    &["events", "--once"],
    &["top", "--once"],
    &["trace", "web", "--explain", "192.0.2.7"],
];

fn config() -> String {
    format!("monitors = {GROUP}\n{}", Config::web().workers(2))
}

/// Runs a command as a user of no group but these.
fn as_user(world: &World, daemon: &Daemon, user: &str, groups: &str, arguments: &[&str]) -> Output {
    // The binary may lie where others cannot look.
    let copy = world.program(&binary(), "reuseport-lb");
    let usual = daemon.paths().command(arguments);
    let mut command = Command::new(program("setpriv"));
    command.args(["--reuid", user, "--regid", user]);
    match groups {
        "" => command.arg("--clear-groups"),
        groups => command.args(["--groups", groups]),
    };
    command.arg(copy).args(usual.get_args()).current_dir("/").output().unwrap()
}

#[test]
fn members_may_look_and_change_nothing_and_others_may_not_even_look() {
    let world = World::new();
    let daemon = Daemon::configured(&world, &config());
    let about = fs::metadata(daemon.paths().control()).unwrap();
    assert_eq!((about.permissions().mode() & 0o777, about.gid().to_string()), (0o660, GROUP.into()));
    let before = daemon.service();
    for arguments in ASKS {
        assert_said(&as_user(&world, &daemon, MEMBER, GROUP, arguments), 0, &[]);
        assert_said(&as_user(&world, &daemon, OTHER, "", arguments), 1, &["cannot reach", "`monitors`"]);
    }
    for arguments in ALL_ELSE {
        let says = [&*format!("user {MEMBER} may not do that"), "only root and the daemon's user"];
        assert_said(&as_user(&world, &daemon, MEMBER, GROUP, arguments), 1, &says);
        assert_said(&as_user(&world, &daemon, OTHER, "", arguments), 1, &["cannot reach"]);
    }
    let after = daemon.service();
    assert_eq!(
        (after.wanted, after.moved, daemon.workers()),
        (before.wanted, before.moved, daemon.workers())
    );
    // Settings may have secrets in them.
    let settings = |output: &Output| {
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        status["services"][0]["settings"].as_object().unwrap().len()
    };
    assert_eq!(settings(&as_user(&world, &daemon, MEMBER, GROUP, &["status", "--json"])), 0);
    assert!(settings(&daemon.paths().output(&["status", "--json"])) > 10);
    // Root may, whatever its groups are.
    assert_said(&daemon.paths().output(&["weight", "web/1", "5"]), 0, &["weight 5"]);
    daemon.stop();
}

#[test]
fn a_reload_names_another_group_and_a_socket_that_is_made_again_has_it() {
    let world = World::new();
    let daemon = Daemon::configured(&world, &config());
    let asks = |groups| as_user(&world, &daemon, MEMBER, groups, &["status"]).status.success();
    assert!(asks(GROUP));
    let socket = daemon.paths().control();
    fs::remove_file(&socket).unwrap();
    until("the socket to be made again", || asks(GROUP).then_some(()));
    let _ = world.file("config.toml", &config().replace(GROUP, OTHER));
    daemon.run(&["reload"]);
    assert!(asks(OTHER) && !asks(GROUP));
    let _ = world.file("config.toml", &Config::web().workers(2).to_string());
    daemon.run(&["reload"]);
    assert!(!asks(OTHER));
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    daemon.stop();
}

#[test]
fn a_connection_of_a_group_that_may_not_ask_any_more_is_refused() {
    let world = World::new();
    let daemon = Daemon::configured(&world, &config());
    let socket = daemon.paths().control();
    let member = std::thread::spawn(move || {
        let number = |id: &str| id.parse().unwrap();
        set_thread_groups(&[Gid::from_raw(number(GROUP))]).unwrap();
        set_thread_gid(Gid::from_raw(number(MEMBER))).unwrap();
        set_thread_uid(Uid::from_raw(number(MEMBER))).unwrap();
        UnixStream::connect(socket).unwrap()
    });
    let mut member = member.join().unwrap();
    let _ = world.file("config.toml", &Config::web().workers(2).to_string());
    daemon.run(&["reload"]);
    member.write_all(b"GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    member.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("HTTP/1.1 403") && answer.contains("may not do that"), "{answer}");
    daemon.stop();
}

#[test]
fn a_group_that_is_not_there_is_an_error() {
    let world = World::new();
    let file = world.file("config.toml", &format!("monitors = \"no-such-group\"\n{}", Config::web()));
    let paths = testkit::daemon::Paths::of(&world);
    assert_said(
        &paths.output(&["check", &file.to_string_lossy()]),
        2,
        &["line 1", "no group \"no-such-group\""],
    );
    let line = ["run", "--monitors", "no-such-group"];
    assert_said(&paths.output(&line), 2, &["--monitors", "no group \"no-such-group\""]);
}
