//! What each server has to show.

use std::sync::atomic::{AtomicBool, Ordering};

use reuseport_lb_client::api::{ServiceStatus, WorkerStatus};
use testkit::background::beside;
use testkit::config::Config;
use testkit::daemon::{Daemon, is_alive, settled, until};
use testkit::patience::fewer;
use testkit::world::World;

use crate::family::{Alone, freeze, kill};
use crate::protocol::{Asked, Protocol, ask_all};

/// A server, and how it is told to end.
pub(crate) struct Row {
    pub(crate) command: fn(&World) -> Vec<String>,
    pub(crate) protocols: &'static [Protocol],
    /// Workers of the service.
    pub(crate) workers: usize,
    pub(crate) signal: &'static str,
    pub(crate) mode: &'static str,
    /// Whether that signal ends it in order, so that a restart fails nobody.
    pub(crate) orderly: bool,
    /// How many sockets a worker has for each protocol.
    pub(crate) sockets: &'static [usize],
}

/// Questions by each protocol of which shares are plausible.
fn many() -> usize {
    fewer(300)
}

impl Row {
    /// A server over TCP with three workers that have one socket each, which ends in order at SIGTERM.
    pub(crate) const fn new(command: fn(&World) -> Vec<String>, protocols: &'static [Protocol]) -> Self {
        let (signal, mode) = ("TERM", "group");
        Self { command, protocols, workers: 3, signal, mode, orderly: true, sockets: &[1, 1] }
    }

    pub(crate) fn config(&self, world: &World) -> Config {
        let mut config = Config::service("web").workers(self.workers).set("sockets", "bind");
        for protocol in self.protocols {
            config = config.listen(&protocol.url());
        }
        let config = config.set("stop_signal", self.signal).set("stop_mode", self.mode);
        let config = config.set("drain_timeout", "10s").command(&(self.command)(world));
        if self.protocols.contains(&Protocol::Dns) { config.set("flows", "none") } else { config }
    }

    /// How many members of the table a worker is.
    fn members(&self) -> usize {
        self.protocols.iter().zip(self.sockets).map(|(_, sockets)| *sockets).max().unwrap_or(1)
    }

    /// Waits until all workers are there with all their members, without process `gone`.
    fn whole(&self, daemon: &Daemon, workers: usize, gone: Option<i32>) -> ServiceStatus {
        let members = workers * self.members();
        until(&format!("{members} members"), || {
            Some(daemon.service()).filter(|service| {
                service.workers.len() == members
                    && settled(service)
                    && gone.is_none_or(|gone| pids(service).iter().all(|pid| *pid != gone))
            })
        })
    }

    /// It serves as others run it, so what fails later is not its fault.
    pub(crate) fn serves_alone(&self) {
        let world = World::new();
        let mut alone = Alone::start(&(self.command)(&world));
        until("it to serve", || {
            assert!(!alone.has_ended(), "it ended");
            self.protocols.iter().all(|protocol| protocol.ask().is_ok()).then_some(())
        });
        let failed = ask_all(self.protocols, 20);
        assert!(failed.is_empty(), "alone: {failed:?}");
    }

    pub(crate) fn proves(&self) {
        self.serves_alone();
        let world = World::new();
        let config = self.config(&world);
        let daemon = Daemon::with(&world, &config);
        let service = self.whole(&daemon, self.workers, None);
        println!("members: {:?}", names(&service));
        self.shares(&daemon, "at first");
        self.crash(&daemon, "web/0");
        self.restart(&daemon);
        // A drain of the only worker leaves nobody.
        let staying = if self.workers > 1 { self.drain(&daemon) } else { 1 };
        let before = pids(&daemon.service());
        daemon.kill();
        let failed = ask_all(self.protocols, 50);
        assert!(failed.is_empty(), "without a daemon: {failed:?}");
        let daemon = Daemon::with(&world, &config);
        // The next one goes on with the workers that are there.
        let service = self.whole(&daemon, staying, None);
        assert_eq!(pids(&service), before, "the next daemon: {service:?}");
        self.shares(&daemon, "under the next daemon");
        self.crash(&daemon, &format!("web/{}", staying - 1));
        assert_eq!(daemon.service().groups.iter().map(|group| group.strangers).max(), Some(Some(0)));
        daemon.stop();
    }

    /// All is answered, counted exactly, and spread over all members.
    fn shares(&self, daemon: &Daemon, when: &str) {
        let before = daemon.service();
        let failed = ask_all(self.protocols, many());
        assert!(failed.is_empty(), "{when}: {failed:?}\n{}", daemon.log());
        let after = daemon.service();
        for (protocol, sockets) in self.protocols.iter().zip(self.sockets) {
            let url = protocol.url();
            let selected = |service: &ServiceStatus| -> Vec<u64> {
                let of = |worker: &WorkerStatus| {
                    worker.sockets.iter().filter(|it| it.listen == url).map(|it| it.selected).sum()
                };
                service.workers.iter().map(of).collect()
            };
            let got: Vec<u64> = selected(&after)
                .iter()
                .zip(selected(&before))
                .map(|(after, before)| after - before)
                .collect();
            println!("{when}: {url}: {got:?}");
            assert_eq!(got.iter().sum::<u64>(), many() as u64, "{when}: {url}: {got:?}");
            let members = after.workers.len() / self.members() * sockets;
            let (count, part) = (many() as f64, 1.0 / members as f64);
            // Six standard deviations.
            let most = 6.0 * (count * part * (1.0 - part)).sqrt();
            let served: Vec<u64> = got.iter().copied().filter(|got| *got > 0).collect();
            assert_eq!(served.len(), members, "{when}: {url}: {got:?}");
            assert!(
                served.iter().all(|got| (*got as f64 - count * part).abs() <= most),
                "{when}: {url}: {got:?}"
            );
        }
    }

    /// A worker dies with a full queue: its successor answers all of it.
    fn crash(&self, daemon: &Daemon, name: &str) {
        let before = daemon.service();
        let victim = before.workers.iter().find(|worker| worker.name == name).unwrap();
        let pid = victim.pid.unwrap();
        let all = freeze(pid);
        let sent: Result<Vec<(Protocol, Asked)>, String> =
            self.protocols.iter().flat_map(|it| (0..60).map(|_| Ok((*it, it.send()?)))).collect();
        let sent = sent.unwrap_or_else(|error| panic!("{name} is stopped: {error}\n{}", daemon.log()));
        let queued: u64 = daemon
            .service()
            .workers
            .iter()
            .filter(|worker| worker.pid == Some(pid))
            .map(WorkerStatus::queue)
            .sum();
        assert!(queued > 5, "{queued} wait for {name}");
        kill(&all);
        let failed: Vec<String> = sent
            .into_iter()
            .filter_map(|(protocol, asked)| Some(format!("{protocol:?}: {}", asked.answer().err()?)))
            .collect();
        println!("{name} killed with {queued} in its queue: {} lost", failed.len());
        assert!(failed.is_empty(), "{name} was killed: {failed:?}\n{}", daemon.log());
        let after = self.whole(daemon, before.workers.len() / self.members(), Some(pid));
        let now = after.workers.iter().find(|worker| worker.name == name).unwrap();
        assert_eq!(now.restarts, victim.restarts + 1);
    }

    /// All are replaced while clients ask.
    fn restart(&self, daemon: &Daemon) {
        let before = pids(&daemon.service());
        let asking = |over: &AtomicBool| {
            let (mut asked, mut failed) = (0, Vec::new());
            while !over.load(Ordering::Relaxed) {
                failed.extend(ask_all(self.protocols, 5));
                asked += 5 * self.protocols.len();
            }
            (asked, failed)
        };
        let restart = || daemon.run(&["restart", "web", "--trial", "100ms"]);
        let (said, (asked, failed)) = beside(asking, restart);
        println!("restart: {} of {asked} failed: {failed:?}", failed.len());
        let refused = failed.iter().any(|error| error.contains("connect: "));
        assert!(!refused && (failed.is_empty() || !self.orderly), "{failed:?}\n{said}{}", daemon.log());
        let after = self.whole(daemon, self.workers, None);
        assert!(pids(&after).iter().all(|pid| !before.contains(pid)), "{after:?}");
    }

    /// The last one is drained: it gets nothing more, and ends; how many stay.
    fn drain(&self, daemon: &Daemon) -> usize {
        let staying = self.workers - 1;
        let name = format!("web/{staying}");
        let before = daemon.service();
        let gone = before.workers.iter().find(|worker| worker.name == name).unwrap().pid.unwrap();
        daemon.run(&["drain", &name]);
        let _ = self.whole(daemon, staying, Some(gone));
        assert!(!is_alive(gone), "process {gone} is left");
        self.shares(daemon, "after the drain");
        staying
    }
}

fn pids(service: &ServiceStatus) -> Vec<i32> {
    service.workers.iter().filter_map(|worker| worker.pid).collect()
}

pub(crate) fn names(service: &ServiceStatus) -> Vec<&str> {
    service.workers.iter().map(|worker| worker.name.as_str()).collect()
}
