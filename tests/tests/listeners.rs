//! A listener as a table: what its sockets are called, and addresses that come later.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::io::Read;
use std::net::{SocketAddr, TcpStream};

use testkit::client::{ask, ask_udp};
use testkit::config::Config;
use testkit::daemon::{Daemon, Paths, settled, until};
use testkit::said::assert_said;
use testkit::server::words;
use testkit::world::{World, run};

/// What a server with `--answer found` at this address has found.
fn found(to: &str) -> String {
    let mut said = String::new();
    TcpStream::connect(to).unwrap().read_to_string(&mut said).unwrap();
    said
}

#[test]
fn workers_find_their_sockets_by_the_names_of_their_listeners() {
    let world = World::new();
    let config = |table: &str| {
        let config =
            Config::service("web").listener(format!("{{ url = \"tcp://127.0.0.1:3000\", {table} }}"));
        let config = config.listen("udp://127.0.0.1:3000").workers(1).set("user", "nobody");
        config.server(&world, "--answer found")
    };
    let names = |names: &str| {
        let said = found("127.0.0.1:3000");
        assert!(
            said.contains(&format!("\nnames={names} udp-127.0.0.1-3000\nkinds=SOCK_STREAM SOCK_DGRAM\n")),
            "{said}"
        );
    };
    let daemon = Daemon::with(&world, &config("name = \"https\""));
    names("https");
    let called: Vec<String> = daemon.service().groups.into_iter().map(|group| group.name).collect();
    assert_eq!(called, ["https", "udp-127.0.0.1-3000"]);
    assert!(daemon.run(&["status"]).contains(" tcp://127.0.0.1:3000 is called https\n"));
    let file = world.path("config.toml");
    assert!(
        daemon.run(&["check", &file.to_string_lossy()]).contains("    tcp://127.0.0.1:3000 name https\n")
    );

    // How it is bound concerns sockets to come, what it is called processes to come.
    let before = daemon.workers();
    config("name = \"https\", freebind = true").write(&world);
    assert!(daemon.run(&["reload"]).contains("web: settings changed"));
    assert_eq!(daemon.workers(), before);
    config("name = \"tls\", freebind = true").write(&world);
    let said = daemon.run(&["reload"]);
    assert!(said.contains(", 1 workers replaced"), "{said}");
    names("tls");

    let before = daemon.workers();
    daemon.kill();
    let daemon = Daemon::with(&world, &config("name = \"tls\", freebind = true"));
    assert_eq!(daemon.workers(), before, "taken over");
    assert_eq!(daemon.service().groups[0].name, "tls");
    // A process that joins finds the same names as one that is started.
    daemon.run(&["scale", "web", "0"]);
    let server = words(&world, "--answer found");
    let exec: Vec<&str> =
        ["exec", "web", "--"].into_iter().chain(server.iter().map(String::as_str)).collect();
    let mut joined = daemon.paths().command(&exec).spawn().unwrap();
    until("it to be ready", || Some(daemon.service()).filter(|it| it.workers.len() == 1 && settled(it)));
    names("tls");
    joined.kill().unwrap();
    joined.wait().unwrap();
    daemon.stop();
}

#[test]
fn with_freebind_an_address_may_come_later() {
    let world = World::new();
    let to: [SocketAddr; 2] = ["192.0.2.7:3000".parse().unwrap(), "[2001:db8::7]:3000".parse().unwrap()];
    let config = |freebind: bool| {
        let listener = |protocol: &str, to: SocketAddr| {
            format!("{{ url = \"{protocol}://{to}\", freebind = {freebind} }}")
        };
        let all = to.into_iter().flat_map(|to| ["tcp", "udp"].map(|protocol| listener(protocol, to)));
        all.fold(Config::service("web").workers(2).set("idle_timeout", "200ms"), Config::listener)
    };
    let file = config(false).write(&world);
    let paths = Paths::of(&world);
    let says =
        ["cannot listen on tcp://192.0.2.7:3000", "no interface", "if it comes later, say freebind = true"];
    assert_said(&paths.output(&["run", "--config", &file.to_string_lossy()]), 1, &says);
    let doctor = paths.output(&["doctor", "--config", &file.to_string_lossy()]);
    assert_said(
        &doctor,
        1,
        &["no interface of this machine has that address", "with freebind = true it may come later"],
    );

    let file = config(true).write(&world);
    assert_said(
        &paths.output(&["doctor", "--config", &file.to_string_lossy()]),
        0,
        &["free for SO_REUSEPORT"],
    );
    let daemon = Daemon::with(&world, &config(true));
    assert!(ask(to[0]).is_err() && ask(to[1]).is_err(), "nobody has the addresses");
    for (family, address) in [("-4", "192.0.2.7/32"), ("-6", "2001:db8::7/128")] {
        let nodad: &[&str] = if family == "-6" { &["nodad"] } else { &[] };
        run("ip", &[&[family, "address", "add", address, "dev", "lo"], nodad].concat());
    }
    for to in to {
        assert!(ask(to).unwrap().worker.starts_with("web/"), "{to}");
        assert!(ask_udp(to, None).unwrap().worker.starts_with("web/"), "{to}");
    }
    // Sockets that are there stay bound when the address goes.
    run("ip", &["-4", "address", "del", "192.0.2.7/32", "dev", "lo"]);
    daemon.run(&["restart", "web", "--trial", "0s"]);
    run("ip", &["-4", "address", "add", "192.0.2.7/32", "dev", "lo"]);
    ask(to[0]).unwrap();
    daemon.stop();
}
