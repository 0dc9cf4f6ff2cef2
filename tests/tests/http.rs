//! `--http` and `[http]`: what is answered, to whom, and what cannot disturb the daemon.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::client::{ask, ask_udp, http};
use testkit::config::Config;
use testkit::daemon::{Daemon, Paths, signal, throughout, until};
use testkit::patience::slow;
use testkit::world::{World, run};

const AT: &str = "127.0.0.1:9465";

/// Status and body of an answer.
fn get(path: &str) -> (u16, String) {
    let answer = http(TcpStream::connect(AT).unwrap(), "GET", path).unwrap();
    (answer.status, answer.body)
}

/// The value of a series, by its name and labels as they are written.
fn value(metrics: &str, series: &str) -> Option<f64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

/// The sum of all series that begin like this.
fn sum(metrics: &str, beginning: &str) -> f64 {
    let values = metrics.lines().filter(|line| line.starts_with(beginning));
    values.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

fn served(world: &World, config: &Config) -> Daemon {
    Daemon::with(world, &config.clone().http(AT, ""))
}

#[test]
fn what_is_asked_is_answered_and_nothing_is_changed() {
    let world = World::new();
    let daemon = served(&world, &Config::web().workers(2));
    daemon.says("answers at http://127.0.0.1:9465/");
    for (path, status, says) in [
        ("/livez", 200, "ok\n"),
        ("/readyz", 200, "ready\n"),
        ("/readyz?service=web", 200, "ready\n"),
        ("/readyz?service=wbe", 404, "there is no service \\\"wbe\\\"; there is web"),
        ("/readyz?web", 400, "takes ?service=NAME, not ?web"),
        ("/weight", 200, "100\n"),
        ("/metrics?x=1", 400, "/metrics takes no query"),
        ("/metric", 404, "there is no /metric here; / lists what there is"),
        ("/", 200, "<a href=\"/readyz\">/readyz</a>"),
        ("/page.js", 200, "new EventSource(\"/events\")"),
        ("/page.css", 200, "color-scheme: light dark"),
        ("/buckets", 400, "/buckets takes ?service=NAME"),
        ("/buckets?service=wbe", 404, "there is no service \\\"wbe\\\"; there is web"),
        ("/v1/stop", 404, "there is no /v1/stop here"),
    ] {
        let (answered, text) = get(path);
        assert!(answered == status && text.contains(says), "{path}: {text}");
    }
    for path in ["/livez", "/metrics", "/status.json"] {
        let answer = http(TcpStream::connect(AT).unwrap(), "POST", path).unwrap();
        assert_eq!(answer.status, 405);
        assert!(answer.head.contains("allow: GET") && answer.body.contains("takes GET, not POST"));
    }
    let (_, json) = get("/status.json");
    let shown: reuseport_lb_client::api::Status = serde_json::from_str(&json).unwrap();
    assert_eq!(shown.services[0].name, "web");
    assert!(shown.services[0].settings.is_empty(), "a command may have a secret among its arguments");
    let usage = shown.services[0].workers[0].usage.unwrap();
    assert!(usage.start_time >= shown.start_time - 1.0 && usage.resident_bytes > 100_000, "{usage:?}");
    daemon.stop();
}

#[test]
fn readiness_follows_the_workers_and_the_end_of_the_service() {
    let world = World::new();
    let config = Config::web().workers(2).set("lame_duck", "1h").toml("stall_timeout", "\"300ms\"".into());
    let daemon = served(&world, &config);
    let workers = daemon.workers();
    // One that was not seen to accept for a moment is loading.
    throughout(Duration::from_millis(1500), || drop(ask("127.0.0.1:3000".parse().unwrap()).unwrap()));
    signal(workers[0], Signal::SIGSTOP);
    // That it does not accept shows where connections wait.
    let mut waiting = Vec::new();
    until("half of the weight", || {
        waiting.push(TcpStream::connect("127.0.0.1:3000").unwrap());
        (get("/weight").1 == "50\n").then_some(())
    });
    assert_eq!(get("/readyz").0, 200, "another one serves");
    let (_, metrics) = get("/metrics");
    let state = |state| {
        value(
            &metrics,
            &format!("reuseport_lb_worker_state{{service=\"web\",worker=\"web/0\",state=\"{state}\"}}"),
        )
    };
    assert_eq!((state("stalled"), state("ready")), (Some(1.0), Some(0.0)), "{metrics}");
    assert_eq!(value(&metrics, "reuseport_lb_workers_ready{service=\"web\"}"), Some(1.0));
    signal(workers[0], Signal::SIGCONT);
    until("all of the weight", || (get("/weight").1 == "100\n").then_some(()));

    let mut stopping = daemon.paths().command(&["stop"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    until("the end to be shown", || (get("/readyz").0 == 503).then_some(()));
    assert_eq!(get("/readyz").1, "web is ending\n");
    assert_eq!(get("/weight").1, "0\n");
    assert_eq!(get("/livez").0, 200);
    assert!(ask("127.0.0.1:3000".parse().unwrap()).unwrap().worker.starts_with("web/"), "it still serves");
    daemon.run(&["stop"]);
    assert!(stopping.wait().unwrap().success());
}

#[test]
fn counters_agree_with_clients_and_go_on_from_one_daemon_to_the_next() {
    let world = World::new();
    let config = Config::service("web").listen("tcp://127.0.0.1:3000").listen("udp://127.0.0.1:3000");
    // Live flows keep a worker that leaves for so long.
    let config = config.workers(3).set("drain_timeout", "500ms");
    let daemon = served(&world, &config);
    let to: SocketAddr = "127.0.0.1:3000".parse().unwrap();
    let round = |connections: usize, datagrams: usize| {
        (0..connections).for_each(|_| drop(ask(to).unwrap()));
        (0..datagrams).for_each(|_| drop(ask_udp(to, None).unwrap()));
    };
    let check = |connections: f64, datagrams: f64| {
        let (_, metrics) = get("/metrics");
        for (listener, sent) in [("tcp://127.0.0.1:3000", connections), ("udp://127.0.0.1:3000", datagrams)] {
            let all = |name: &str| {
                sum(&metrics, &format!("reuseport_lb_{name}_total{{service=\"web\",listener=\"{listener}\""))
            };
            let sums = ["arrivals", "owners", "selected", "detours", "refused", "select_failed"].map(all);
            assert_eq!(sums, [sent, sent, sent, 0.0, 0.0, 0.0], "{listener}");
        }
    };
    round(200, 100);
    check(200.0, 100.0);
    daemon.kill();
    round(50, 50);
    let daemon = Daemon::start_until(&world, Paths::of(&world).run(), testkit::daemon::settled);
    check(250.0, 150.0);
    round(50, 50);
    check(300.0, 200.0);

    // What happens to workers is counted as well, and goes on.
    daemon.run(&["restart", "web"]);
    daemon.run(&["drain", "web/2"]);
    let killed = daemon.workers()[0];
    signal(killed, Signal::SIGKILL);
    daemon.settled_without(killed);
    let counted = || {
        let (_, metrics) = get("/metrics");
        let all = [
            "rollouts_total{service=\"web\",result=\"done\"}",
            "rollouts_total{service=\"web\",result=\"failed\"}",
            "drain_seconds_count{service=\"web\"}",
            "drain_seconds_bucket{service=\"web\",le=\"+Inf\"}",
            "handed_over_total{service=\"web\"}",
            "worker_restarts_total{service=\"web\",worker=\"web/0\",reason=\"killed\"}",
            "worker_restarts_total{service=\"web\",worker=\"web/0\",reason=\"ended\"}",
        ];
        all.map(|series| value(&metrics, &format!("reuseport_lb_{series}")))
    };
    let wanted = [1.0, 0.0, 4.0, 4.0, 0.0, 1.0, 0.0].map(Some);
    assert_eq!(counted(), wanted);
    daemon.kill();
    let daemon = Daemon::start_until(&world, Paths::of(&world).run(), testkit::daemon::settled);
    assert_eq!(counted(), wanted);
    daemon.stop();
}

#[test]
fn a_reload_moves_the_address_or_changes_nothing() {
    let world = World::new();
    let config = Config::web().workers(1);
    let daemon = served(&world, &config);
    let path = world.path("http.sock");
    let unix = |more: &str| config.clone().http(&path.to_string_lossy(), more).write(&world);
    let mode = |path: &Path| {
        let about = fs::metadata(path).unwrap();
        (about.permissions().mode() & 0o7777, about.gid())
    };
    let livez = || http(UnixStream::connect(&path).unwrap(), "GET", "/livez").unwrap().status;
    unix("");
    daemon.run(&["reload"]);
    assert_eq!((mode(&path), livez()), ((0o660, 0), 200));
    assert!(TcpStream::connect(AT).is_err(), "the address before is closed");
    unix("mode = \"0606\"\ngroup = \"nogroup\"");
    daemon.run(&["reload"]);
    let nogroup = nix::unistd::Group::from_name("nogroup").unwrap().unwrap().gid.as_raw();
    assert_eq!((mode(&path), livez()), ((0o606, nogroup), 200));

    // An address that somebody else has, and a place where there is another file.
    let other = TcpListener::bind("127.0.0.1:9466").unwrap();
    fs::write(world.path("file"), "precious").unwrap();
    let file = world.path("file");
    for (listen, says) in [
        ("127.0.0.1:9466", "cannot answer over HTTP at 127.0.0.1:9466: Address already in use"),
        (&*file.to_string_lossy(), "there is a file already that is no socket"),
        ("/nowhere/at/all", "cannot answer over HTTP at /nowhere/at/all: No such file or directory"),
    ] {
        config.clone().workers(2).http(listen, "").write(&world);
        let output = daemon.paths().output(&["reload"]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && text.contains("nothing is changed: ") && text.contains(says),
            "{text}"
        );
        assert_eq!((livez(), daemon.service().wanted), (200, 1));
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    drop(other);
    let shown = daemon.status().last_reload.unwrap();
    assert!(!shown.successful);

    // Without the key it is closed, and its file is gone.
    config.write(&world);
    daemon.run(&["reload"]);
    assert!(!path.exists() && daemon.status().last_reload.unwrap().successful);
    daemon.stop();
}

#[test]
fn a_start_whose_address_is_taken_says_so_and_leaves_nothing() {
    let world = World::new();
    let other = TcpListener::bind(AT).unwrap();
    Config::web().workers(1).http(AT, "").write(&world);
    let paths = Paths::of(&world);
    let output = paths.run().output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success()
            && text.contains("cannot answer over HTTP at 127.0.0.1:9465: Address already"),
        "{text}"
    );
    assert_eq!(paths.leftovers(), Vec::<std::path::PathBuf>::new());
    drop(other);

    // What serves already goes on, and so does its next daemon with another address.
    let daemon = Daemon::with(&world, &Config::web().workers(1));
    let workers = daemon.workers();
    daemon.kill();
    let other = TcpListener::bind(AT).unwrap();
    let file = world.path("config.toml").display().to_string();
    let run = ["run", "--http", AT, "--config", &*file];
    assert!(!paths.output(&run).status.success());
    assert!(ask("127.0.0.1:3000".parse().unwrap()).is_ok());
    drop(other);
    let daemon = Daemon::start_until(&world, paths.command(&run), testkit::daemon::settled);
    assert_eq!((daemon.workers(), get("/readyz").0), (workers, 200));
    daemon.stop();
}

/// Reads a stream of events until `is` a line.
fn reads(lines: &mut impl Iterator<Item = std::io::Result<String>>, is: impl Fn(&str) -> bool) -> String {
    lines.map(Result::unwrap).find(|line| is(line)).unwrap()
}

#[test]
fn events_come_as_they_happen_with_a_status_each_second() {
    let world = World::new();
    let daemon = served(&world, &Config::web().workers(2));
    let mut stream = TcpStream::connect(AT).unwrap();
    stream.set_read_timeout(Some(testkit::patience::patience())).unwrap();
    stream.write_all(b"GET /events HTTP/1.0\r\nhost: x\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines();
    reads(&mut lines, |line| line == "content-type: text/event-stream");
    let first = reads(&mut lines, |line| line.starts_with("data: "));
    assert!(first.starts_with("data: {\"seq\":1,") && first.contains("\"event\":\"started\""), "{first}");
    for _ in 0..2 {
        reads(&mut lines, |line| line == "event: status");
        let status = reads(&mut lines, |line| line.starts_with("data: "));
        let status: reuseport_lb_client::api::Status = serde_json::from_str(&status[6..]).unwrap();
        assert!(status.services[0].workers.len() == 2 && status.services[0].settings.is_empty());
    }
    signal(daemon.workers()[1], Signal::SIGKILL);
    let ended = reads(&mut lines, |line| line.contains("\"event\":\"ended\""));
    assert!(ended.contains("\"worker\":\"web/1\"") && ended.contains("was killed by SIGKILL"), "{ended}");

    let mut stream = TcpStream::connect(AT).unwrap();
    stream.write_all(b"GET /buckets?service=web HTTP/1.0\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let owners = answer[answer.len() - 2 * 65536..].chunks(2).map(|two| u16::from_le_bytes([two[0], two[1]]));
    let mut shares = [0, 0];
    owners.for_each(|owner| shares[usize::from(owner)] += 1);
    assert_eq!(shares, [32768, 32768]);
}

#[test]
fn slow_clients_and_floods_hold_nobody_up() {
    let world = World::new();
    let daemon = served(&world, &Config::web().workers(2));
    // They ask for a long answer again and again, and never read; or send half of a request.
    let asks = "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100);
    let events = "GET /events HTTP/1.1\r\nhost: x\r\n\r\n";
    let slow_ones: Vec<TcpStream> = (0..240)
        .map(|turn| {
            let mut stream = TcpStream::connect(AT).unwrap();
            stream.set_nonblocking(true).unwrap();
            let _ = stream.write([&asks, events, events, "GET /met"][turn % 4].as_bytes());
            stream
        })
        .collect();
    let begun = Instant::now();
    let mut longest = Duration::ZERO;
    let mut asked = 0;
    while begun.elapsed() < Duration::from_secs(2) {
        let once = Instant::now();
        assert_eq!(daemon.service().workers.len(), 2);
        assert_eq!(get("/livez").0, 200);
        assert_eq!(get("/readyz").0, 200);
        longest = longest.max(once.elapsed());
        ask("127.0.0.1:3000".parse().unwrap()).unwrap();
        asked += 1;
    }
    println!("{asked} rounds, the longest {longest:?}");
    // What the kernel keeps for those that do not read is bounded: by itself it would be megabytes each.
    let sockets = run("ss", &["-Htmn", "sport = :9465"]);
    let limits: Vec<&str> = sockets
        .split("skmem:")
        .skip(1)
        .filter_map(|it| it.split(',').find(|it| it.starts_with("tb")))
        .collect();
    assert!(limits.len() >= 100 && limits.iter().all(|limit| *limit == "tb262144"), "{sockets}");
    assert!(longest < Duration::from_secs(1) * slow(), "{longest:?}");
    assert_eq!(get("/metrics").0, 200);
    drop(slow_ones);
    daemon.stop();
}
