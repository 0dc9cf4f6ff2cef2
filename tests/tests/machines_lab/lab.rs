//! The machines: a client, a router, and three hosts that announce two addresses to it, each with a daemon of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use testkit::background::KilledAll;
use testkit::config::Config;
use testkit::daemon::{Daemon, Paths, until};
use testkit::network::Node;
use testkit::patience::at_most;
use testkit::quic::Identity;
use testkit::world::{program, repository};

pub(crate) const HOSTS: usize = 3;
pub(crate) const BUCKETS: usize = 8192;

/// After so long a bucket may move that had no packet. Clients speak far more often.
fn idle() -> Duration {
    at_most(Duration::from_secs(5))
}

/// Behind a resilient group.
pub(crate) const RESILIENT: &str = "10.9.9.9";

/// Behind the route as BIRD sets it.
pub(crate) const ECMP: &str = "10.9.9.10";

pub(crate) fn web(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), 3000)
}

pub(crate) fn echo() -> SocketAddr {
    SocketAddr::new(RESILIENT.parse().unwrap(), 4433)
}

/// A machine that serves.
pub(crate) struct Host {
    daemon: Option<Daemon>,
    config: Config,
    _announce: KilledAll,
    bird: Option<KilledAll>,
    node: Node,
}

/// What is dropped first comes first.
pub(crate) struct Lab {
    pub(crate) hosts: Vec<Host>,
    _routing: [KilledAll; 2],
    pub(crate) client: Node,
    router: Node,
    pub(crate) identity: Identity,
}

fn example(name: &str) -> PathBuf {
    repository().join("examples/machines/bird").join(name)
}

/// Makes what programs that [`start`] starts there find as `reuseport-lb`: the one that is tried, for the daemon there.
pub(crate) fn put_on_path(node: &Node) {
    let own = Paths::of(node.world()).command(&[]);
    let words = [own.get_program()].into_iter().chain(own.get_args());
    let words: Vec<String> = words.map(|it| it.to_string_lossy().into_owned()).collect();
    fs::create_dir(node.world().path("bin")).unwrap();
    let text = format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" "));
    let wrapper = node.world().file("bin/reuseport-lb", &text);
    fs::set_permissions(wrapper, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Starts a program there, with `reuseport-lb` on its path, which is the one that is tried, and a log in the node's directory.
pub(crate) fn start(node: &Node, log: &str, command: &mut Command) -> KilledAll {
    let log = File::create(node.world().path(log)).unwrap();
    let path = format!("{}:{}", node.world().path("bin").display(), std::env::var("PATH").unwrap());
    command.env("PATH", path).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    node.inside(|| KilledAll::start(command))
}

pub(crate) fn bird(node: &Node, config: &str) -> KilledAll {
    node.inside(|| fs::create_dir_all("/run/bird")).unwrap();
    start(node, "bird.log", Command::new(program("bird")).arg("-f").arg("-c").arg(example(config)))
}

impl Host {
    /// The `nth`, on the router's bridge.
    fn new(router: &Node, nth: usize, identity: &Identity) -> Self {
        let node = Node::new();
        node.wire("eth0", router, &format!("host{nth}"));
        router.ip(&format!("link set host{nth} master hosts"));
        node.ip(&format!(
            "address add 10.0.0.1{nth}/24 dev eth0\n route add default via 10.0.0.1\n \
             address add {RESILIENT}/32 dev lo\n address add {ECMP}/32 dev lo"
        ));
        let web = Config::service("web").workers(4).set("drain_timeout", "2s");
        let web = [RESILIENT, ECMP].iter().fold(web, |web, address| {
            web.listen(&format!("tcp://{address}:3000")).listen(&format!("udp://{address}:3000"))
        });
        let config = web.and(identity.echo(echo(), &[env!("CARGO_BIN_EXE_quic-echo")]).workers(2));
        let daemon = Some(node.inside(|| Daemon::with(node.world(), &config)));
        put_on_path(&node);
        let bird = bird(&node, "host.conf");
        let mut announce = Command::new(example("announce"));
        let announce =
            start(&node, "announce.log", announce.args([RESILIENT, ECMP].map(|it| format!("{it}/32"))));
        Self { daemon, config, _announce: announce, bird: Some(bird), node }
    }

    pub(crate) fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().unwrap()
    }

    pub(crate) fn kill_bird(&mut self) {
        self.bird = None;
    }

    /// Kills the daemon, and starts another one.
    pub(crate) fn replace_daemon(&mut self) {
        self.daemon.take().unwrap().kill();
        self.daemon = Some(self.node.inside(|| Daemon::with(self.node.world(), &self.config)));
    }
}

impl Lab {
    pub(crate) fn new() -> Self {
        let [client, router] = [Node::new(), Node::new()];
        router.ip("link add hosts type bridge\n address add 10.0.0.1/24 dev hosts\n link set hosts up");
        client.wire("eth0", &router, "client");
        client.ip("address add 10.1.0.2/24 dev eth0\n route add default via 10.1.0.1");
        router.ip(&format!(
            "address add 10.1.0.1/24 dev client\n route add 198.18.0.0/16 via 10.1.0.2\n rule add to {ECMP} lookup 100"
        ));
        router.inside(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1")).unwrap();
        let bird = bird(&router, "router.conf");
        let mut resilient = Command::new(example("resilient"));
        resilient.arg(format!("{RESILIENT}/32")).args([
            "1",
            &BUCKETS.to_string(),
            &idle().as_secs().to_string(),
        ]);
        let resilient = start(&router, "resilient.log", &mut resilient);
        let identity = Identity::new(client.world());
        let hosts = (1..=HOSTS).map(|nth| Host::new(&router, nth, &identity)).collect();
        let lab = Self { hosts, _routing: [resilient, bird], client, router, identity };
        // By addresses and ports.
        lab.hash_policy(1);
        lab.until_even();
        lab
    }

    /// What the router's hash is of: `net.ipv4.fib_multipath_hash_policy`.
    pub(crate) fn hash_policy(&self, policy: u8) {
        let file = "/proc/sys/net/ipv4/fib_multipath_hash_policy";
        self.router.inside(|| fs::write(file, policy.to_string())).unwrap();
    }

    /// How many buckets of the router each host has.
    pub(crate) fn buckets(&self) -> Vec<usize> {
        let Ok(said) =
            serde_json::from_str::<serde_json::Value>(&self.router.run("ip -j nexthop bucket show"))
        else {
            return vec![0; HOSTS];
        };
        let mut of = BTreeMap::<u64, usize>::new();
        for it in said.as_array().unwrap() {
            *of.entry(it["bucket"]["nhid"].as_u64().unwrap()).or_default() += 1;
        }
        (1..=HOSTS).map(|nth| of.get(&(65536 + 10 + nth as u64)).copied().unwrap_or_default()).collect()
    }

    /// Waits until the router has given each host its part.
    pub(crate) fn until_even(&self) {
        until(&format!("the router to give each host its part{}", self.logs()), || {
            self.buckets().iter().all(|it| it.abs_diff(BUCKETS / HOSTS) <= 1).then_some(())
        });
    }

    /// The host of each process that serves.
    pub(crate) fn processes(&self) -> BTreeMap<i32, usize> {
        let of = self.hosts.iter().enumerate();
        of.flat_map(|(nth, host)| host.daemon().workers().into_iter().map(move |pid| (pid, nth))).collect()
    }

    /// What the router's programs have said.
    pub(crate) fn logs(&self) -> String {
        let of = |node: &Node, log: &str| {
            format!("\n{log}: {}", fs::read_to_string(node.world().path(log)).unwrap_or_default())
        };
        let mut all = of(&self.router, "bird.log") + &of(&self.router, "resilient.log");
        for host in &self.hosts {
            all += &(of(&host.node, "bird.log") + &of(&host.node, "announce.log"));
        }
        all
    }

    /// Stops all daemons in order.
    pub(crate) fn end(self) {
        for mut host in self.hosts {
            let daemon = host.daemon.take().unwrap();
            host.node.inside(|| daemon.stop());
        }
    }
}
