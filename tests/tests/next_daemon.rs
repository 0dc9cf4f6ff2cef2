//! Whatever an earlier daemon left half done, the next one starts, serves, and applies its file.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;

use nix::sys::signal::Signal;
use reuseport_lb_client::api::ServiceStatus;
use testkit::client::ask;
use testkit::config::Config;
use testkit::daemon::{Daemon, Paths, is_alive, settled, signal, until};
use testkit::guests::Guests;
use testkit::load::{Ending, Load};
use testkit::server::words;
use testkit::world::World;

fn to() -> SocketAddr {
    "127.0.0.1:3000".parse().unwrap()
}

fn web(workers: usize) -> Config {
    Config::web().workers(workers)
}

/// A service whose releases differ by their last argument.
fn released(world: &World, workers: usize, release: &str) -> Config {
    web(workers).set("ready", "notify").server(world, &format!("--ready notify --name {release}"))
}

/// The release of a process of [`released`].
fn release(pid: i32) -> String {
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.trim_end_matches('\0').rsplit('\0').next().unwrap_or_default().to_owned()
}

fn pids(service: &ServiceStatus) -> Vec<i32> {
    service.workers.iter().filter_map(|worker| worker.pid).collect()
}

/// Waits until there are just these workers, all of them ready.
fn all_ready(daemon: &Daemon, names: &[&str]) -> ServiceStatus {
    until("all workers to be ready", || {
        let service = daemon.service();
        let there: Vec<&str> = service.workers.iter().map(|it| it.name.as_str()).collect();
        (there == names && settled(&service)).then_some(service)
    })
}

const THREE: [&str; 3] = ["web/0", "web/1", "web/2"];

#[test]
fn a_stop_that_was_cut_off_leaves_a_service_with_all_its_workers() {
    let world = World::new();
    let config = web(3).set("drain_timeout", "3s");
    let daemon = Daemon::with(&world, &config);
    // A request of which only a part came: its worker waits for the rest.
    let mut open: Vec<TcpStream> = (0..30).map(|_| TcpStream::connect(to()).unwrap()).collect();
    open.iter_mut().for_each(|stream| stream.write_all(b"GET / HT").unwrap());
    until("all to be accepted", || {
        daemon.service().workers.iter().all(|it| it.sockets[0].queue == 0).then_some(())
    });
    let old = pids(&daemon.service());
    signal(daemon.pid(), Signal::SIGTERM);
    until("all to leave", || daemon.service().workers.iter().all(|it| it.state == "draining").then_some(()));
    daemon.kill();

    let daemon = Daemon::with(&world, &config);
    let load = Load::to(to()).clients(4).kept(0).start();
    let after = all_ready(&daemon, &THREE);
    assert_eq!(after.wanted, 3);
    assert!(pids(&after).iter().all(|pid| !old.contains(pid)), "{after:?}");
    assert_eq!(after.workers.iter().map(|it| it.buckets).sum::<u32>(), 65536);
    assert!(old.iter().all(|pid| !is_alive(*pid)), "what was leaving has finished");
    let report = load.end();
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert!(report.requests > 0);
    drop(open);
    daemon.stop();
}

/// Kills the daemon when a part of the workers has release `y` in place of `x`, and starts one with `next`.
fn cut_off_in_a_reload(world: &World, workers: usize, next: &Config) -> Daemon {
    let daemon = Daemon::with(world, &released(world, workers, "x"));
    released(world, workers, "y").write(world);
    let mut reload = daemon.paths().command(&["reload"]).spawn().unwrap();
    until("a part to be replaced", || {
        let releases = releases_of(&daemon.service());
        (releases.contains(&"x".into()) && releases.iter().filter(|it| *it == "y").count() >= 2).then_some(())
    });
    daemon.kill();
    let _ = reload.wait();
    Daemon::with(world, next)
}

fn releases_of(service: &ServiceStatus) -> Vec<String> {
    pids(service).into_iter().map(release).collect()
}

#[test]
fn a_reload_that_was_cut_off_refuses_no_other_file() {
    let world = World::new();
    let daemon = cut_off_in_a_reload(&world, 3, &released(&world, 3, "z"));
    let load = Load::to(to()).clients(4).kept(0).start();
    until("the third release", || (releases_of(&daemon.service()) == ["z", "z", "z"]).then_some(()));
    all_ready(&daemon, &THREE);
    let report = load.end();
    println!("{report}");
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    daemon.stop();
}

#[test]
fn a_reload_that_was_cut_off_goes_on_with_another_number_of_workers() {
    let world = World::new();
    let daemon = cut_off_in_a_reload(&world, 3, &released(&world, 4, "y"));
    until("the second release", || (releases_of(&daemon.service()) == ["y", "y", "y", "y"]).then_some(()));
    all_ready(&daemon, &["web/0", "web/1", "web/2", "web/3"]);
    daemon.stop();
}

#[test]
fn a_rollback_of_a_reload_that_was_cut_off_replaces_only_what_was_replaced() {
    let world = World::new();
    let daemon = cut_off_in_a_reload(&world, 4, &released(&world, 4, "x"));
    let kept: Vec<i32> = pids(&daemon.service()).into_iter().filter(|pid| release(*pid) == "x").collect();
    assert!(!kept.is_empty());
    until("the first release again", || {
        (releases_of(&daemon.service()) == ["x", "x", "x", "x"]).then_some(())
    });
    let after = all_ready(&daemon, &["web/0", "web/1", "web/2", "web/3"]);
    let after = pids(&after);
    assert!(kept.iter().any(|pid| after.contains(pid)), "{kept:?} {after:?}");
    daemon.stop();
}

/// As when a container is started again: nothing is pinned any more.
fn mount_again(world: &World) {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let nothing: Option<&str> = None;
    umount2(&world.bpffs(), MntFlags::MNT_DETACH).unwrap();
    mount(Some("bpf"), &world.bpffs(), Some("bpf"), MsFlags::empty(), nothing).unwrap();
}

#[test]
fn pins_that_are_gone_are_found_again_through_the_program() {
    let world = World::new();
    let config = web(3);
    let daemon = Daemon::with(&world, &config);
    let before = daemon.service();
    let load = Load::to(to()).clients(8).kept(40).start();
    daemon.kill();
    mount_again(&world);
    let daemon = Daemon::with(&world, &config);
    let after = all_ready(&daemon, &THREE);
    assert_eq!(pids(&after), pids(&before));
    assert_eq!(after.moved, before.moved);
    let report = load.end();
    println!("{report}");
    assert!(report.failed.is_empty() && report.ended.is_empty(), "{report}");
    daemon.stop();
}

/// As if an earlier version, which noted no programs, had written it.
fn forget_programs(world: &World) {
    for file in state_files(world) {
        let text = fs::read_to_string(&file).unwrap();
        let (_, json) = text.split_once('\n').unwrap();
        let mut state: serde_json::Value = serde_json::from_str(json).unwrap();
        for door in state["doors"].as_array_mut().unwrap() {
            assert!(door.as_object_mut().unwrap().remove("program").is_some());
        }
        let json = state.to_string();
        fs::write(&file, format!("{:016x}\n{json}", xxhash_rust::xxh3::xxh3_64(json.as_bytes()))).unwrap();
    }
}

#[test]
fn workers_that_cannot_be_taken_over_end_when_there_are_others() {
    let world = World::new();
    let config = web(3);
    let daemon = Daemon::with(&world, &config);
    let old = daemon.workers();
    let load = Load::to(to()).clients(8).kept(40).start();
    daemon.kill();
    forget_programs(&world);
    mount_again(&world);
    let daemon = Daemon::with(&world, &config);
    until("the old workers to be gone", || (!old.iter().any(|pid| is_alive(*pid))).then_some(()));
    all_ready(&daemon, &THREE);
    let report = load.end();
    println!("{report}");
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert!(report.ended.iter().all(|ended| ended.how != Ending::Reset), "{:?}", report.ended);
    daemon.stop();
}

#[test]
fn workers_that_wait_for_others_to_be_there_are_not_forgotten_when_the_daemon_ends() {
    for killed in [true, false] {
        let world = World::new();
        let config = web(3);
        let daemon = Daemon::with(&world, &config);
        let old = daemon.workers();
        daemon.kill();
        forget_programs(&world);
        mount_again(&world);
        // A release that is not ready for long.
        web(1).set("ready", "notify").command(&["sleep", "1000"]).write(&world);
        let run = Paths::of(&world).run();
        let daemon = Daemon::start_until(&world, run, |service| !service.workers.is_empty());
        until("its state to be written", || state_files(&world)[0].exists().then_some(()));
        assert!(old.iter().all(|pid| is_alive(*pid)), "they serve until there are others");
        let state = world.path("run").join("state");
        fs::remove_dir_all(&state).unwrap();
        until("what is known of both to be written again", || {
            (fs::read_dir(&state).ok()?.count() == 4).then_some(())
        });
        if killed {
            daemon.kill();
        } else {
            daemon.stop();
            until("the old workers to be gone", || (!old.iter().any(|pid| is_alive(*pid))).then_some(()));
        }
        let daemon = Daemon::with(&world, &config);
        until("the old workers to be gone", || (!old.iter().any(|pid| is_alive(*pid))).then_some(()));
        all_ready(&daemon, &THREE);
        assert_eq!(daemon.service().groups[0].strangers, Some(0));
        daemon.stop();
        assert!(!world.path("run").join("state").exists(), "nothing is left");
    }
}

/// Its workers are ready once there is a file `gate`.
fn gated(world: &World, config: Config) -> Config {
    let flags = format!("--gate {} --ready notify", world.path("gate").display());
    config.set("ready", "notify").server(world, &flags)
}

/// Starts the daemon again with a file; as soon as it answers.
fn start_anyhow(world: &World, config: &Config) -> Daemon {
    config.write(world);
    Daemon::start_until(world, Paths::of(world).run(), |_| true)
}

#[test]
fn a_group_whose_program_never_decided_is_made_anew_with_its_workers() {
    let world = World::new();
    let api = Config::service("api").listen("tcp://127.0.0.1:3001").workers(2);
    // Both have the second address for a while: api does not decide there before it is ready.
    let config = web(3).and(gated(&world, api));
    let daemon = Daemon::with(&world, &web(3).listen("tcp://127.0.0.1:3001"));
    let load = Load::to("127.0.0.1:3001".parse().unwrap()).clients(4).kept(10).start();
    config.write(&world);
    let mut reload = daemon.paths().command(&["reload"]).spawn().unwrap();
    let workers = |daemon: &Daemon| {
        let services = daemon.status().services;
        let workers = services.iter().flat_map(|it| &it.workers);
        workers.map(|it| (it.name.clone(), it.pid)).collect::<BTreeMap<_, _>>()
    };
    until("those of both services", || {
        let workers = workers(&daemon);
        (workers.len() == 5 && workers.values().all(Option::is_some)).then_some(())
    });
    let before = workers(&daemon);
    daemon.kill();
    let _ = reload.wait();
    mount_again(&world);
    let daemon = start_anyhow(&world, &config);
    let taken_over = ["service=\"api\" workers=2", "service=\"web\" workers=3"];
    until("all to be taken over", || {
        let log = daemon.log();
        taken_over
            .iter()
            .all(|line| log.contains(&format!("taken over from the daemon before {line}")))
            .then_some(())
    });
    assert_eq!(workers(&daemon), before);
    let _ = world.file("gate", "");
    until("the other service to decide", || {
        daemon.log().contains("takes tcp://127.0.0.1:3001 over service=\"api\" from=\"web\"").then_some(())
    });
    let answers: BTreeSet<String> =
        (0..40).map(|_| ask("127.0.0.1:3001".parse().unwrap()).unwrap().worker).collect();
    assert_eq!(answers.into_iter().collect::<Vec<_>>(), ["api/0", "api/1"]);
    let of_api = |mut all: BTreeMap<String, Option<i32>>| {
        all.retain(|name, _| name.starts_with("api/"));
        all
    };
    assert_eq!(of_api(workers(&daemon)), of_api(before));
    let report = load.end();
    println!("{report}");
    assert!(report.failed.is_empty(), "{report}");
    assert!(report.requests > 0);
    daemon.stop();
}

#[test]
fn old_workers_serve_until_the_services_that_have_their_address_are_ready() {
    for how in ["without programs", "without states", "without a runtime directory"] {
        println!("{how}");
        let world = World::new();
        let daemon = Daemon::with(&world, &web(3));
        let old = daemon.workers();
        let load = Load::to(to()).clients(4).kept(10).start();
        daemon.kill();
        match how {
            "without programs" => {
                forget_programs(&world);
                mount_again(&world);
            }
            "without states" => {
                state_files(&world).iter().for_each(|file| fs::write(file, "damaged").unwrap())
            }
            _ => fs::remove_dir_all(world.path("run")).unwrap(),
        }
        // Under another name, and not ready for a while.
        let next = gated(&world, Config::service("www").listen("tcp://127.0.0.1:3000").workers(2));
        let daemon = start_anyhow(&world, &next);
        until("the new ones to be there", || {
            let service = daemon.status().services.into_iter().find(|it| it.name == "www")?;
            service.workers.iter().all(|it| it.pid.is_some() && it.state == "starting").then_some(())
        });
        for _ in 0..40 {
            let answer = ask(to()).unwrap();
            assert!(answer.worker.starts_with("web/"), "{answer:?}");
        }
        assert!(old.iter().all(|pid| is_alive(*pid)), "they serve until there are others");
        let _ = world.file("gate", "");
        until("the old workers to be gone", || (!old.iter().any(|pid| is_alive(*pid))).then_some(()));
        all_ready(&daemon, &["www/0", "www/1"]);
        for _ in 0..40 {
            let answer = ask(to()).unwrap();
            assert!(answer.worker.starts_with("www/"), "{answer:?}");
        }
        assert_eq!(daemon.service().groups[0].strangers, Some(0));
        let report = load.end();
        println!("{report}");
        assert!(report.failed.is_empty(), "{report}");
        assert!(report.ended.iter().all(|ended| ended.how != Ending::Reset), "{:?}", report.ended);
        daemon.stop();
    }
}

fn state_files(world: &World) -> Vec<PathBuf> {
    ["state", "copy"].map(|kind| world.path("run").join(format!("state/web.{kind}"))).into()
}

#[test]
fn a_joined_worker_that_became_ready_without_a_daemon_is_seen_to_wait_for_work() {
    let world = World::new();
    let config = Config::web().set("user", "nobody").set("ready", "notify");
    let daemon = Daemon::with(&world, &config);
    // It never says anything: as if nobody had heard it.
    let go = world.path("go");
    let words = words(&world, &format!("--gate {}", go.display()));
    let guest = Guests::new(&world).exec(&["web"], &words);
    until("it to join", || {
        guest.worker(&daemon.service()).map(|worker| assert_eq!(worker.state, "starting"))
    });
    daemon.kill();
    fs::write(&go, "").unwrap();
    let daemon = Daemon::start_until(&world, Paths::of(&world).run(), |_| true);
    let worker = until("it to be ready", || {
        let service = daemon.service();
        guest.worker(&service).filter(|worker| worker.state == "ready" && worker.buckets == 65536).cloned()
    });
    assert!(worker.joined);
    assert_eq!(ask(to()).unwrap().pid, guest.pid());
    daemon.stop();
}
