//! `adopt` and `release`: servers that others have started, as they run.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::time::Duration;

use nix::sys::signal::Signal;
use reuseport_lb_client::api::{ServiceStatus, WorkerStatus};
use testkit::background::beside;
use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, Paths, settled, signal, until};
use testkit::patience::{at_most, fewer};
use testkit::world::World;

use crate::family::{Alone, freeze, kill};
use crate::programs::{acceptors, granian, shared, steers};
use crate::protocol::Protocol::{Greeting, Http};
use crate::protocol::{Asked, ask_all, to};
use crate::rebinding::asking;
use crate::row::names;

/// A daemon that serves something else.
fn daemon(world: &World) -> Daemon {
    Daemon::with(world, &Config::service("other").listen("tcp://127.0.0.1:3100").workers(1))
}

/// The service with this name, with so many workers that are ready.
pub(crate) fn service(daemon: &Daemon, name: &str, workers: usize) -> ServiceStatus {
    until(&format!("{workers} workers of {name}"), || {
        let all = daemon.status().services;
        let found = all.into_iter().find(|service| service.name == name)?;
        (found.workers.len() == workers && (workers == 0 || settled(&found))).then_some(found)
    })
}

/// How often each answer comes.
fn tally(clients: usize) -> BTreeMap<String, u64> {
    let mut tally = BTreeMap::new();
    for _ in 0..clients {
        *tally.entry(Greeting.ask().unwrap().trim().to_owned()).or_default() += 1;
    }
    tally
}

/// What a command says that is refused.
fn refused(world: &World, arguments: &[&str]) -> String {
    let output = Paths::of(world).output(arguments);
    assert!(!output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn selected(service: &ServiceStatus) -> Vec<u64> {
    service.workers.iter().map(|worker| worker.sockets.iter().map(|it| it.selected).sum()).collect()
}

fn adopt(daemon: &Daemon, pid: i32, more: &[&str]) -> String {
    let pid = pid.to_string();
    let all = [&["adopt", "web", "--pid", &pid, "--listen", "tcp://127.0.0.1:3000"], more].concat();
    daemon.run(&all)
}

#[test]
fn three_threads_are_adopted_and_let_go_as_they_run() {
    let world = World::new();
    let mut alone = Alone::start(&acceptors(&world, "reuseport"));
    until("it to serve", || Greeting.ask().ok());
    until("three sockets", || (tally(30).len() == 3).then_some(()));
    let daemon = daemon(&world);
    let said = adopt(&daemon, alone.pid(), &[]);
    assert_eq!(said, "web: adopts web/0, web/1, web/2\n");
    let before = service(&daemon, "web", 3);
    assert_eq!(names(&before), ["web/0", "web/1", "web/2"]);
    assert!(before.workers.iter().all(|it| it.pid == Some(alone.pid()) && it.state == "ready"));
    assert_eq!(before.groups[0].strangers, Some(0));
    assert_eq!(before.adopts.as_ref().unwrap().whose, format!("process {}", alone.pid()));

    let clients = fewer(3_000);
    let answers = tally(clients);
    let after = service(&daemon, "web", 3);
    let got = selected(&after);
    println!("{answers:?}, selected {got:?}");
    let sorted = |mut all: Vec<u64>| {
        all.sort_unstable();
        all
    };
    assert_eq!(sorted(answers.into_values().collect()), sorted(got.clone()));
    // Its queues have one place, so that some go elsewhere.
    let counted = Counters::difference(&before, &after);
    let elsewhere = ["owner_overloaded", "detour_candidate", "detour_owner", "detour_ready"];
    counted.assert_only(&["arrival_packet", "owner_taken"], &elsewhere);
    assert_eq!(counted.get("arrival_packet"), clients as i64);
    let (count, part) = (clients as f64, 1.0 / 3.0);
    let most = 6.0 * (count * part * (1.0 - part)).sqrt();
    assert!(got.iter().all(|it| (*it as f64 - count * part).abs() <= most), "{got:?}");

    for (arguments, says) in [
        (&["restart", "web"][..], "restart it where it was started"),
        (&["restart", "web/1"], "restart it where it was started"),
        (&["scale", "web", "5"], "in its own configuration"),
        (&["exec", "web", "--", "true"], "joins another service"),
    ] {
        let said = refused(&world, arguments);
        assert!(said.contains("that others have started") && said.contains(says), "{arguments:?}: {said}");
    }
    daemon.run(&["weight", "web/0", "3"]);
    let share: Vec<f64> = service(&daemon, "web", 3).workers.iter().map(|it| it.share).collect();
    assert!((share[0] - 0.6).abs() < 0.001 && (share[1] - 0.2).abs() < 0.001, "{share:?}");

    let said = daemon.run(&["drain", "web/1"]);
    assert!(said.contains("goes on without this socket"), "{said}");
    assert_eq!(tally(fewer(300)).len(), 2, "a drained socket gets nothing");
    assert_eq!(names(&service(&daemon, "web", 2)), ["web/0", "web/2"]);

    let said = daemon.run(&["release", "web"]);
    assert!(said.contains("web/0, web/2") && said.contains("the kernel chooses again"), "{said}");
    assert_eq!(tally(fewer(300)).len(), 3, "all three get something from the kernel");
    assert!(!alone.has_ended());
    assert!(daemon.status().services.iter().all(|service| service.name == "other"));
    let said = refused(&world, &["release", "other"]);
    assert!(said.contains("has sockets of its own"), "{said}");
    daemon.stop();
}

#[test]
fn what_cannot_be_adopted_is_refused_with_the_reason_and_left_as_it_is() {
    let world = World::new();
    let daemon = daemon(&world);
    let listen = ["--listen", "tcp://127.0.0.1:3000"];
    let refused = |whose: &[&str]| refused(&world, &[&["adopt", "web"], whose, &listen].concat());
    let alone = Alone::start(&shared(&world, &["alone"]));
    until("it to serve", || Http.ask().ok());
    let sleeping = Alone::start(&["sleep".to_owned(), "60".to_owned()]);
    let (pid, other) = (alone.pid().to_string(), sleeping.pid().to_string());
    for (whose, says) in [
        (&["--pid", &*pid][..], "bound without SO_REUSEPORT"),
        (&["--pid", &*other], "has no socket on tcp://127.0.0.1:3000; others have"),
        (&["--pid", "4194305"], "process 4194305 has ended"),
        (&["--pid-file", "/nothing/here"], "cannot read /nothing/here"),
        (&["--pid-file", "relative"], "not an absolute path"),
        (&["--unit", "no-such-thing.service"], "no cgroup of unit no-such-thing.service"),
        (&["--unit", "nginx"], "write its whole name"),
    ] {
        let said = refused(whose);
        assert!(said.contains(says), "{whose:?}: {said}");
    }
    let said =
        super::adopted::refused(&world, &["adopt", "web", "--any", "--listen", "tcp://127.0.0.1:3100"]);
    assert!(said.contains("belongs to service other"), "{said}");
    let said = super::adopted::refused(&world, &["adopt", "other", "--pid", &pid, listen[0], listen[1]]);
    assert!(said.contains("there is a service other already"), "{said}");
    assert!(daemon.status().services.iter().all(|service| service.name == "other"));
    assert!(ask_all(&[Http], 20).is_empty(), "it serves as before");
    daemon.stop();
}

#[test]
fn a_program_of_the_server_s_own_stays_unless_told_otherwise() {
    let world = World::new();
    let alone = Alone::start(&steers(&world, "now"));
    until("it to serve", || Greeting.ask().ok());
    let of = |socket: &str, clients: usize| BTreeMap::from([(format!("socket={socket}"), clients as u64)]);
    assert_eq!(tally(20), of("1", 20));
    let daemon = daemon(&world);
    let pid = alone.pid().to_string();
    let listen = "tcp://127.0.0.1:3000";
    let said = refused(&world, &["adopt", "web", "--pid", &pid, "--listen", listen]);
    assert!(said.contains("has a classic BPF program of its server's own"), "{said}");
    assert!(said.contains("--replace-program"), "{said}");
    assert_eq!(tally(20), of("1", 20), "its own program decides");
    adopt(&daemon, alone.pid(), &["--replace-program"]);
    service(&daemon, "web", 2);
    assert_eq!(tally(fewer(100)).len(), 2, "both get something");
    daemon.stop();
    drop(alone);

    // It attaches its own later: that is said, and left to it.
    let alone = Alone::start(&steers(&world, "later"));
    until("it to serve", || Greeting.ask().ok());
    let daemon = super::adopted::daemon(&world);
    adopt(&daemon, alone.pid(), &[]);
    service(&daemon, "web", 2);
    assert_eq!(tally(fewer(100)).len(), 2);
    signal(alone.pid(), Signal::SIGUSR1);
    until("it to be said", || {
        let lacks = service(&daemon, "web", 2).adopts?.lacks?;
        lacks.contains("has a classic BPF program of its server's own").then_some(())
    });
    assert_eq!(tally(20), of("1", 20), "its own program decides");
    let check = refused(&world, &["status", "web", "--check"]);
    assert!(check.contains("web does not adopt all"), "{check}");
    daemon.stop();
}

/// Sends so many questions, which a stopped process gets its share of.
fn send(clients: usize) -> Vec<Asked> {
    (0..clients).map(|_| Http.send().unwrap()).collect()
}

fn worker_of(service: &ServiceStatus, pid: i32) -> &WorkerStatus {
    service.workers.iter().find(|worker| worker.pid == Some(pid)).unwrap()
}

#[test]
fn what_waits_for_a_killed_process_goes_to_others_also_without_a_daemon() {
    let world = World::new();
    let start = || Alone::start(&shared(&world, &[]));
    let servers = [start(), start(), start()];
    let daemon = daemon(&world);
    until("three sockets", || {
        let adopted =
            Paths::of(&world).output(&["adopt", "web", "--any", "--listen", "tcp://127.0.0.1:3000"]);
        (adopted.status.success() || daemon.status().services.len() > 1).then_some(())
    });
    for (at, server) in servers.iter().enumerate() {
        let before = service(&daemon, "web", 3 - at);
        let all = freeze(server.pid());
        let asked = send(60);
        let queue = worker_of(&service(&daemon, "web", 3 - at), server.pid()).queue();
        assert!(at == 2 || queue > 5, "{queue} wait for {}", server.pid());
        if at == 2 {
            // Of the last one nothing can be handed over.
            drop(asked);
            kill(&all);
            service(&daemon, "web", 0);
            break;
        }
        kill(&all);
        let failed: Vec<String> = asked.into_iter().filter_map(|it| it.answer().err()).collect();
        println!("killed with {queue} in its queue: {} lost", failed.len());
        assert!(failed.is_empty(), "{failed:?}\n{}", daemon.log());
        let after = service(&daemon, "web", 2 - at);
        let counted = Counters::difference(&before, &after);
        counted.assert_sums();
    }
    daemon.says("nobody has a socket on tcp://127.0.0.1:3000");
    // The next ones are found, and steered.
    let servers = [start(), start()];
    service(&daemon, "web", 2);
    daemon.kill();
    let all = freeze(servers[0].pid());
    let asked = send(60);
    kill(&all);
    let failed: Vec<String> = asked.into_iter().filter_map(|it| it.answer().err()).collect();
    assert!(failed.is_empty(), "without a daemon: {failed:?}");
    // The next daemon goes on with what is left, and ends its own worker.
    let daemon = super::adopted::daemon(&world);
    service(&daemon, "web", 1);
    daemon.stop();
}

#[test]
fn a_stopped_process_is_avoided_and_keeps_what_waits_for_it() {
    let world = World::new();
    let servers: Vec<Alone> = (0..3).map(|_| Alone::start(&shared(&world, &[]))).collect();
    let config = Config::service("web").listen("tcp://127.0.0.1:3000").toml("adopt", "{ any = true }".into());
    let daemon = Daemon::with(&world, &config);
    service(&daemon, "web", 3);
    let pid = servers[0].pid();
    let all = freeze(pid);
    let waiting = send(60);
    until("it to be seen", || {
        let web = service_of(&daemon);
        (worker_of(&web, pid).state == "stalled").then_some(())
    });
    let (before, queue) = (service_of(&daemon), worker_of(&service_of(&daemon), pid).queue());
    assert!(ask_all(&[Http], fewer(100)).is_empty());
    let after = service_of(&daemon);
    assert_eq!(worker_of(&after, pid).queue(), queue, "nothing new comes, and nothing is taken away");
    assert!(Counters::difference(&before, &after).get("owner_ejected") > 0);
    all.iter().for_each(|pid| signal(*pid, Signal::SIGCONT));
    let failed: Vec<String> = waiting.into_iter().filter_map(|it| it.answer().err()).collect();
    assert!(failed.is_empty(), "{failed:?}\n{}", daemon.log());
    service(&daemon, "web", 3);
    daemon.stop();
}

/// granian sets SO_REUSEPORT by itself, and its main process keeps a socket on which it does not listen.
#[test]
fn granian_is_adopted_with_all_its_processes_and_through_its_own_reload() {
    let world = World::new();
    let alone = Alone::start(&granian(&world, "asgi", 2));
    until("it to serve", || Http.ask().ok());
    let daemon = daemon(&world);
    until("it to be adopted", || {
        let all = ["adopt", "web", "--pid", &alone.pid().to_string(), "--listen", "tcp://127.0.0.1:3000"];
        Paths::of(&world).output(&all).status.success().then_some(())
    });
    let before = service(&daemon, "web", 2);
    assert!(ask_all(&[Http], fewer(200)).is_empty());
    let got = selected(&service(&daemon, "web", 2));
    assert!(got.iter().all(|got| *got > 0) && got.iter().sum::<u64>() == fewer(200) as u64, "{got:?}");
    let old: Vec<Option<i32>> = before.workers.iter().map(|worker| worker.pid).collect();
    let ((), failed) = beside(asking, || {
        signal(alone.pid(), Signal::SIGHUP);
        until("its new processes alone", || {
            let now = service(&daemon, "web", 2);
            now.workers.iter().all(|worker| !old.contains(&worker.pid)).then_some(())
        });
    });
    assert!(failed.is_empty(), "{failed:?}\n{}", daemon.log());
    daemon.stop();
}

fn service_of(daemon: &Daemon) -> ServiceStatus {
    daemon.status().services.into_iter().find(|service| service.name == "web").unwrap()
}

#[test]
fn sockets_of_a_process_for_several_listeners_are_one_worker_and_flows_stay() {
    let world = World::new();
    let start = || Alone::start(&shared(&world, &["udp"]));
    let mut servers = vec![start(), start()];
    let config = Config::service("web").listen("tcp://127.0.0.1:3000").listen("udp://127.0.0.1:3000");
    let daemon = Daemon::with(&world, &config.toml("adopt", "{ any = true }".into()));
    let web = service(&daemon, "web", 2);
    for worker in &web.workers {
        let at: Vec<&str> = worker.sockets.iter().map(|it| &*it.listen).collect();
        assert_eq!(at, ["tcp://127.0.0.1:3000", "udp://127.0.0.1:3000"], "{worker:?}");
        assert!(servers.iter().any(|server| Some(server.pid()) == worker.pid), "{worker:?}");
    }
    let flows: Vec<UdpSocket> = (0..fewer(200))
        .map(|_| {
            let flow = UdpSocket::bind("127.0.0.1:0").unwrap();
            flow.connect(to()).unwrap();
            flow.set_read_timeout(Some(at_most(Duration::from_secs(5)))).unwrap();
            flow
        })
        .collect();
    let ask = || -> Vec<String> {
        let asked = flows.iter().map(|flow| {
            flow.send(b"x").unwrap();
            let mut answer = [0; 64];
            let length = flow.recv(&mut answer).unwrap();
            String::from_utf8_lossy(&answer[..length]).into_owned()
        });
        asked.collect()
    };
    let first = ask();
    servers.push(start());
    service(&daemon, "web", 3);
    assert_eq!(ask(), first, "live flows stay where they are when a process comes");
    assert!(ask_all(&[Http], 50).is_empty());
    daemon.stop();
    drop(servers);
}
