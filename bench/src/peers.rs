//! Ours and what one would use instead, with the same workers: started, asked how much CPU time they
//! have used, and ended by process id.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use reuseport_lb_client::api::ServiceStatus;
use testkit::config::Config;
use testkit::daemon::{Daemon, settled, signal, until};
use testkit::patience::patience;
use testkit::world::{World, program};

use crate::process::{Process, with_children};
use crate::{proxies, worker};

/// Workers of every variant.
pub(crate) const WORKERS: usize = 4;

/// Workers that reuseport-lb starts at once, at most.
const STEP: usize = 128;

/// How nginx chooses by connections: in memory of both of its workers, each of which would count only its own.
const LEAST_CONN: &str = "zone u 64k; least_conn; ";

/// How long old processes are waited for after a reload.
const LINGERING: Duration = Duration::from_secs(2);

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// reuseport-lb.
    Ours,
    /// reuseport-lb with `when_busy = "next"`.
    Next,
    /// reuseport-lb with `balance = "least"`.
    Least,
    /// reuseport-lb with `count_connections = true`.
    Counted,
    /// reuseport-lb with a `stall_timeout` of 300 ms.
    Prompt,
    /// Each worker binds with SO_REUSEPORT by itself.
    Plain,
    /// All workers accept from one listening socket.
    Shared,
    /// HAProxy in TCP mode with two threads in front of the workers, `leastconn`.
    Haproxy,
    /// HAProxy in TCP mode with two threads in front of the workers, `random(2)`.
    HaproxyRandom,
    /// nginx `stream` with two workers in front of the workers.
    NginxStream,
    /// nginx `stream` with two workers in front of the workers, `least_conn`.
    NginxLeast,
    /// nginx itself answers, from four workers with `reuseport`.
    Nginx,
    /// nginx itself answers, from sockets that it has opened under reuseport-lb with `sockets = "bind"`.
    NginxBound,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "reuseport-lb",
            Self::Next => "reuseport-lb, when_busy next",
            Self::Least => "reuseport-lb, balance least",
            Self::Counted => "reuseport-lb, count_connections",
            Self::Prompt => "reuseport-lb, stall_timeout 300 ms",
            Self::Plain => "plain SO_REUSEPORT",
            Self::Shared => "one shared socket",
            Self::Haproxy => "HAProxy, TCP mode",
            Self::HaproxyRandom => "HAProxy, TCP mode, random(2)",
            Self::NginxStream => "nginx stream",
            Self::NginxLeast => "nginx stream, least_conn",
            Self::Nginx => "nginx, reuseport",
            Self::NginxBound => "reuseport-lb with nginx, reuseport",
        }
    }

    fn port(self) -> u16 {
        3000 + self as u16
    }

    fn backend(self, worker: usize) -> SocketAddr {
        ([127, 0, 0, 1], 4000 + 100 * self as u16 + worker as u16).into()
    }
}

/// A variant that serves; ended on drop.
pub(crate) struct Server {
    pub(crate) peer: Peer,
    pub(crate) to: SocketAddr,
    /// Those of reuseport-lb.
    pub(crate) daemon: Option<Daemon>,
    /// Workers and proxies that the benchmark started itself.
    processes: Vec<Process>,
    place: PathBuf,
    /// Changes after which old processes went on for longer than they are waited for.
    pub(crate) lingered: usize,
}

impl Server {
    pub(crate) fn start(peer: Peer, workers: usize, world: &World) -> Result<Self> {
        let to = ([127, 0, 0, 1], peer.port()).into();
        let place = world.path(&format!("{peer:?}"));
        std::fs::create_dir_all(&place)?;
        let mut server = Self { peer, to, daemon: None, processes: Vec::new(), place, lingered: 0 };
        match peer {
            Peer::Ours | Peer::Next | Peer::Least | Peer::Counted | Peer::Prompt => {
                server.daemon = Some(ours(peer, workers, world)?);
            }
            Peer::Plain => server.start_workers(workers, |_| to)?,
            Peer::Shared => {
                let socket: OwnedFd = worker::listen(to, false)?.into();
                for _ in 0..workers {
                    server.processes.push(Process::worker("fd", Some(&socket))?);
                }
            }
            Peer::Haproxy | Peer::HaproxyRandom | Peer::NginxStream | Peer::NginxLeast => {
                server.start_workers(workers, |nth| peer.backend(nth))?;
                server.start_proxy(workers)?;
            }
            Peer::Nginx => server.start_proxy(workers)?,
            Peer::NginxBound => {
                server.configure(workers)?;
                server.daemon = Some(server.bound(workers, world));
            }
        }
        until("a server to answer", || std::net::TcpStream::connect(to).ok());
        Ok(server)
    }

    fn start_workers(&mut self, workers: usize, place: impl Fn(usize) -> SocketAddr) -> Result<()> {
        for nth in 0..workers {
            self.processes.push(Process::worker(&place(nth).to_string(), None)?);
        }
        Ok(())
    }

    fn start_proxy(&mut self, workers: usize) -> Result<()> {
        let file = self.place.join("config");
        self.configure(workers)?;
        let mut command;
        if matches!(self.peer, Peer::Haproxy | Peer::HaproxyRandom) {
            command = Command::new(program("haproxy"));
            command.args(["-W", "-db", "-f"]).arg(&file);
        } else {
            let words = self.nginx();
            command = Command::new(&words[0]);
            command.args(&words[1..]);
        }
        let log = std::fs::File::create(self.place.join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.processes.push(Process::start(command)?);
        Ok(())
    }

    fn nginx(&self) -> Vec<String> {
        let place = |path: PathBuf| path.display().to_string();
        let words =
            ["-e", "stderr", "-p", &place(self.place.clone()), "-c", &place(self.place.join("config"))];
        [place(program("nginx"))].into_iter().chain(words.map(str::to_owned)).collect()
    }

    /// nginx as a worker, whose processes are members of the table each.
    fn bound(&self, processes: usize, world: &World) -> Daemon {
        let config = Config::service("web").listen(&format!("tcp://{}", self.to)).workers(1);
        let config = config.set("sockets", "bind").set("stop_signal", "QUIT").command(&self.nginx());
        let daemon = Daemon::with(world, &config);
        until("all processes of nginx", || {
            let service = daemon.service();
            (service.workers.len() == processes && settled(&service)).then_some(())
        });
        daemon
    }

    /// Writes the proxy's configuration.
    fn configure(&self, workers: usize) -> Result<()> {
        let backends: Vec<SocketAddr> = (0..workers).map(|nth| self.peer.backend(nth)).collect();
        let text = match self.peer {
            Peer::Haproxy => proxies::haproxy("leastconn", self.to, &backends, &self.place),
            Peer::HaproxyRandom => proxies::haproxy("random(2)", self.to, &backends, &self.place),
            Peer::NginxStream => proxies::nginx_stream("", self.to, &backends, &self.place),
            Peer::NginxLeast => proxies::nginx_stream(LEAST_CONN, self.to, &backends, &self.place),
            _ => proxies::nginx(self.to, workers, &self.place),
        };
        Ok(std::fs::write(self.place.join("config"), text)?)
    }

    /// All processes that serve, with the daemon.
    pub(crate) fn pids(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = self.processes.iter().flat_map(|it| with_children(it.pid())).collect();
        if let Some(daemon) = &self.daemon {
            pids.push(daemon.pid());
            let workers: std::collections::BTreeSet<i32> = daemon.workers().into_iter().collect();
            pids.extend(workers.into_iter().flat_map(with_children));
        }
        pids
    }

    /// A process that answers requests.
    pub(crate) fn a_worker(&self) -> Result<i32> {
        let found = match (&self.daemon, self.peer) {
            (Some(daemon), _) => daemon.workers().get(1).copied(),
            (_, Peer::Nginx) => with_children(self.processes[0].pid()).get(2).copied(),
            _ => self.processes.get(1).map(Process::pid),
        };
        found.context("no worker")
    }

    /// Replaces everything once, in the way in which this variant does that.
    pub(crate) fn restart(&mut self) -> Result<()> {
        match &self.daemon {
            Some(daemon) => drop(daemon.run(&["restart", "web", "--trial", "0s"])),
            None if self.peer == Peer::Plain => {
                for nth in 0..self.processes.len() {
                    let successor = Process::worker(&self.to.to_string(), None)?;
                    let mut old = std::mem::replace(&mut self.processes[nth], successor);
                    signal(old.pid(), Signal::SIGTERM);
                    until("a plain worker to end", || old.ended());
                }
            }
            None => self.reload()?,
        }
        Ok(())
    }

    /// Goes on with another number of workers.
    pub(crate) fn scale(&mut self, workers: usize) -> Result<()> {
        match &self.daemon {
            Some(daemon) => drop(daemon.run(&["scale", "web", &workers.to_string()])),
            None if self.peer == Peer::Plain => {
                while self.processes.len() < workers {
                    self.processes.push(Process::worker(&self.to.to_string(), None)?);
                }
                while self.processes.len() > workers {
                    let Some(mut old) = self.processes.pop() else { break };
                    signal(old.pid(), Signal::SIGTERM);
                    until("a plain worker to end", || old.ended());
                }
            }
            None => {
                self.configure(workers)?;
                self.reload()?;
            }
        }
        Ok(())
    }

    fn reload(&mut self) -> Result<()> {
        let proxy = self.processes.last().context("no proxy")?;
        let before = with_children(proxy.pid());
        let how = if self.peer == Peer::Haproxy { Signal::SIGUSR2 } else { Signal::SIGHUP };
        signal(proxy.pid(), how);
        let begun = Instant::now();
        loop {
            let now = with_children(proxy.pid());
            let new = now.iter().skip(1).any(|pid| !before.contains(pid));
            let old = now.iter().skip(1).any(|pid| before.contains(pid));
            // An old one may wait for its last connections; that is its own matter.
            let lingers = old && begun.elapsed() > LINGERING;
            if new && (!old || lingers) {
                self.lingered += usize::from(lingers);
                break;
            }
            ensure!(begun.elapsed() < patience(), "{} has no new processes after a reload", self.peer.name());
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(50));
        Ok(())
    }
}

fn ours(peer: Peer, workers: usize, world: &World) -> Result<Daemon> {
    let config = Config::service("web").listen(&format!("tcp://127.0.0.1:{}", peer.port()));
    let config = match peer {
        Peer::Next => config.set("when_busy", "next"),
        Peer::Least => config.set("balance", "least"),
        Peer::Counted => config.toml("count_connections", "true".into()),
        Peer::Prompt => config.set("stall_timeout", "300ms"),
        _ => config,
    };
    let first = workers.min(STEP);
    let program = std::env::current_exe()?.display().to_string();
    let daemon = Daemon::with(world, &config.workers(first).command(&[&*program, "worker", "fd"]));
    // In steps, and on a busy machine the daemon may be too busy to answer for a while.
    for next in (first..workers).step_by(STEP).map(|from| workers.min(from + STEP)) {
        let begun = Instant::now();
        let _ = daemon.paths().output(&["scale", "web", &next.to_string()]);
        let there = |service: &ServiceStatus| service.workers.len() == next && settled(service);
        while !daemon.paths().status().is_some_and(|status| status.services.iter().all(there)) {
            ensure!(begun.elapsed() < 2 * patience(), "{next} workers are not there in time");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(daemon)
}
