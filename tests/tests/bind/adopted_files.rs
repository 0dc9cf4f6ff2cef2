//! `adopt` in a file: nginx through its reloads, and from one daemon to the next.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::background::beside;
use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, signal, throughout, until};
use testkit::world::World;

use crate::adopted::service;
use crate::family::{Alone, family};
use crate::programs::{nginx, shared};
use crate::protocol::Protocol::Http;
use crate::protocol::ask_all;
use crate::row::names;

/// nginx that runs by itself, and its configuration.
struct Nginx {
    alone: Alone,
    file: PathBuf,
}

impl Nginx {
    fn start(world: &World, processes: usize) -> Self {
        let alone = Alone::start(&nginx(world, " reuseport", processes));
        until("nginx to serve", || Http.ask().ok());
        let file = world.path(&format!("nginx-{}.conf", alone.pid()));
        Self { alone, file }
    }

    fn pid_file(&self, world: &World) -> String {
        world.path(&format!("nginx-{}.pid", self.alone.pid())).display().to_string()
    }

    /// Reloads it with so many processes, and waits until there are so many.
    fn reload(&self, processes: usize) {
        let text = fs::read_to_string(&self.file).unwrap();
        let lines = text.lines().map(|line| match line.strip_prefix("worker_processes ") {
            Some(_) => format!("worker_processes {processes};\n"),
            None => format!("{line}\n"),
        });
        fs::write(&self.file, lines.collect::<String>()).unwrap();
        let before = family(self.alone.pid());
        signal(self.alone.pid(), Signal::SIGHUP);
        until("its new processes alone", || {
            let now = family(self.alone.pid());
            (now.len() == processes + 1 && now[1..].iter().all(|pid| !before.contains(pid))).then_some(())
        });
    }
}

fn adopting(pid_file: &str) -> Config {
    let adopt = format!("{{ pid_file = \"{pid_file}\" }}");
    Config::service("web").listen("tcp://127.0.0.1:3000").toml("adopt", adopt)
}

/// How many of so many requests a second fail while `act` goes on: (asked, failed).
fn under_load(rate: u32, act: impl FnOnce()) -> (usize, Vec<String>) {
    const CLIENTS: u32 = 4;
    let load = |over: &AtomicBool| {
        std::thread::scope(|scope| {
            let client = || {
                let (begun, mut asked, mut failed) = (Instant::now(), 0_u32, Vec::new());
                while !over.load(Ordering::Relaxed) {
                    failed.extend(Http.ask().err());
                    asked += 1;
                    let due = begun + Duration::from_secs(1) * asked * CLIENTS / rate;
                    let left = due.saturating_duration_since(Instant::now());
                    std::thread::sleep(left); // sleep: keeps to the rate
                }
                (asked as usize, failed)
            };
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
            clients.into_iter().map(|client| client.join().unwrap()).fold((0, Vec::new()), |mut all, one| {
                all.0 += one.0;
                all.1.extend(one.1);
                all
            })
        })
    };
    beside(load, act).1
}

/// Requests a second; `REUSEPORT_LB_REQUESTS` sets another number.
fn rate() -> u32 {
    std::env::var("REUSEPORT_LB_REQUESTS").ok().and_then(|rate| rate.parse().ok()).unwrap_or(1_000)
}

/// How often nginx is reloaded, with how many processes.
const RELOADS: [usize; 12] = [4, 2, 6, 3, 4, 2, 6, 3, 4, 2, 6, 3];

#[test]
fn nginx_is_reloaded_under_load_and_nobody_fails_where_plain_nginx_may_cut_some() {
    let world = World::new();
    let nginx = Nginx::start(&world, 3);
    let (asked, failed) = under_load(rate(), || RELOADS.iter().for_each(|it| nginx.reload(*it)));
    println!("plain: {} of {asked} failed", failed.len());
    let daemon = Daemon::with(&world, &adopting(&nginx.pid_file(&world)));
    let before = service(&daemon, "web", 3);
    let (asked, failed) = under_load(rate(), || {
        for processes in RELOADS {
            nginx.reload(processes);
            let web = service(&daemon, "web", processes);
            // A socket's worker is the process that polls it.
            let mut polling: Vec<i32> = web.workers.iter().filter_map(|it| it.pid).collect();
            polling.sort_unstable();
            polling.dedup();
            let mut own = family(nginx.alone.pid()).split_off(1);
            own.sort_unstable();
            if polling != own {
                until("each to be its own process's", || {
                    let web = service(&daemon, "web", processes);
                    web.workers.iter().all(|it| it.pid.is_some_and(|pid| own.contains(&pid))).then_some(())
                });
            }
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
    let (_, failed) = under_load(500, || nginx.reload(4));
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
