//! The daemon dies at a random moment of a random command, whatever else is broken meanwhile, and the
//! next one starts with any file: in the end the services are as that file says, and nothing was lost that
//! somebody could have answered. `cargo xtask chaos --seconds N` runs it for longer.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reuseport_lb_client::api::{ServiceStatus, Status, WorkerStatus};
use testkit::daemon::{Daemon, Paths, is_alive, signal, until};
use testkit::fault::{Dice, freeze};
use testkit::load::{Ending, Failure, Load, Report, Stage};
use testkit::patience::lasts;
use testkit::world::World;

use services::{LOADED, Wanted, invent, text};

/// One machine with a daemon that dies again and again.
struct Scene {
    /// Dropped before its world, where its log is.
    daemon: Option<Daemon>,
    world: World,
    dice: Dice,
    files: Vec<Vec<Wanted>>,
    file: Vec<Wanted>,
    /// Services whose number of workers need not be their file's: what `scale` and `drain` did stays for as long as the
    /// configuration is the same, and is there again with one that was never applied in between.
    scaled: Vec<Wanted>,
    /// While these went on, nothing new was let in.
    stopped: Vec<(Instant, Instant)>,
    /// When workers were killed.
    ends: Vec<(Instant, Instant)>,
    /// Clients of connections that killed workers had accepted.
    accepted: BTreeSet<SocketAddr>,
    killed: BTreeSet<i32>,
    done: BTreeMap<String, usize>,
    history: Vec<String>,
    begun: Instant,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let mut dice = Dice::new();
        let file = invent(&mut dice);
        let _ = world.file("config.toml", &text(&file));
        let files = vec![file.clone()];
        Self {
            world,
            dice,
            daemon: None,
            files,
            file,
            scaled: Vec::new(),
            stopped: Vec::new(),
            ends: Vec::new(),
            accepted: BTreeSet::new(),
            killed: BTreeSet::new(),
            done: BTreeMap::new(),
            history: Vec::new(),
            begun: Instant::now(),
        }
    }

    fn note(&mut self, what: &str, detail: &str) {
        *self.done.entry(what.to_owned()).or_default() += 1;
        self.history.push(format!("{:.4} s: {what} {detail}", self.begun.elapsed().as_secs_f64()));
    }

    /// Starts a daemon with the file that is there; returns as soon as it answers.
    fn start(&mut self) {
        self.daemon = Some(Daemon::start_until(&self.world, Paths::of(&self.world).run(), |_| true));
    }

    /// The number of workers of a service is changed, if the daemon hears it in time.
    fn scale(&mut self, service: &str) {
        self.scaled.extend(self.file.iter().find(|wanted| wanted.name == service).cloned());
    }

    fn status(&self) -> Status {
        self.daemon.as_ref().unwrap().status()
    }

    /// Waits until all services are as the file says.
    fn settle(&mut self) {
        let begun = Instant::now();
        loop {
            let status = self.status();
            let as_wanted = |wanted: &Wanted| {
                status.services.iter().any(|it| wanted.is(it, self.scaled.contains(wanted)))
            };
            if status.services.len() == self.file.len() && self.file.iter().all(as_wanted) {
                // What the daemon has now it had not before, and it knows of nothing else any more.
                self.scaled.retain(|scaled| self.file.contains(scaled));
                return;
            }
            assert!(
                begun.elapsed() < testkit::patience::patience(),
                "the services are not as the file says:\n{}\n{status:#?}\nafter\n{}",
                text(&self.file),
                self.history.join("\n")
            );
            std::thread::sleep(Duration::from_millis(10)); // sleep: between two looks, with more to say than `until`
        }
    }

    /// A worker of a service in which another one serves as well.
    fn victim(&mut self) -> Option<(String, i32)> {
        let status = self.status();
        // While a daemon takes over, status says what the one before has written: that one may have died since.
        let lives = |worker: &WorkerStatus| worker.pid.is_some_and(is_alive);
        let serves = |worker: &&WorkerStatus| worker.state == "ready" && !worker.successor && lives(worker);
        let serving = |service: &&ServiceStatus| service.workers.iter().filter(serves).count() > 1;
        let several = status.services.iter().filter(serving);
        let all: Vec<_> = several.flat_map(|service| &service.workers).filter(serves).collect();
        let worker = all.get(self.dice.roll(all.len().max(1)))?;
        Some((worker.name.clone(), worker.pid?))
    }

    fn kill_worker(&mut self, pid: i32) {
        self.accepted.extend(freeze(pid));
        self.killed.insert(pid);
        let begun = Instant::now();
        signal(pid, Signal::SIGKILL);
        until("a worker to be dead", || (!is_alive(pid)).then_some(()));
        self.ends.push((begun, Instant::now()));
    }

    /// Begins something that takes a while.
    fn begin(&mut self) -> (&'static str, Option<Child>) {
        let verbs = [
            "nothing", "scale", "restart", "reload", "reload", "reload", "drain", "weight", "kill", "stop",
            "term", "keep",
        ];
        let verb = self.dice.one_of(&verbs);
        let running = self.begin_verb(verb);
        (verb, running)
    }

    fn begin_verb(&mut self, verb: &str) -> Option<Child> {
        let begun = Instant::now();
        let service = self.file[self.dice.roll(self.file.len())].name;
        let (mut arguments, mut detail): (Vec<String>, String) = (Vec::new(), String::new());
        match verb {
            "scale" => {
                arguments = vec!["scale".into(), service.into(), (1 + self.dice.roll(5)).to_string()];
                self.scale(service);
            }
            "restart" => {
                arguments =
                    ["restart", service, "--trial", "10ms", "--parallel", "2"].map(str::to_owned).into();
            }
            "reload" => {
                let file = self.any_file();
                detail = text(&file);
                let _ = self.world.file("config.toml", &detail);
                self.file = file;
                arguments = vec!["reload".into()];
            }
            "drain" | "weight" => {
                let (worker, _) = self.victim()?;
                if verb == "drain" {
                    self.scale(worker.split('/').next()?);
                    arguments = vec!["drain".into(), worker];
                } else {
                    arguments = vec!["weight".into(), worker, (1 + self.dice.roll(5)).to_string()];
                }
            }
            "kill" => {
                let (worker, pid) = self.victim()?;
                detail = worker;
                self.kill_worker(pid);
            }
            "stop" => arguments = vec!["stop".into()],
            "keep" => arguments = vec!["stop".into(), "--keep".into()],
            "term" => signal(self.daemon.as_ref()?.pid(), Signal::SIGTERM),
            _ => {}
        }
        if matches!(verb, "stop" | "term") {
            // From before the signal: the daemon may be faster than this thread.
            self.stopped.push((begun, Instant::now()));
        }
        self.note(verb, &format!("{} {detail}", arguments.join(" ")));
        if arguments.is_empty() {
            return None;
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = self.daemon.as_ref()?.paths().command(&arguments);
        Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// One that there was before, or a new one.
    fn any_file(&mut self) -> Vec<Wanted> {
        if self.dice.roll(2) == 0 {
            let file = invent(&mut self.dice);
            self.files.push(file.clone());
            return file;
        }
        self.files[self.dice.roll(self.files.len())].clone()
    }

    /// What may happen while no daemon runs.
    fn meanwhile(&mut self, victim: Option<(String, i32)>) {
        match (self.dice.roll(8), victim) {
            (0 | 1, Some((worker, pid))) if is_alive(pid) => {
                self.kill_worker(pid);
                self.note("a worker dies without a daemon", &worker);
            }
            (2, _) => {
                let state = self.world.path("run").join("state");
                for entry in fs::read_dir(state).into_iter().flatten().flatten() {
                    if entry.path().extension().is_some_and(|kind| kind == "state") {
                        fs::write(entry.path(), "cut off").unwrap();
                    }
                }
                self.note("one copy of each state is lost", "");
            }
            (3, _) => {
                use nix::mount::{MntFlags, MsFlags, mount, umount2};
                let nothing: Option<&str> = None;
                umount2(&self.world.bpffs(), MntFlags::MNT_DETACH).unwrap();
                mount(Some("bpf"), &self.world.bpffs(), Some("bpf"), MsFlags::empty(), nothing).unwrap();
                self.note("pins are lost", "");
            }
            _ => {}
        }
    }

    /// The daemon dies in the middle of something, and the next one starts.
    fn death(&mut self) {
        // One time in four it is still starting.
        if self.dice.roll(4) > 0 {
            self.settle();
        }
        let mut victim = self.victim();
        let stops = self.stopped.len();
        let (verb, running) = self.begin();
        if !matches!(verb, "nothing" | "weight" | "keep") {
            // It may be the last one that serves.
            victim = None;
        }
        let wait = self.dice.roll(400) as u64;
        lasts("the time until the daemon is killed", Duration::from_millis(wait));
        // It may have ended in order.
        self.daemon.take().unwrap().kill();
        if let Some(mut child) = running {
            child.wait().unwrap();
        }
        self.note("death", &format!("after {wait} ms"));
        self.meanwhile(victim);
        if self.dice.roll(2) == 0 {
            let file = self.any_file();
            self.note("file", &text(&file));
            let _ = self.world.file("config.toml", &text(&file));
            self.file = file;
        }
        self.start();
        if self.stopped.len() > stops {
            self.settle();
            self.stopped.last_mut().unwrap().1 = Instant::now();
        }
    }

    /// Checks that each request that failed is explained by a rule.
    fn check(&self, report: &Report) {
        let within = |times: &[(Instant, Instant)], failure: &Failure| {
            times.iter().any(|(from, to)| failure.at >= *from && failure.started <= *to)
        };
        let expected = |failure: &Failure| {
            // Its handshake ended while the kernel closed a listener that no daemon had as well (docs/KERNEL.md, 74).
            let just_becoming = failure.stage == Stage::Connect && failure.text.contains("os error 104");
            failure.local.is_some_and(|local| self.accepted.contains(&local))
                || within(&self.stopped, failure)
                || (just_becoming && within(&self.ends, failure))
        };
        let since = |at: Instant| at.saturating_duration_since(self.begun).as_secs_f64();
        let lost: Vec<String> = report
            .failed_except(expected)
            .iter()
            .map(|it| {
                format!(
                    "{:.4} to {:.4} s: {:?} {} {:?}",
                    since(it.started),
                    since(it.at),
                    it.stage,
                    it.text,
                    it.kept
                )
            })
            .collect();
        let history = || self.history[self.history.len().saturating_sub(12)..].join("\n");
        assert!(lost.is_empty(), "nobody answered\n{}\nafter\n{}", lost.join("\n"), history());
        let broken = |it: &&testkit::load::Ended| it.how == Ending::Reset && !self.killed.contains(&it.pid);
        let broken: Vec<_> = report.ended.iter().filter(broken).collect();
        assert!(broken.is_empty(), "{broken:?}\nafter\n{}", history());
    }
}

fn run(seconds: u64) {
    let mut scene = Scene::new();
    scene.start();
    scene.settle();
    let begun = Instant::now();
    let mut deaths = 0;
    while begun.elapsed() < Duration::from_secs(seconds) {
        let load = Load::to(SocketAddr::from(([127, 0, 0, 1], LOADED))).clients(4).kept(20).start();
        let part = Instant::now();
        while begun.elapsed() < Duration::from_secs(seconds) && part.elapsed() < Duration::from_secs(60) {
            scene.death();
            deaths += 1;
            scene.check(&load.report_so_far());
        }
        scene.settle();
        let report = load.end();
        println!("{deaths} deaths: {report}\n{:?}", scene.done);
        scene.check(&report);
    }
    let daemon = scene.daemon.take().unwrap();
    daemon.stop();
}

#[test]
fn whenever_the_daemon_dies_the_next_one_has_the_services_of_its_file() {
    let seconds = std::env::var("REUSEPORT_LB_CHAOS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    run(seconds);
}
