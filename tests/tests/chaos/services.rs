//! Configurations at random, and whether services are as one says.

use std::collections::BTreeSet;

use reuseport_lb_client::api::ServiceStatus;
use testkit::config::Config;
use testkit::daemon::settled;
use testkit::fault::Dice;

/// The port that is under load; some service of each file has it.
pub(crate) const LOADED: u16 = 3000;

const NAMES: [&str; 3] = ["web", "api", "www"];

/// One service of a file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) name: &'static str,
    ports: Vec<u16>,
    udp: bool,
    workers: usize,
    /// Workers with another one are started anew.
    watchdog: &'static str,
    affinity: &'static str,
    on_crash: &'static str,
}

impl Wanted {
    fn listen(&self) -> Vec<String> {
        let tcp = self.ports.iter().map(|port| format!("tcp://127.0.0.1:{port}"));
        tcp.chain(self.udp.then(|| format!("udp://127.0.0.1:{}", self.ports[0]))).collect()
    }

    fn config(&self) -> Config {
        let listen = |config: Config, url: &String| config.listen(url);
        let config = self.listen().iter().fold(Config::service(self.name), listen).workers(self.workers);
        let config = config.set("watchdog", self.watchdog).set("affinity", self.affinity);
        // Chance goes only with datagrams that are for themselves.
        let untracked = self.udp && self.affinity == "random";
        let config = if untracked { config.set("flows", "none") } else { config };
        config.set("on_crash", self.on_crash).set("drain_timeout", "2s").set("idle_timeout", "300ms")
    }

    /// Whether a service is what the file says; `scaled`: but for its number of workers.
    pub(crate) fn is(&self, service: &ServiceStatus, scaled: bool) -> bool {
        let listen: BTreeSet<String> = service.groups.iter().map(|group| group.listen.clone()).collect();
        service.name == self.name
            && listen == self.listen().into_iter().collect()
            && service.affinity == self.affinity
            && settled(service)
            && service.workers.len() == service.wanted
            && (scaled || service.wanted == self.workers)
            && service.groups.iter().all(|group| group.decided_by.is_none() && group.strangers == Some(0))
            && service.unsaved.is_none()
    }
}

/// A valid file: one to three services that share four ports among them.
pub(crate) fn invent(dice: &mut Dice) -> Vec<Wanted> {
    let mut names = NAMES.to_vec();
    let mut services: Vec<Wanted> = (0..1 + dice.roll(3))
        .map(|_| Wanted {
            name: names.swap_remove(dice.roll(names.len())),
            ports: Vec::new(),
            udp: dice.roll(4) == 0,
            workers: 1 + dice.roll(4),
            watchdog: dice.one_of(&["off", "30s", "40s"]),
            affinity: dice.one_of(&["flow", "source", "random"]),
            on_crash: dice.one_of(&["hold", "migrate"]),
        })
        .collect();
    let holder = dice.roll(services.len());
    services[holder].ports.push(LOADED);
    for port in 1..4 {
        let holder = dice.roll(services.len());
        services[holder].ports.push(LOADED + port);
    }
    services.retain(|service| !service.ports.is_empty());
    services
}

pub(crate) fn text(services: &[Wanted]) -> String {
    services.iter().map(|service| service.config().to_string()).collect()
}
