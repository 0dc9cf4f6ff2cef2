//! Which users' processes may join a service: `join`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::process::{Child, Command};

use nix::sys::signal::Signal;
use testkit::config::Config;
use testkit::daemon::{Daemon, signal, until};
use testkit::guests::{Guests, Manner, USER};
use testkit::said::assert_said;
use testkit::world::World;

/// Not in the password database, and not the service's `user`.
const OTHER: u32 = 4321;

fn config(join: &str) -> Config {
    Config::web().set("user", "nobody").toml("join", join.into())
}

/// `exec` of a server, by this user.
fn joining(guests: &Guests, uid: u32) -> Command {
    let server = guests.server(Manner::Abrupt);
    let server: Vec<&str> = server.iter().map(String::as_str).collect();
    guests.command(uid, &[&["exec", "web", "--"], &*server].concat())
}

fn join(daemon: &Daemon, guests: &Guests, uid: u32) -> Child {
    let child = joining(guests, uid).spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    until("it to serve", || {
        let service = daemon.service();
        let is_ready = |worker: &&_| is_ready(worker, pid);
        service.workers.iter().find(is_ready).map(|worker| assert!(worker.joined))
    });
    child
}

fn is_ready(worker: &reuseport_lb_client::api::WorkerStatus, pid: i32) -> bool {
    worker.pid == Some(pid) && worker.state == "ready"
}

#[track_caller]
fn assert_refused(guests: &Guests, uid: u32, allowed: &str) {
    let says = format!("user id {uid} may not join service web: only {allowed} may");
    assert_said(&joining(guests, uid).output().unwrap(), 1, &[&says]);
}

fn end(mut child: Child) {
    signal(i32::try_from(child.id()).unwrap(), Signal::SIGTERM);
    assert!(child.wait().unwrap().success());
}

#[test]
fn those_of_the_list_may_join_and_no_others_until_a_reload_says_otherwise() {
    let world = World::new();
    let guests = Guests::new(&world);
    let daemon = Daemon::with(&world, &config(&format!("[{OTHER}, \"daemon\"]")));
    assert_eq!(daemon.service().may_join, ["4321", "daemon"]);
    let other = join(&daemon, &guests, OTHER);
    end(join(&daemon, &guests, 0));
    // The list is in place of `user`.
    assert_refused(&guests, USER, "root and users 4321, daemon");

    config("[\"nobody\"]").write(&world);
    assert_eq!(daemon.run(&["reload"]), "web: settings changed\n");
    assert_eq!(daemon.service().may_join, ["nobody"]);
    assert!(daemon.run(&["status"]).contains("\n may join: root, nobody\n"));
    assert_refused(&guests, OTHER, "root and user nobody");
    end(join(&daemon, &guests, USER));
    // Who is in stays, and also with the next daemon, which has the list as well.
    let is_in = |daemon: &Daemon| {
        let pid = i32::try_from(other.id()).unwrap();
        daemon.service().workers.iter().any(|worker| is_ready(worker, pid))
    };
    assert!(is_in(&daemon));
    daemon.kill();
    let daemon = Daemon::with(&world, &config("[\"nobody\"]"));
    until("it to be taken over", || is_in(&daemon).then_some(()));
    assert_refused(&guests, OTHER, "root and user nobody");

    config("[]").write(&world);
    assert_eq!(daemon.run(&["reload"]), "web: settings changed\n");
    assert_refused(&guests, USER, "root (`join` is empty)");
    config("[\"no-such-user\"]").write(&world);
    let said = daemon.paths().output(&["reload"]);
    assert_said(&said, 2, &["line 5: there is no user \"no-such-user\"", "join"]);
    assert_refused(&guests, USER, "root (`join` is empty)");
    end(other);
    daemon.stop();
}
