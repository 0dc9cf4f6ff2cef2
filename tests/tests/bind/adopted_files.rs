//! `adopt` in a file: nginx through its reloads, and from one daemon to the next.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, throughout, until};
use testkit::patience::fewer;
use testkit::world::World;

use crate::adopted::service;
use crate::family::{Alone, family, kill};
use crate::programs::{erlang, knot, nginx, shared};
use crate::protocol::Protocol::{self, Http};
use crate::protocol::ask_all;
use crate::reloads::{RELOADS, rate, reload, under_load};
use crate::row::names;

/// nginx that runs by itself.
struct Nginx {
    alone: Alone,
}

impl Nginx {
    fn start(world: &World, processes: usize) -> Self {
        let alone = Alone::start(&nginx(world, " reuseport", processes));
        until("nginx to serve", || Http.ask().ok());
        Self { alone }
    }

    fn pid_file(&self, world: &World) -> String {
        world.path(&format!("nginx-{}.pid", self.alone.pid())).display().to_string()
    }
}

fn adopting(pid_file: &str) -> Config {
    let adopt = format!("{{ pid_file = \"{pid_file}\" }}");
    Config::service("web").listen("tcp://127.0.0.1:3000").toml("adopt", adopt)
}

#[test]
fn nginx_is_reloaded_under_load_and_nobody_fails_where_plain_nginx_may_cut_some() {
    let world = World::new();
    let plain = Nginx::start(&world, 3);
    let main = plain.alone.pid();
    let (asked, failed) = under_load(rate(), || RELOADS.iter().for_each(|it| reload(&world, main, *it)));
    println!("plain: {} of {asked} failed", failed.len());
    let daemon = Daemon::with(&world, &adopting(&plain.pid_file(&world)));
    let before = service(&daemon, "web", 3);
    let (asked, failed) = under_load(rate(), || {
        for processes in RELOADS {
            reload(&world, main, processes);
            // A socket's worker is the process that polls it.
            let mut own = family(main).split_off(1);
            own.sort_unstable();
            until("each to be its own process's", || {
                let web = service(&daemon, "web", processes);
                let mut polling: Vec<i32> = web.workers.iter().filter_map(|it| it.pid).collect();
                polling.sort_unstable();
                (polling == own).then_some(())
            });
        }
    });
    println!("adopted: {} of {asked} failed", failed.len());
    assert!(failed.is_empty(), "{failed:?}\n{}", daemon.log());
    let after = service(&daemon, "web", 3);
    let counted = Counters::difference(&before, &after);
    counted.assert_sums();
    println!("{counted:?}");
    assert_eq!(counted.get("refused"), 0);
    daemon.stop();
    assert!(ask_all(&[Http], 50).is_empty(), "the kernel chooses again");
    drop(plain);

    let config = Config::web().workers(1).set("sockets", "bind").set("stop_signal", "QUIT");
    let daemon = Daemon::with(&world, &config.command(&nginx(&world, " reuseport", 3)));
    let main = service(&daemon, "web", 3).workers[0].pid.unwrap();
    let (asked, failed) = under_load(rate(), || {
        for processes in RELOADS {
            reload(&world, main, processes);
            service(&daemon, "web", processes);
        }
    });
    println!("bind: {} of {asked} failed", failed.len());
    assert!(failed.is_empty(), "{failed:?}\n{}", daemon.log());
    daemon.stop();
}

#[test]
fn processes_that_outlive_their_main_one_are_steered_on() {
    let world = World::new();
    let nginx = Nginx::start(&world, 2);
    let daemon = Daemon::with(&world, &adopting(&nginx.pid_file(&world)));
    let before = service(&daemon, "web", 2);
    let own = family(nginx.alone.pid()).split_off(1);
    kill(&[nginx.alone.pid()]);
    until("it to be said", || service(&daemon, "web", 2).adopts?.lacks?.contains("has ended").then_some(()));
    let failed = ask_all(&[Http], 100);
    assert!(failed.is_empty(), "{failed:?}");
    let after = service(&daemon, "web", 2);
    assert_eq!(Counters::difference(&before, &after), Counters::all_taken(100));
    kill(&own);
    service(&daemon, "web", 0);
    daemon.stop();
}

/// A server whose sockets share an address by themselves has so many workers, which all get their part.
fn is_adopted(command: fn(&World) -> Vec<String>, protocol: Protocol, workers: usize) {
    let world = World::new();
    let alone = Alone::start(&command(&world));
    until("it to serve", || protocol.ask().ok());
    let config = Config::service("web").listen(&protocol.url());
    let daemon = Daemon::with(&world, &config.toml("adopt", format!("{{ pid = {} }}", alone.pid())));
    let before = service(&daemon, "web", workers);
    assert!(before.workers.iter().all(|worker| worker.pid == Some(alone.pid())), "{before:?}");
    let clients = fewer(300);
    let failed = ask_all(&[protocol], clients);
    assert!(failed.is_empty(), "{failed:?}");
    let after = service(&daemon, "web", workers);
    assert_eq!(Counters::difference(&before, &after), Counters::all_taken(clients as u64));
    let got: Vec<u64> = after.workers.iter().map(|it| it.sockets[0].selected).collect();
    let (count, part) = (clients as f64, 1.0 / workers as f64);
    let most = 6.0 * (count * part * (1.0 - part)).sqrt();
    assert!(got.iter().all(|it| (*it as f64 - count * part).abs() <= most), "{got:?}");
    daemon.stop();
}

#[test]
fn listeners_of_erlang_are_adopted() {
    is_adopted(erlang, Protocol::Http, 2);
}

#[test]
fn threads_of_knot_are_adopted() {
    is_adopted(|world| knot(world, 3), Protocol::Dns, 3);
}

#[test]
fn the_next_daemon_finds_what_came_and_went_meanwhile() {
    let world = World::new();
    let nginx = Nginx::start(&world, 2);
    let config = adopting(&nginx.pid_file(&world));
    let daemon = Daemon::with(&world, &config);
    let before = service(&daemon, "web", 2);
    daemon.kill();
    assert!(ask_all(&[Http], 100).is_empty(), "without a daemon");
    let daemon = Daemon::with(&world, &config);
    let after = until("their processes to be found", || {
        let web = service(&daemon, "web", 2);
        web.workers.iter().all(|worker| worker.pid.is_some()).then_some(web)
    });
    let of = |service: &reuseport_lb_client::api::ServiceStatus| {
        let worker = |it: &reuseport_lb_client::api::WorkerStatus| {
            (it.name.clone(), it.slot, it.pid, it.buckets, it.sockets[0].cookie)
        };
        service.workers.iter().map(worker).collect::<Vec<_>>()
    };
    assert_eq!(of(&after), of(&before), "nothing has moved");
    assert_eq!(after.moved, before.moved);
    let counted = Counters::difference(&before, &after);
    assert_eq!(counted, Counters::all_taken(100), "the program went on");

    let drained = after.workers[1].name.clone();
    daemon.run(&["drain", &drained]);
    daemon.kill();
    let (_, failed) = under_load(500, || reload(&world, nginx.alone.pid(), 4));
    assert!(failed.is_empty(), "reloaded without a daemon: {failed:?}");
    let daemon = Daemon::with(&world, &config);
    let web = service(&daemon, "web", 3);
    assert_eq!(names(&web), ["web/0", "web/1", "web/2"], "what was drained stays so, its socket is open");
    assert!(ask_all(&[Http], 100).is_empty());
    daemon.stop();
}

#[test]
fn what_was_adopted_by_command_stays_so_until_it_is_released() {
    let world = World::new();
    let alone = Alone::start(&shared(&world, &[]));
    until("it to serve", || Http.ask().ok());
    let other = Config::service("other").listen("tcp://127.0.0.1:3100").workers(1);
    let daemon = Daemon::with(&world, &other);
    let pid = alone.pid().to_string();
    daemon.run(&["adopt", "web", "--pid", &pid, "--listen", "tcp://127.0.0.1:3000"]);
    other.clone().workers(2).write(&world);
    let said = daemon.run(&["reload"]);
    assert!(said.contains("web: not changed") && !said.contains("ended"), "{said}");
    service(&daemon, "web", 1);
    daemon.kill();
    let daemon = Daemon::with(&world, &other);
    service(&daemon, "web", 1);
    // A file cannot take its address away.
    other.clone().listen("tcp://127.0.0.1:3000").write(&world);
    let refused = testkit::daemon::Paths::of(&world).output(&["reload"]);
    let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.contains("belongs to service web, which was adopted by command"), "{refused}");
    daemon.run(&["release", "web"]);
    let said = daemon.run(&["reload"]);
    assert!(said.contains("tcp://127.0.0.1:3000 added"), "{said}");
    daemon.stop();
}

/// The cgroup of a unit, made for a test.
struct Unit(PathBuf);

impl Unit {
    fn make() -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let root =
            if root.join("cgroup.controllers").exists() { root.to_owned() } else { root.join("unified") };
        let path = root.join(format!("rlb-test-{}.service", std::process::id()));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(path)
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // Its processes have ended, or are in it still.
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_unit_is_found_by_its_cgroup() {
    let world = World::new();
    let unit = Unit::make();
    let inside = Alone::start(&shared(&world, &[]));
    fs::write(unit.0.join("cgroup.procs"), inside.pid().to_string()).unwrap();
    let outside = Alone::start(&shared(&world, &[]));
    until("both to serve", || Http.ask().ok());
    let name = unit.0.file_name().unwrap().to_str().unwrap();
    let config = Config::service("web").listen("tcp://127.0.0.1:3000");
    let daemon = Daemon::with(&world, &config.toml("adopt", format!("{{ unit = \"{name}\" }}")));
    let web = service(&daemon, "web", 1);
    assert_eq!(web.workers[0].pid, Some(inside.pid()));
    until("the other to be seen", || {
        (service(&daemon, "web", 1).groups[0].strangers == Some(1)).then_some(())
    });
    let pid = format!("pid={}", inside.pid());
    assert!((0..50).all(|_| Http.ask().unwrap().contains(&pid)), "the other gets nothing");
    // Without the unit, the kernel chooses among the others.
    drop(inside);
    service(&daemon, "web", 0);
    let before = service(&daemon, "web", 0);
    let pid = format!("pid={}", outside.pid());
    assert!((0..50).all(|_| Http.ask().unwrap().contains(&pid)));
    let counted = Counters::difference(&before, &service(&daemon, "web", 0));
    assert_eq!(counted.get("detour_kernel"), 50, "{counted:?}");
    throughout(Duration::from_millis(100), || assert!(Http.ask().is_ok()));
    daemon.stop();
}
