//! Servers that people run, unmodified: long requests are no stalls, what loads is not sick, and a restart finishes what
//! is in flight.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod programs;
mod requests;
mod restarts;

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reuseport_lb_client::api::ServiceStatus;
use testkit::background::beside;
use testkit::config::Config;
use testkit::daemon::{Daemon, Paths, settled, signal, throughout, until};
use testkit::patience::at_most;
use testkit::server;
use testkit::world::World;

use programs::{application, downloads, haproxy, nginx, uvicorn, words};
use requests::{PATIENCE, get, long, short_ones};

fn pids(service: &ServiceStatus) -> Vec<i32> {
    service.workers.iter().filter_map(|worker| worker.pid).collect()
}

fn web(command: &[String]) -> Config {
    Config::web().workers(3).set("drain_timeout", "10s").command(command)
}

/// All defaults: one long request beside many short ones is answered, as they are, and nobody is replaced.
fn a_long_request_is_no_stall(command: impl FnOnce(&World) -> Vec<String>) {
    let world = World::new();
    let daemon = Daemon::with(&world, &web(&command(&world)));
    let before = daemon.service();
    let (slow, (answered, failed)) = beside(|over| short_ones(over, PATIENCE), || get("/slow", long() * 3));
    println!("{answered} short ones answered beside one of {:?}", long());
    assert!(slow.is_ok(), "{slow:?}\n{}", daemon.log());
    assert!(failed.is_empty(), "{failed:?}\n{}", daemon.log());
    assert!(answered > 100, "{answered}");
    let after = until("all to be ready", || Some(daemon.service()).filter(settled));
    assert_eq!(pids(&after), pids(&before));
    assert!(after.workers.iter().all(|worker| worker.restarts == 0));
    daemon.stop();
}

#[test]
fn gunicorn_answers_a_long_request_beside_short_ones() {
    a_long_request_is_no_stall(|world| {
        // Its own patience with a request is 30 s.
        words("gunicorn", &["-w", "1", "--timeout", "200", "--chdir", &application(world), "app:wsgi"])
    });
}

#[test]
fn uvicorn_answers_a_long_request_beside_short_ones() {
    a_long_request_is_no_stall(uvicorn);
}

#[test]
fn uvicorn_serves_both_families_from_one_socket() {
    let world = World::new();
    let config = Config::service("web").listen("tcp://*:3000").workers(2).command(&uvicorn(&world));
    let daemon = Daemon::with(&world, &config);
    for address in ["127.0.0.1:3000", "[::1]:3000"] {
        let answer = testkit::requests::get(address.parse().unwrap(), "/", PATIENCE).unwrap();
        assert!(answer.ends_with("ok"), "{address}: {answer}");
    }
    assert_eq!(daemon.service().groups.len(), 1);
    daemon.stop();
}

#[test]
fn haproxy_answers_a_long_request_beside_short_ones() {
    a_long_request_is_no_stall(|world| haproxy(world, "-db"));
}

#[test]
fn nginx_gets_its_sockets_in_its_own_way() {
    let world = World::new();
    let _ = world.file("index.html", "ok");
    let config = web(&nginx(&world, "127.0.0.1:3000", "")).set("sockets", "nginx");
    let daemon = Daemon::with(&world, &config);
    for _ in 0..30 {
        assert!(get("/index.html", PATIENCE).unwrap().ends_with("ok"));
    }
    let service = daemon.service();
    let selected: u64 = service.workers.iter().flat_map(|it| &it.sockets).map(|it| it.selected).sum();
    assert_eq!((selected, service.groups[0].strangers, daemon.log().contains("NGINX")), (30, Some(0), false));
    daemon.stop();
}

#[test]
fn nginx_answers_a_long_request_beside_short_ones() {
    a_long_request_is_no_stall(downloads);
}

/// A service of one worker that opens a socket by itself: what is said of it, and, if it is the service's address, what
/// mends that.
fn opens_by_itself(config: impl FnOnce(&World) -> Config, process: &str, opened: &str, state: &str) {
    let mend =
        if opened.ends_with(":3000") { "; or set sockets = \"bind\" (run --sockets bind)" } else { "" };
    let world = World::new();
    config(&world).workers(1).write(&world);
    let named = |service: &ServiceStatus| {
        let lacks = service.workers[0].lacks.clone().unwrap_or_default();
        service.workers[0].state == state && lacks.contains("by itself")
    };
    let daemon = Daemon::start_until(&world, Paths::of(&world).run(), named);
    let worker = daemon.service().workers.remove(0);
    let lacks = worker.lacks.unwrap();
    let said = format!("({process}) opened {opened} by itself");
    assert!(
        lacks.starts_with("does not wait for work yet on tcp://127.0.0.1:3000: pid ")
            && lacks.ends_with(&format!("{said}{mend}")),
        "{lacks}"
    );
    let own = "and does not wait for work on its own sockets: they are its descriptors 3 (LISTEN_FDS)";
    daemon.says(&format!("{said}, {own}{mend}"));
    assert_eq!((worker.member, worker.restarts), (false, 0), "it is not ready, and nobody ends it");
    assert!(daemon.run(&["status"]).contains("by itself"));
    daemon.stop();
}

#[test]
fn who_opens_the_address_by_itself_is_named() {
    let same = |world: &World| web(&nginx(world, "127.0.0.1:3000 reuseport", ""));
    opens_by_itself(same, "nginx", "tcp://127.0.0.1:3000", "starting");
    let other = |world: &World| web(&nginx(world, "0.0.0.0:3080", ""));
    opens_by_itself(other, "nginx", "tcp://0.0.0.0:3080", "starting");
    // It says that it is ready, too.
    let says = |world: &World| {
        let config = Config::web().set("ready", "notify");
        config.server(world, "--open tcp://0.0.0.0:3000 --ready notify")
    };
    opens_by_itself(says, "server", "tcp://0.0.0.0:3000", "loading");
}

/// A server that needs some time before it waits for work: as long as it is told to before it starts.
fn loading(world: &World) -> (Config, impl Fn(Duration)) {
    let first = world.file("first", "");
    let config = web(&server::words(world, &format!("@{}", first.display())));
    (config, move |load: Duration| std::fs::write(&first, format!("--load {}ms", load.as_millis())).unwrap())
}

#[test]
fn a_release_that_loads_for_long_is_loading_and_takes_over_when_it_accepts() {
    for ready in [None, Some("500ms")] {
        let world = World::new();
        let (config, load_for) = loading(&world);
        let config = config.set("start_timeout", "2m");
        let config = if let Some(ready) = ready { config.set("ready", ready) } else { config };
        let daemon = Daemon::with(&world, &config);
        let before = daemon.service();
        load_for(long());
        let replace = || {
            let mut restart = daemon.paths().command(&["restart", "web/1"]).spawn().unwrap();
            if ready.is_some() {
                let lacks = until("the successor to be loading", || {
                    daemon.service().workers.into_iter().find(|it| it.state == "loading")?.lacks
                });
                assert_eq!(lacks, "does not wait for work yet on tcp://127.0.0.1:3000");
            }
            assert!(restart.wait().unwrap().success(), "{}", daemon.log());
        };
        let ((), (answered, failed)) = beside(|over| short_ones(over, PATIENCE), replace);
        println!("{answered} answered while a worker was replaced by one that loads for {:?}", long());
        assert!(failed.is_empty(), "{failed:?}\n{}", daemon.log());
        let after = daemon.service();
        let replaced = |nth: usize| after.workers[nth].pid != before.workers[nth].pid;
        assert_eq!([0, 1, 2].map(replaced), [false, true, false]);
        daemon.stop();
    }
}

#[test]
fn a_worker_that_crashed_and_loads_for_long_comes_back() {
    let world = World::new();
    let (config, load_for) = loading(&world);
    let hold = at_most(Duration::from_millis(500));
    let config = config.set("ready", "500ms").set("hold_timeout", &format!("{}ms", hold.as_millis()));
    let daemon = Daemon::with(&world, &config);
    let victim = daemon.service().workers[0].pid.unwrap();
    load_for(long());
    let crash = || {
        signal(victim, Signal::SIGKILL);
        let begun = Instant::now();
        until("it to be loading", || (daemon.service().workers[0].state == "loading").then_some(()));
        let loading = daemon.service().workers[0].pid;
        let rest = (long() - Duration::from_secs(1)).saturating_sub(begun.elapsed());
        throughout(rest, || {
            let worker = daemon.service().workers.remove(0);
            assert_eq!((worker.pid, worker.restarts), (loading, 1), "{}", daemon.log());
        });
        until("it to be back", || Some(daemon.service()).filter(settled));
        assert_eq!(daemon.service().workers[0].pid, loading);
    };
    let ((), (answered, failed)) = beside(|over| short_ones(over, hold * 6), crash);
    println!("{answered} answered while a worker loaded for {:?} after a crash", long());
    // What its predecessor had accepted went with it; what waited for it went to others when the hold was over.
    assert!(failed.len() <= 1, "{failed:?}\n{}", daemon.log());
    daemon.stop();
}

#[test]
fn a_worker_that_never_uses_one_of_its_sockets_is_shown_as_that() {
    let world = World::new();
    let config = Config::web().listen("tcp://127.0.0.1:3001").workers(1).set("start_timeout", "1s");
    config.server(&world, "--sockets 1").write(&world);
    let command = Paths::of(&world).run();
    let daemon = Daemon::start_until(&world, command, |service| service.workers[0].lacks.is_some());
    let worker = daemon.service().workers.remove(0);
    assert_eq!(worker.state, "starting");
    assert_eq!(worker.lacks.unwrap(), "does not wait for work yet on tcp://127.0.0.1:3001");
    assert!(daemon.run(&["status"]).contains("web/0 does not wait for work yet on tcp://127.0.0.1:3001"));
    until("the log to say it", || {
        daemon
            .log()
            .contains("does not wait for work yet on tcp://127.0.0.1:3001 (descriptor 4)")
            .then_some(())
    });
    let output = daemon.paths().output(&["scale", "web", "2"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("not ready within start_timeout (1s): web/1 (starting, does not wait"), "{said}");
    daemon.stop();
}
