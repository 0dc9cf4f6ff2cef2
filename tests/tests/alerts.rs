//! A real Prometheus scrapes the daemon with the shipped rules: each alert fires at its own fault, and no other does.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};
use testkit::client::{ask, ask_udp, http};
use testkit::config::Config;
use testkit::daemon::{Daemon, Paths, settled, signal, throughout, until, until_within};
use testkit::patience::patience;
use testkit::server;
use testkit::world::{World, program, repository};

const METRICS: &str = "127.0.0.1:9465";
const PROMETHEUS: &str = "127.0.0.1:9090";

/// The body of an answer.
fn get(at: &str, path: &str) -> std::io::Result<String> {
    Ok(http(TcpStream::connect(at)?, "GET", path)?.body)
}

fn rules() -> String {
    fs::read_to_string(repository().join("packaging/prometheus/alerts.yml")).unwrap()
}

/// The daemon, and a Prometheus that looks at it five times a second.
struct Watched {
    daemon: Option<Daemon>,
    prometheus: Child,
    paths: Paths,
}

impl Watched {
    fn start(world: &World, config: &Config) -> Self {
        let daemon = Daemon::with(world, &config.clone().http(METRICS, ""));
        let paths = Paths::of(world);
        // What has to hold for a while fires at once.
        let at_once: String = rules()
            .lines()
            .filter(|line| !line.trim().starts_with("for: "))
            .map(|line| format!("{line}\n"))
            .collect();
        let _ = world.file("alerts.yml", &at_once);
        let configuration = format!(
            "global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}}\nrule_files: [alerts.yml]\n\
             scrape_configs:\n  - job_name: reuseport-lb\n    static_configs: [{{targets: [\"{METRICS}\"]}}]\n"
        );
        let configuration = world.file("prometheus.yml", &configuration);
        let log = File::create(world.path("prometheus.log")).unwrap();
        let prometheus = Command::new(program("prometheus"))
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!("--storage.tsdb.path={}", world.path("tsdb").display()))
            .arg(format!("--web.listen-address={PROMETHEUS}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let watched = Self { daemon: Some(daemon), prometheus, paths };
        let up = || {
            get(PROMETHEUS, "/api/v1/query?query=count_over_time(up[1m])>3")
                .ok()?
                .contains("\"job\"")
                .then_some(())
        };
        until_within(3 * patience(), "Prometheus to have looked", up);
        assert_eq!(watched.firing(), BTreeSet::new(), "nothing is wrong yet");
        watched
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().unwrap()
    }

    /// The names of all alerts that fire, without their beginning.
    fn firing(&self) -> BTreeSet<String> {
        let answer: serde_json::Value =
            serde_json::from_str(&get(PROMETHEUS, "/api/v1/alerts").unwrap()).unwrap();
        let alerts = answer["data"]["alerts"].as_array().unwrap();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        firing
            .map(|alert| {
                alert["labels"]["alertname"].as_str().unwrap().strip_prefix("ReuseportLb").unwrap().to_owned()
            })
            .collect()
    }

    /// Waits until just these alerts fire.
    fn fires(&self, wanted: &[&str]) {
        let wanted: BTreeSet<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        until(&format!("just {wanted:?} to fire"), || (self.firing() == wanted).then_some(()));
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let answers =
                [(PROMETHEUS, "/api/v1/alerts"), (METRICS, "/metrics")].map(|(at, path)| get(at, path));
            answers.iter().for_each(|answer| eprintln!("{answer:?}"));
        }
        let _ = self.prometheus.kill();
        let _ = self.prometheus.wait();
    }
}

fn both_protocols() -> Config {
    Config::service("web").listen("tcp://127.0.0.1:3000").listen("udp://127.0.0.1:3000").workers(2)
}

fn to() -> SocketAddr {
    "127.0.0.1:3000".parse().unwrap()
}

#[test]
fn promtool_finds_nothing_wrong_with_metrics_and_rules() {
    let world = World::new();
    let watched = Watched::start(&world, &both_protocols());
    let mut check = Command::new(program("promtool"));
    let mut check = check
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check.stdin.take().unwrap().write_all(get(METRICS, "/metrics").unwrap().as_bytes()).unwrap();
    let output = check.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
    let rules = repository().join("packaging/prometheus/alerts.yml");
    let output = Command::new(program("promtool")).args(["check", "rules"]).arg(rules).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("SUCCESS: 12 rules found"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // Each has its line in the docs.
    let docs = fs::read_to_string(repository().join("docs/METRICS.md")).unwrap();
    let written: Vec<&str> =
        docs.lines().filter_map(|line| line.strip_prefix("| `ReuseportLb")?.split('`').next()).collect();
    let text = self::rules();
    let there: Vec<&str> =
        text.lines().filter_map(|line| line.trim().strip_prefix("- alert: ReuseportLb")).collect();
    assert_eq!(written, there);
    drop(watched);
}

#[test]
fn a_worker_that_is_stopped_and_a_daemon_that_is_gone() {
    let world = World::new();
    let mut watched = Watched::start(&world, &Config::web().workers(2).set("stall_timeout", "300ms"));
    let workers = watched.daemon().workers();
    // One that was not seen to accept for a moment is loading.
    throughout(Duration::from_millis(1500), || drop(ask(to()).unwrap()));
    signal(workers[0], Signal::SIGSTOP);
    let mut waiting = Vec::new();
    until("it to be seen", || {
        waiting.push(TcpStream::connect(to()).unwrap());
        watched.daemon().service().workers.iter().any(|worker| worker.state == "stalled").then_some(())
    });
    watched.fires(&["WorkerStalled", "WorkersMissing"]);
    signal(workers[0], Signal::SIGCONT);
    watched.fires(&[]);
    watched.daemon.take().unwrap().kill();
    watched.fires(&["Down"]);
    watched.daemon = Some(Daemon::start_until(&world, watched.paths.run(), settled));
    watched.fires(&[]);
}

#[test]
fn a_worker_that_fails_and_clients_that_are_refused() {
    let world = World::new();
    let (flag, first) = (world.path("flag"), server::words(&world, "").join(" "));
    let script = format!("[ -e {} ] && exit 1; exec {first}", flag.display());
    let config = Config::web().workers(1).set("when_empty", "reject").set("hold_timeout", "100ms");
    let watched = Watched::start(&world, &config.command(&["sh", "-c", &script]));
    fs::write(&flag, "").unwrap();
    signal(watched.daemon().workers()[0], Signal::SIGKILL);
    watched.fires(&["ServiceNotReady", "WorkerFailed", "WorkerRestarts", "WorkersMissing"]);
    assert!(ask(to()).is_err());
    watched.fires(&["Refused", "ServiceNotReady", "WorkerFailed", "WorkerRestarts", "WorkersMissing"]);
}

#[test]
fn a_reload_that_is_refused_and_a_stranger() {
    let world = World::new();
    let watched = Watched::start(&world, &Config::web().workers(1));
    let file = world.path("config.toml");
    let good = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{good}wrokers = 2\n")).unwrap();
    assert!(!watched.daemon().paths().output(&["reload"]).status.success());
    watched.fires(&["ReloadFailed"]);
    fs::write(&file, good).unwrap();
    watched.daemon().run(&["reload"]);
    watched.fires(&[]);
    let stranger = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    stranger.set_reuse_port(true).unwrap();
    stranger.bind(&to().into()).unwrap();
    stranger.listen(1).unwrap();
    watched.fires(&["Strangers"]);
    drop(stranger);
    watched.fires(&[]);
}

#[test]
fn queues_that_are_full() {
    let world = World::new();
    let config = Config::service("web").listen("tcp://127.0.0.1:3000").listen("udp://127.0.0.1:3001");
    let watched =
        Watched::start(&world, &config.workers(1).set("stall_timeout", "off").toml("backlog", "10".into()));
    signal(watched.daemon().workers()[0], Signal::SIGSTOP);
    let connections: Vec<TcpStream> = (0..10).map(|_| TcpStream::connect(to()).unwrap()).collect();
    watched.fires(&["QueueFull"]);
    // One more has a place; another one has none, and the kernel drops its SYN.
    let more: Vec<_> =
        (0..3).map(|_| TcpStream::connect_timeout(&to(), Duration::from_millis(300))).collect();
    assert!(more.iter().any(Result::is_err), "{more:?}");
    watched.fires(&["Drops", "QueueFull"]);
    let drops = |listener: &str| {
        let sockets = watched.daemon().service().workers.remove(0).sockets;
        sockets.into_iter().find(|socket| socket.listen.starts_with(listener)).unwrap().drops
    };
    assert!(drops("tcp") > 0 && drops("udp") == 0);
    // Datagrams: those that were dropped are just those that nobody has.
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    let sent = 1000;
    (0..sent).for_each(|_| assert_eq!(client.send_to(&[b'?'; 1000], "127.0.0.1:3001").unwrap(), 1000));
    let dropped = drops("udp");
    assert!(dropped > 0 && dropped < sent, "{dropped} of {sent}");
    signal(watched.daemon().workers()[0], Signal::SIGCONT);
    client.set_read_timeout(Some(patience())).unwrap();
    (0..sent - dropped).for_each(|_| assert!(client.recv(&mut [0; 2000]).unwrap() > 0));
    assert_eq!(drops("udp"), dropped);
    drop((connections, more));
    watched.fires(&["Drops"]);
}

#[test]
fn flows_that_are_cut() {
    let world = World::new();
    let config = Config::service("web").listen("udp://127.0.0.1:3000").workers(2);
    let watched = Watched::start(&world, &config);
    let cut =
        until("a flow of worker 1", || ask_udp(to(), None).ok().filter(|answer| answer.worker == "web/1"));
    assert_eq!(cut.worker, "web/1");
    watched.daemon().run(&["drain", "web/1", "--timeout", "100ms"]);
    assert!(watched.daemon().service().flows_cut > 0);
    watched.fires(&["FlowsCut"]);
}

#[test]
fn every_query_of_the_dashboard_is_understood_and_finds_something() {
    let world = World::new();
    let _watched = Watched::start(&world, &both_protocols());
    let text = fs::read_to_string(repository().join("packaging/prometheus/dashboard.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut asked = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            let query =
                query.replace("$__rate_interval", "1m").replace("$instance", ".*").replace("$service", "web");
            let encoded: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let answer = get(PROMETHEUS, &format!("/api/v1/query?query={encoded}")).unwrap();
            let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
            assert_eq!(answer["status"], "success", "{query}: {answer}");
            assert!(!answer["data"]["result"].as_array().unwrap().is_empty(), "{query} finds nothing");
            asked += 1;
        }
    }
    assert!(asked >= 20, "{asked}");
}
