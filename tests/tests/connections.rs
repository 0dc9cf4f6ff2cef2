//! Live connections: what the kernel program counts is what the workers have, whatever happens to both.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use aya::maps::MapInfo;
use aya::programs::{ProgramInfo, loaded_programs};
use nix::sys::signal::Signal;
use reuseport_lb_client::api::ServiceStatus;
use testkit::client::Connection;
use testkit::config::Config;
use testkit::daemon::{Daemon, Paths, is_alive, settled, signal, until};
use testkit::fault::{Dice, times};
use testkit::patience::fewer;
use testkit::said::said;
use testkit::world::World;

/// Name of the program that counts.
const PROGRAM: &str = "rlb_connections";

fn to() -> SocketAddr {
    "127.0.0.1:3000".parse().unwrap()
}

/// A service whose workers keep connections, and count them.
fn web(world: &World) -> Config {
    Config::web().workers(4).server(world, "--wait keep").toml("count_connections", "true".into())
}

/// Inodes of the TCP sockets of the network namespace of a process that are no listeners.
fn connections(pid: i32) -> BTreeSet<String> {
    let lines = |family: &str| fs::read_to_string(format!("/proc/{pid}/net/{family}")).unwrap_or_default();
    let all = ["tcp", "tcp6"].map(lines).concat();
    let fields = all.lines().map(|line| line.split_whitespace().collect::<Vec<&str>>());
    let open = fields.filter(|it| it.len() > 9 && it[3] != "0A" && it[9] != "0");
    open.map(|it| it[9].to_owned()).collect()
}

/// How many connections a process has accepted and not closed, by its descriptors.
fn accepted(pid: i32) -> u64 {
    let all = connections(pid);
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let sockets = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    let inode = |link: PathBuf| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned);
    sockets.filter_map(inode).filter(|inode| all.contains(inode)).count() as u64
}

/// What is counted and what there is, for each worker: connections that it has accepted, and those that wait.
fn both(service: &ServiceStatus) -> Vec<(String, Option<u64>, u64)> {
    let worker = |it: &reuseport_lb_client::api::WorkerStatus| {
        let there = it.pid.map_or(0, accepted) + it.queue();
        (it.name.clone(), it.connections(), there)
    };
    service.workers.iter().map(worker).collect()
}

/// Waits until what is counted is what there is, for all workers; returns how many that are.
fn agree(daemon: &Daemon) -> u64 {
    until("what is counted to be what there is", || {
        let service = daemon.service();
        let both = both(&service);
        let same = both.iter().all(|(_, counted, there)| *counted == Some(*there));
        if !same {
            println!("{both:?}");
        }
        same.then(|| both.iter().map(|(.., there)| there).sum())
    })
}

/// The id of the loaded program that counts into accounts which are pinned here.
fn counting(accounts: &Path) -> Option<u32> {
    let accounts = MapInfo::from_pin(accounts).unwrap().id();
    let counts = |program: &ProgramInfo| {
        program.name_as_str() == Some(PROGRAM) && program.map_ids().unwrap().unwrap().contains(&accounts)
    };
    loaded_programs().flatten().find(counts).map(|program| program.id())
}

/// Connections of clients, and what they do by chance.
struct Clients {
    dice: Dice,
    open: Vec<Connection>,
    half_closed: Vec<Connection>,
    done: BTreeMap<&'static str, usize>,
}

impl Clients {
    fn new() -> Self {
        Self { dice: Dice::new(), open: Vec::new(), half_closed: Vec::new(), done: BTreeMap::new() }
    }

    /// `asks`: all workers answer now.
    fn act(&mut self, asks: bool) {
        let what = match self.dice.roll(10) {
            _ if self.open.len() < 50 => "open",
            0..5 if self.open.len() < 300 => "open",
            5 => "reset",
            6 => "half-close",
            7 if asks => "ask",
            _ => "close",
        };
        *self.done.entry(what).or_default() += 1;
        if what == "open" {
            // While no worker listens, none opens.
            self.open.extend(Connection::open(to(), None));
            return;
        }
        let at = self.dice.roll(self.open.len());
        match what {
            // Its worker may be gone.
            "ask" => drop(self.open[at].ask()),
            "reset" => self.open.swap_remove(at).reset(),
            "half-close" => {
                let connection = self.open.swap_remove(at);
                // It may be closed already.
                let _ = connection.half_close();
                self.half_closed.push(connection);
            }
            _ => drop(self.open.swap_remove(at)),
        }
        if self.half_closed.len() > 20 {
            self.half_closed.clear();
        }
    }

    fn act_often(&mut self, often: usize) {
        (0..often).for_each(|_| self.act(true));
    }

    fn act_beside_a_hung_worker(&mut self, often: usize) {
        (0..often).for_each(|_| self.act(false));
    }
}

// vm: short
#[test]
fn what_is_counted_is_what_workers_have_whatever_happens() {
    let world = World::new();
    let config = web(&world).set("stall_timeout", "300ms").set("hold_timeout", "200ms");
    config.write(&world);
    let mut daemon = Daemon::with(&world, &config);
    let mut clients = Clients::new();
    let actions = fewer(times(10_000)) / 10;
    let pid = |daemon: &Daemon, nth: usize| daemon.service().workers[nth].pid.unwrap();
    for round in 0..10 {
        clients.act_often(actions);
        let victim = pid(&daemon, round % 4);
        match round {
            // It crashes, and its queue waits for its next process, or goes to others.
            1 | 5 => {
                signal(victim, Signal::SIGSTOP);
                clients.act_beside_a_hung_worker(200);
                signal(victim, Signal::SIGKILL);
                until("another process", || {
                    let service = daemon.service();
                    (settled(&service) && service.workers.iter().all(|it| it.pid != Some(victim)))
                        .then_some(())
                });
            }
            // Others get its queue while it hangs.
            2 | 6 => {
                signal(victim, Signal::SIGSTOP);
                until("it to be avoided", || {
                    clients.act_beside_a_hung_worker(20);
                    (daemon.service().workers[round % 4].state == "stalled").then_some(())
                });
                clients.act_beside_a_hung_worker(100);
                signal(victim, Signal::SIGCONT);
            }
            3 => drop(daemon.run(&["restart", "web/1", "--trial", "0s"])),
            4 | 7 => {
                daemon.kill();
                clients.act_often(actions);
                daemon = Daemon::with(&world, &config);
            }
            8 => {
                daemon.run(&["scale", "web", "6"]);
                clients.act_often(200);
                daemon.run(&["scale", "web", "4"]);
            }
            _ => {}
        }
        let all = agree(&daemon);
        println!("round {round}: {all} connections");
    }
    println!("{:?}", clients.done);
    let open = clients.open.len();
    assert!(open > 10 && clients.done.len() == 5, "{open} open, {:?}", clients.done);
    drop(clients);
    assert_eq!(agree(&daemon), 0);
    daemon.stop();
}

#[test]
fn queued_connections_are_counted_and_go_with_their_queue() {
    let world = World::new();
    let config = web(&world).workers(3).set("stall_timeout", "off").set("on_crash", "migrate");
    let daemon = Daemon::with(&world, &config);
    let victim = daemon.service().workers[1].pid.unwrap();
    signal(victim, Signal::SIGSTOP);
    let clients: Vec<Connection> = (0..90).map(|_| Connection::open(to(), None).unwrap()).collect();
    assert_eq!(agree(&daemon), 90);
    let waiting = daemon.service().workers[1].connections().unwrap();
    assert!(waiting > 10, "{waiting}");
    // One of them is reset in the queue: it is in the queue still, and not counted any more.
    signal(victim, Signal::SIGKILL);
    until("its process to be gone", || (!is_alive(victim)).then_some(()));
    until("its queue to be handed over", || {
        let service = daemon.service();
        (service.totals.handed_over > 0 || service.workers.iter().all(|it| it.queue() == 0)).then_some(())
    });
    assert_eq!(agree(&daemon), 90, "none was lost");
    drop(clients);
    assert_eq!(agree(&daemon), 0);
    daemon.stop();
}

#[test]
fn another_layout_goes_on_counting() {
    let world = World::new();
    let config = web(&world);
    let daemon = Daemon::with(&world, &config);
    let mut clients: Vec<Connection> = (0..40).map(|_| Connection::open(to(), None).unwrap()).collect();
    assert_eq!(agree(&daemon), 40);
    daemon.kill();
    clients.truncate(25);
    for kind in ["state", "copy"] {
        let path = world.path("run").join(format!("state/web.{kind}"));
        let text = fs::read_to_string(&path).unwrap();
        let (_, json) = text.split_once('\n').unwrap();
        let json = json.replacen("\"layout\":", "\"layout\":9", 1);
        fs::write(&path, format!("{:016x}\n{json}", xxhash_rust::xxh3::xxh3_64(json.as_bytes()))).unwrap();
    }
    let daemon = Daemon::with(&world, &config);
    daemon.says("its maps had layout 9");
    assert_eq!(agree(&daemon), 25);
    clients.extend((0..10).map(|_| Connection::open(to(), None).unwrap()));
    assert_eq!(agree(&daemon), 35);
    assert_eq!(daemon.service().workers[0].sockets[0].connections_since, None, "all are counted");
    daemon.stop();
}

#[test]
fn counting_begins_and_ends_with_a_reload_and_nothing_is_attached_without_it() {
    let world = World::new();
    let config = Config::web().workers(2).server(&world, "--wait keep");
    let daemon = Daemon::with(&world, &config);
    let older: Vec<Connection> = (0..10).map(|_| Connection::open(to(), None).unwrap()).collect();
    assert_eq!(daemon.service().workers[0].connections(), None, "nothing is counted");
    let pins = world.bpffs().join("reuseport-lb");
    let accounts = || {
        let daemons = fs::read_dir(&pins).unwrap().flatten().flat_map(|it| fs::read_dir(it.path()).unwrap());
        let mut all = daemons.flatten();
        let own = all.find(|it| it.file_name().to_string_lossy().starts_with("connections-"))?;
        Some(own.path().join("ACCOUNTS"))
    };
    assert_eq!(accounts(), None);

    config.clone().toml("count_connections", "true".into()).write(&world);
    daemon.run(&["reload"]);
    let program = counting(&accounts().unwrap()).unwrap();
    let newer: Vec<TcpStream> = (0..30).map(|_| TcpStream::connect(to()).unwrap()).collect();
    let counted = |daemon: &Daemon| -> u64 {
        daemon.service().workers.iter().map(|it| it.connections().unwrap()).sum()
    };
    until("the new ones to be counted", || (counted(&daemon) == 30).then_some(()));
    let sockets = daemon.service().workers.into_iter().flat_map(|it| it.sockets);
    assert!(sockets.into_iter().all(|socket| socket.connections_since.is_some()), "there may be older ones");
    drop(older);
    assert_eq!(counted(&daemon), 30);
    drop(newer);
    until("their end to be counted", || (counted(&daemon) == 0).then_some(()));

    config.write(&world);
    daemon.run(&["reload"]);
    assert_eq!(accounts(), None);
    let is_loaded = || loaded_programs().flatten().any(|it| it.id() == program);
    until("the program to be gone", || (!is_loaded()).then_some(()));
    assert_eq!(daemon.service().workers[0].connections(), None);
    drop(Connection::open(to(), None).unwrap().ask().unwrap());
    daemon.stop();
}

#[test]
fn a_drain_waits_for_connections_and_says_how_many_are_left() {
    let world = World::new();
    let config = web(&world)
        .workers(2)
        .set("drain_until", "connections")
        .set("drain_timeout", "60s")
        .server(&world, "--wait keep");
    let daemon = Daemon::with(&world, &config);
    let mut clients: Vec<Connection> = Vec::new();
    let at = |daemon: &Daemon, nth: usize| daemon.service().workers[nth].connections().unwrap();
    let mut of_leaver = 0;
    until("three connections of the worker, and one of the other", || {
        let mut client = Connection::open(to(), None).unwrap();
        // Where it goes is a matter of chance.
        let is_of_leaver = client.ask().unwrap().worker == "web/1";
        if !is_of_leaver || of_leaver < 3 {
            of_leaver += usize::from(is_of_leaver);
            clients.push(client);
        }
        (at(&daemon, 1) == 3 && at(&daemon, 0) >= 1).then_some(())
    });
    let paths = daemon.paths().clone();
    let draining = std::thread::spawn(move || paths.output(&["drain", "web/1"]));
    daemon.says("web/1");
    until("it to leave", || (daemon.service().workers[1].state == "draining").then_some(()));
    testkit::patience::lasts(
        "the time until the command says what it waits for",
        std::time::Duration::from_millis(1500),
    );
    // Its connections go on, and new ones go to the other worker.
    let answers: Vec<String> = clients.iter_mut().map(|it| it.ask().unwrap().worker).collect();
    assert_eq!(answers.iter().filter(|worker| **worker == "web/1").count(), 3, "{answers:?}");
    assert_eq!(Connection::open(to(), None).unwrap().ask().unwrap().worker, "web/0");
    assert_eq!(daemon.service().workers[1].state, "draining");
    let mut theirs = clients.into_iter().zip(answers);
    let mut others = Vec::new();
    for (connection, worker) in &mut theirs {
        if worker == "web/1" { drop(connection) } else { others.push(connection) }
    }
    let output = draining.join().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("web/1 (draining, 3 connections)"), "{said}");
    assert_eq!(daemon.service().workers.len(), 1);

    // At the end of its time the process is told to end, whatever it has.
    let open = at(&daemon, 0);
    assert!(open > 0 && open == others.len() as u64, "{open}");
    let said = daemon.run(&["drain", "web/0", "--timeout", "300ms"]);
    assert!(said.contains(&format!("{open} connections were open when it was told to end")), "{said}");
    daemon.stop();
}

#[test]
fn a_restart_lets_the_old_process_keep_its_connections() {
    let world = World::new();
    let config = web(&world).workers(1).set("drain_until", "connections").set("drain_timeout", "60s");
    let daemon = Daemon::with(&world, &config);
    let old = daemon.service().workers[0].pid.unwrap();
    let mut kept = Connection::open(to(), None).unwrap();
    assert_eq!(kept.ask().unwrap().pid, old);
    let paths = daemon.paths().clone();
    let restarting = std::thread::spawn(move || paths.output(&["restart", "web", "--trial", "0s"]));
    until("the successor to take over", || {
        (Connection::open(to(), None).unwrap().ask().unwrap().pid != old).then_some(())
    });
    assert_eq!(kept.ask().unwrap().pid, old);
    assert!(is_alive(old));
    drop(kept);
    let output = restarting.join().unwrap();
    assert!(output.status.success(), "{output:?}");
    until("the old process to end", || (!is_alive(old)).then_some(()));
    daemon.stop();
}

// vm: short
#[test]
fn doctor_tries_to_count_a_connection_where_a_service_wants_that() {
    let world = World::new();
    let file = web(&world).set("balance", "least").write(&world);
    let said = said(&Paths::of(&world).output(&["doctor", "--config", file.to_str().unwrap()]));
    for says in
        ["from its beginning to its end", "tcp over IPv4, affinity flow, balance least, connections counted"]
    {
        assert!(said.contains(says), "{said}");
    }
}
