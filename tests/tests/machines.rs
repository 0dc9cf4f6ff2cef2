//! Whether new traffic should be sent to this machine: one judgement, told to those who decide in their own words.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use reuseport_lb_client::control::ControlClient;
use testkit::background::Killed;
use testkit::client::{Connection, ask, http};
use testkit::config::Config;
use testkit::daemon::{Daemon, Paths, is_alive, signal, until};
use testkit::patience::lasts;
use testkit::said::assert_said;
use testkit::server;
use testkit::world::{World, program};

const HTTP: &str = "127.0.0.1:9465";
const AGENT: &str = "127.0.0.1:9466";

fn at(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// Four workers, of which web/3 is not started again while the file `late` is there.
fn four(world: &World) -> Config {
    let late = world.path("late").display().to_string();
    let server = server::words(world, "").join(" ");
    let script =
        format!("while [ $REUSEPORT_LB_INDEX = 3 ] && [ -e {late} ]; do sleep 0.1; done; exec {server}");
    // Meanwhile others have its buckets.
    Config::web().workers(4).command(&["sh", "-c", &script]).set("on_crash", "migrate")
}

/// A daemon that answers over HTTP and to agents.
fn answering(world: &World, config: &Config) -> Daemon {
    config.clone().http(HTTP, "").write(world);
    let mut run = Paths::of(world).run();
    run.args(["--agent", AGENT]);
    Daemon::start_as(world, run)
}

/// Kills web/3, so that three of four serve until the file is gone.
fn lose_one(world: &World, daemon: &Daemon) {
    let _ = world.file("late", "");
    signal(daemon.workers()[3], Signal::SIGKILL);
    until("web/3 to be gone", || (daemon.service().ready() == 3).then_some(()));
}

fn readyz() -> (u16, String) {
    let answer = http(TcpStream::connect(HTTP).unwrap(), "GET", "/readyz").unwrap();
    (answer.status, answer.body)
}

/// What the agent says to whoever sends this.
fn agent(sends: &str) -> String {
    let mut stream = TcpStream::connect(AGENT).unwrap();
    stream.write_all(sends.as_bytes()).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said
}

/// Names of the events about the host so far, and who asked.
fn events(daemon: &Daemon) -> Vec<(String, bool)> {
    let said = daemon.run(&["events", "--once"]);
    let all = said.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let of_host = all.filter(|event| event["event"].as_str().unwrap().starts_with("host_"));
    of_host.map(|event| (event["event"].as_str().unwrap().to_owned(), !event["by"].is_null())).collect()
}

#[test]
fn one_judgement_is_told_in_all_tongues() {
    let world = World::new();
    let daemon = answering(&world, &four(&world));
    lose_one(&world, &daemon);
    let said = |arguments: &[&str]| daemon.paths().output(arguments);
    // Three of four.
    assert_said(&said(&["health"]), 0, &["up, weight 75\n"]);
    assert_said(&said(&["health", "web"]), 0, &["up, weight 75\n"]);
    assert_said(&said(&["health", "web", "--weight"]), 77, &["75\n"]);
    assert_said(&said(&["health", "--json"]), 0, &["{\"state\":\"up\",\"weight\":75,\"reasons\":[]}\n"]);
    assert_eq!(
        (readyz(), agent(""), agent("web\n")),
        ((200, "ready\n".into()), "up ready 75%\n".into(), "up ready 75%\n".into())
    );
    fs::remove_file(world.path("late")).unwrap();
    until("all four to be ready", || (daemon.service().ready() == 4).then_some(()));
    assert_said(&said(&["health", "--weight"]), 102, &["100\n"]);
    // Drained: nothing happens to what serves.
    assert_said(&said(&["host", "drain"]), 0, &["host: drained: the host is drained\n"]);
    assert_said(&said(&["health"]), 1, &["reuseport-lb: drained: the host is drained\n"]);
    assert_said(&said(&["health", "--weight"]), 2, &["0\n"]);
    let object = "{\"state\":\"drained\",\"weight\":0,\"reasons\":[\"the host is drained\"]}\n";
    assert_eq!(String::from_utf8(said(&["health", "--json"]).stdout).unwrap(), object);
    assert_eq!((readyz(), agent("web\r\n")), ((503, "the host is drained\n".into()), "up drain\n".into()));
    assert_said(
        &said(&["status"]),
        0,
        &["the host is drained until `host undrain`: nothing new should come\n"],
    );
    assert!(ask(at(3000)).unwrap().worker.starts_with("web/"));
    assert_said(&said(&["host", "undrain"]), 0, &["host: up, weight 100\n"]);
    assert_said(&said(&["host", "undrain"]), 0, &["host: up, weight 100\n"]);
    // Down.
    daemon.run(&["scale", "web", "0"]);
    let why = "web has no worker that is ready";
    assert_said(&said(&["health"]), 1, &[&format!("reuseport-lb: down: {why}\n")]);
    assert_said(&said(&["health", "--weight"]), 1, &["0\n"]);
    assert_eq!((readyz(), agent("")), ((503, format!("{why}\n")), format!("down #{why}\n")));
    // What is wrong.
    assert_eq!(agent("wbe\n"), "down #there is no service \"wbe\"; there is web\n");
    assert_said(&said(&["health", "wbe"]), 1, &["there is no service \"wbe\"; there is web"]);
    assert_said(&said(&["health", "web/1"]), 2, &["`health` takes a service: write `health web`"]);
    assert_said(&said(&["health", "--watch", "--exabgp", "10.9.9.9"]), 2, &["write an address and a length"]);
    assert_said(&said(&["host", "drain", "--for", "0s"]), 1, &["say for how long, or leave it out"]);
    let expected = [("host_drained".to_owned(), true), ("host_undrained".to_owned(), true)];
    assert_eq!(events(&daemon), expected);
    let text = daemon.run(&["events", "--once", "--text"]);
    let begun = "tells all who ask that nothing new should come, until `host undrain` (by reuseport-lb";
    assert!(text.contains(begun) && text.contains("that new traffic is welcome again (by"), "{text}");
    daemon.stop();
}

#[test]
fn a_drained_host_stays_drained_for_later_daemons_until_its_time_is_over() {
    let world = World::new();
    let config = Config::web().workers(2).http(HTTP, "");
    let drained = |daemon: &Daemon| daemon.status().host_drained;
    let daemon = Daemon::with(&world, &config);
    let mut client = Connection::open(at(3000), None).unwrap();
    let pid = client.ask().unwrap().pid;
    daemon.run(&["host", "drain"]);
    let since = drained(&daemon).unwrap();
    assert_eq!(since.until, None);
    daemon.kill();
    let daemon = Daemon::with(&world, &config);
    assert_eq!((drained(&daemon), readyz().0), (Some(since), 503));
    daemon.says("the host is drained, as an earlier daemon was told");
    assert_eq!(client.ask().unwrap().pid, pid, "what is here goes on");
    // In order, also without workers: whoever starts it again for a new version finds it drained.
    daemon.run(&["stop"]);
    drop(daemon);
    assert!(world.path("run/host-drained").exists());
    let daemon = Daemon::with(&world, &config);
    assert_eq!(drained(&daemon), Some(since));
    // A time in place of no end.
    daemon.run(&["host", "drain", "--for", "1h"]);
    let hour = drained(&daemon).unwrap();
    assert!(hour.since == since.since && hour.until.unwrap() > since.since + 3500.0, "{hour:?}");
    daemon.run(&["host", "drain", "--for", "300ms"]);
    until("its time to be over", || drained(&daemon).is_none().then_some(()));
    until("that to be an event", || (events(&daemon).len() == 3).then_some(()));
    let expected = [("host_drained", true), ("host_drained", true), ("host_undrained", false)];
    assert_eq!(events(&daemon), expected.map(|(what, by)| (what.to_owned(), by)));
    assert!(!world.path("run/host-drained").exists());
    assert_eq!(readyz().0, 200);
    // What cannot be read counts as what was asked for: nothing new.
    fs::write(world.path("run/host-drained"), "{").unwrap();
    daemon.kill();
    let daemon = Daemon::with(&world, &config);
    daemon.says("the host counts as drained");
    assert_eq!(readyz(), (503, "the host is drained\n".into()));
    assert_said(&daemon.paths().output(&["host", "undrain"]), 0, &["host: up, weight 100\n"]);
    daemon.stop();
}

#[test]
fn exabgp_is_told_of_changes_and_of_no_daemon_that_is_away_for_a_moment() {
    let world = World::new();
    let config = Config::web().workers(2);
    let daemon = Daemon::with(&world, &config);
    let watch = |options: &[&str]| {
        let mut command = daemon.paths().command(&[&["health", "--watch"], options].concat());
        let mut watching = Killed(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
        let lines = BufReader::new(watching.0.stdout.take().unwrap()).lines().map(Result::unwrap);
        (watching, lines)
    };
    let (mut exabgp, mut routes) = watch(&["--exabgp", "10.9.9.9/32", "--exabgp", "2001:db8::9/128"]);
    let (_plain, mut lines) = watch(&["--hold", "2s", "web"]);
    let mut both = |verb: &str| {
        for prefix in ["10.9.9.9/32", "2001:db8::9/128"] {
            assert_eq!(routes.next().unwrap(), format!("{verb} route {prefix} next-hop self"));
            // As exabgp does.
            exabgp.0.stdin.as_mut().unwrap().write_all(b"done\n").unwrap();
        }
    };
    both("announce");
    assert_eq!(lines.next().unwrap(), "up, weight 100");
    daemon.run(&["host", "drain"]);
    both("withdraw");
    assert_eq!(lines.next().unwrap(), "drained: the host is drained");
    daemon.run(&["host", "undrain"]);
    both("announce");
    assert_eq!(lines.next().unwrap(), "up, weight 100");
    // The workers of a daemon that was killed serve on, so nothing is said, until `--hold` is over.
    daemon.kill();
    let away = lines.next().unwrap();
    assert!(away.starts_with("down: ") && away.contains("no daemon runs there"), "{away}");
    assert!(ask(at(3000)).unwrap().worker.starts_with("web/"));
    let daemon = Daemon::start_until(&world, Paths::of(&world).run(), |_| true);
    let control = ControlClient::new(daemon.paths().control());
    // Its first answers are about what the daemon before has left.
    (0..100).for_each(|_| assert_eq!(control.health(None).unwrap().state, "up"));
    assert_eq!(lines.next().unwrap(), "up, weight 100");
    daemon.run(&["host", "drain"]);
    // The other one, which holds for a minute, has said nothing in between.
    both("withdraw");
    daemon.run(&["host", "undrain"]);
    daemon.stop();
}

#[test]
fn a_stop_is_announced_first() {
    let world = World::new();
    let daemon = Daemon::with(&world, &Config::web().workers(2).http(HTTP, ""));
    let workers = daemon.workers();
    assert_said(&daemon.paths().output(&["stop", "--keep", "--announce", "1s"]), 2, &["cannot be used with"]);
    let mut stop =
        Killed(daemon.paths().command(&["stop", "--announce", "1h"]).stdout(Stdio::null()).spawn().unwrap());
    until("the end to be announced", || (readyz() == (503, "web is ending\n".into())).then_some(()));
    daemon.says("goes on for 3600s (announce), and says that it is ending");
    assert_said(&daemon.paths().output(&["health"]), 1, &["drained: web is ending"]);
    let mut watch = daemon.paths().command(&["health", "--watch", "--exabgp", "10.9.9.9/32", "--graceful"]);
    let mut watch = Killed(watch.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let mut routes = BufReader::new(watch.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let leaves = "announce route 10.9.9.9/32 next-hop self community [65535:0]";
    assert_eq!(routes.next().unwrap(), leaves);
    assert!(workers.contains(&ask(at(3000)).unwrap().pid));
    assert_said(&daemon.paths().output(&["stop"]), 0, &["stopped"]);
    assert!(stop.0.wait().unwrap().success());
    // At once: the workers of a daemon that has ended in order do not serve on.
    assert_eq!(routes.next().unwrap(), "withdraw route 10.9.9.9/32 next-hop self");
    assert!(workers.iter().all(|pid| !is_alive(*pid)));
    assert_eq!(daemon.paths().leftovers(), Vec::<PathBuf>::new());
}

/// What HAProxy shows of its servers: status, weight.
fn servers(socket: &Path) -> BTreeMap<String, (String, String)> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(b"show stat\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    let mut rows =
        said.lines().filter(|line| !line.is_empty()).map(|line| line.split(',').collect::<Vec<_>>());
    let head = rows.next().unwrap();
    let column = |name: &str| head.iter().position(|it| *it == name).unwrap();
    let (name, status, weight) = (column("svname"), column("status"), column("weight"));
    let shown = rows.filter(|row| !["FRONTEND", "BACKEND"].contains(&row[name]));
    shown.map(|row| (row[name].to_owned(), (row[status].to_owned(), row[weight].to_owned()))).collect()
}

/// The services that answer so many connections through HAProxy.
fn through_haproxy(count: usize) -> BTreeMap<String, usize> {
    let mut answers = BTreeMap::new();
    for _ in 0..count {
        let worker = ask(at(4000)).unwrap().worker;
        *answers.entry(worker.split('/').next().unwrap().to_owned()).or_default() += 1;
    }
    answers
}

#[test]
fn haproxy_sends_what_can_be_taken() {
    let world = World::new();
    let api = Config::service("api").listen("tcp://127.0.0.1:3001").workers(2);
    let daemon = answering(&world, &four(&world).and(api));
    lose_one(&world, &daemon);
    let socket = world.path("haproxy.sock");
    let server = |name: &str, port: u16| {
        format!(
            "  server {name} 127.0.0.1:{port} weight 100 agent-check agent-addr 127.0.0.1 agent-port 9466 \
             agent-inter 100ms agent-send \"{name}\\n\"\n"
        )
    };
    let config = world.file(
        "front.cfg",
        &format!(
            "global\n  stats socket {}\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  \
             timeout server 30s\nlisten front\n  bind 127.0.0.1:4000\n  balance roundrobin\n{}{}",
            socket.display(),
            server("web", 3000),
            server("api", 3001)
        ),
    );
    let mut front = Command::new(program("haproxy"));
    let _front = Killed(front.args(["-db", "-f"]).arg(config).stdin(Stdio::null()).spawn().unwrap());
    let shown = |web: (&str, &str), api: (&str, &str)| {
        let wanted = [("api", api), ("web", web)];
        let wanted: BTreeMap<_, _> = wanted
            .map(|(name, (status, weight))| (name.to_owned(), (status.to_owned(), weight.to_owned())))
            .into();
        until("HAProxy to be told", || (socket.exists() && servers(&socket) == wanted).then_some(()));
    };
    let answers = |web: usize, api: usize| {
        let all = [("web", web), ("api", api)].into_iter().filter(|(_, count)| *count > 0);
        all.map(|(name, count)| (name.to_owned(), count)).collect::<BTreeMap<_, _>>()
    };
    shown(("no check", "75"), ("no check", "100"));
    let got = through_haproxy(175);
    assert_eq!(got, answers(75, 100), "by weight, to the connection");
    fs::remove_file(world.path("late")).unwrap();
    shown(("no check", "100"), ("no check", "100"));
    assert_eq!(through_haproxy(100), answers(50, 50));
    // Down: its agent says why, and everything goes to the other.
    daemon.run(&["scale", "web", "0"]);
    shown(("DOWN (agent)", "100"), ("no check", "100"));
    assert_eq!(through_haproxy(50), answers(0, 50));
    daemon.run(&["scale", "web", "4"]);
    shown(("no check", "100"), ("no check", "100"));
    // Drained: what is open goes on, and nothing new comes.
    let mut open = Connection::open(at(4000), None).unwrap();
    let pid = open.ask().unwrap().pid;
    daemon.run(&["host", "drain"]);
    shown(("DRAIN (agent)", "100"), ("DRAIN (agent)", "100"));
    assert_eq!(open.ask().unwrap().pid, pid);
    assert!(ask(at(4000)).is_err(), "a new connection is closed without an answer");
    // A daemon that is away is no answer, and no answer changes nothing.
    daemon.run(&["host", "undrain"]);
    shown(("no check", "100"), ("no check", "100"));
    daemon.kill();
    lasts("several checks", Duration::from_millis(500));
    shown(("no check", "100"), ("no check", "100"));
    assert_eq!(through_haproxy(100), answers(50, 50));
    let mut run = Paths::of(&world).run();
    run.args(["--agent", AGENT]);
    let daemon = Daemon::start_as(&world, run);
    assert_eq!(open.ask().unwrap().pid, pid);
    daemon.stop();
}
