//! Ours and what one would use instead, with the same workers: started, asked how much CPU time they
//! have used, and ended by process id.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use reuseport_lb_client::api::ServiceStatus;
use testkit::config::Config;
use testkit::daemon::{Daemon, settled, signal, until};
use testkit::patience::patience;
use testkit::world::{World, program};

use crate::worker;

/// Workers of every variant.
pub(crate) const WORKERS: usize = 4;

/// Workers that reuseport-lb starts at once, at most.
const STEP: usize = 128;

/// How long old processes are waited for after a reload.
const LINGERING: Duration = Duration::from_secs(2);

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// reuseport-lb.
    Ours,
    /// reuseport-lb with `when_busy = "next"`.
    Next,
    /// reuseport-lb with a `stall_timeout` of 300 ms.
    Prompt,
    /// Each worker binds with SO_REUSEPORT by itself.
    Plain,
    /// All workers accept from one listening socket.
    Shared,
    /// HAProxy in TCP mode with two threads in front of the workers.
    Haproxy,
    /// nginx `stream` with two workers in front of the workers.
    NginxStream,
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
            Self::Prompt => "reuseport-lb, stall_timeout 300 ms",
            Self::Plain => "plain SO_REUSEPORT",
            Self::Shared => "one shared socket",
            Self::Haproxy => "HAProxy, TCP mode",
            Self::NginxStream => "nginx stream",
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
            Peer::Ours | Peer::Next | Peer::Prompt => server.daemon = Some(ours(peer, workers, world)?),
            Peer::Plain => server.start_workers(workers, |_| to)?,
            Peer::Shared => {
                let socket: OwnedFd = worker::listen(to, false)?.into();
                for _ in 0..workers {
                    server.processes.push(Process::worker("fd", Some(&socket))?);
                }
            }
            Peer::Haproxy | Peer::NginxStream => {
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
        if self.peer == Peer::Haproxy {
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
        let Self { peer, to, place, .. } = self;
        let listed = |line: &dyn Fn(usize, SocketAddr) -> String| -> String {
            (0..workers).map(|nth| line(nth, peer.backend(nth))).collect()
        };
        let text = match peer {
            Peer::Haproxy => format!(
                "global\n maxconn 8000\n nbthread 2\n hard-stop-after 10s\n stats socket {} mode 600 level admin expose-fd listeners\n\
                 defaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n option httpchk\n\
                 listen l\n bind {to}\n balance leastconn\n \
                 default-server check inter 100ms fall 2 rise 1 on-marked-down shutdown-sessions\n{}",
                place.join("stats").display(),
                listed(&|nth, at| format!(" server s{nth} {at}\n"))
            ),
            Peer::NginxStream => format!(
                "{}worker_processes 2;\nstream {{ upstream u {{ {} }}\nserver {{ listen {to} reuseport; proxy_pass u; }} }}\n",
                nginx_head(place),
                listed(&|_, at| format!("server {at}; "))
            ),
            _ => format!(
                "{}worker_processes {workers};\nhttp {{ {} access_log off; keepalive_requests 100000000; \
                 server {{ listen {to} reuseport backlog=4096; return 200 \"ok\\n\"; }} }}\n",
                nginx_head(place),
                ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                    .map(|kind| format!("{kind}_temp_path {};", place.join(kind).display()))
                    .join(" "),
            ),
        };
        Ok(std::fs::write(place.join("config"), text)?)
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

    /// CPU time so far, in seconds, of each of `pids`.
    pub(crate) fn cpu(pids: &[i32]) -> Vec<f64> {
        let ticks = |pid: &i32| -> Option<f64> {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
            Some(fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?)
        };
        pids.iter().map(|pid| ticks(pid).unwrap_or(0.0) / 100.0).collect()
    }

    /// How often `pids` have gone to sleep so far, with all their threads.
    pub(crate) fn sleeps(pids: &[i32]) -> f64 {
        let threads =
            pids.iter().filter_map(|pid| std::fs::read_dir(format!("/proc/{pid}/task")).ok()).flatten();
        let sleeps = |thread: std::fs::DirEntry| -> Option<f64> {
            let status = std::fs::read_to_string(thread.path().join("status")).ok()?;
            status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse().ok())
        };
        threads.flatten().filter_map(sleeps).sum()
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
                    until("a plain worker to end", || old.0.try_wait().ok().flatten());
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
                    until("a plain worker to end", || old.0.try_wait().ok().flatten());
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

fn nginx_head(place: &Path) -> String {
    let modules = std::env::var_os("NGINX_MODULES").map_or("/usr/lib/nginx/modules".into(), PathBuf::from);
    format!(
        "load_module {};\ndaemon off; user root; pid {};\nevents {{ worker_connections 16384; }}\n",
        modules.join("ngx_stream_module.so").display(),
        place.join("pid").display()
    )
}

fn ours(peer: Peer, workers: usize, world: &World) -> Result<Daemon> {
    let config = Config::service("web").listen(&format!("tcp://127.0.0.1:{}", peer.port()));
    let config = match peer {
        Peer::Next => config.set("when_busy", "next"),
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

/// A process that the benchmark started; killed on drop.
pub(crate) struct Process(Child);

impl Process {
    /// A worker that binds `place`, or has its listener passed.
    pub(crate) fn worker(place: &str, listener: Option<&OwnedFd>) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["worker", place])
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if let Some(fd) = listener.map(AsRawFd::as_raw_fd) {
            // SAFETY: both calls are async-signal-safe, and the descriptor is open until after the start.
            let pass = move || match unsafe { libc::dup2(fd, 3) | libc::fcntl(3, libc::F_SETFD, 0) } {
                0.. => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            };
            // SAFETY: as above.
            unsafe { command.pre_exec(pass) };
        }
        let mut process = Self::start(command)?;
        let mut said = String::new();
        BufReader::new(process.0.stdout.take().context("no output")?).read_line(&mut said)?;
        ensure!(said == "ready\n", "a worker did not start");
        Ok(process)
    }

    pub(crate) fn start(mut command: Command) -> Result<Self> {
        // Each is a session of its own, as workers of a daemon are: the scheduler may share CPUs by sessions.
        let alone = || Ok(nix::unistd::setsid().and(nix::sys::prctl::set_pdeathsig(Signal::SIGTERM))?);
        // SAFETY: setsid(2) and prctl(2) are async-signal-safe.
        unsafe { command.pre_exec(alone) };
        let child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
        Ok(Self(child))
    }

    pub(crate) fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            // A stopped one must go on to end.
            signal(self.pid(), Signal::SIGCONT);
            signal(self.pid(), Signal::SIGTERM);
            for _ in 0..100 {
                if !matches!(self.0.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            for pid in with_children(self.pid()) {
                signal(pid, Signal::SIGKILL);
            }
        }
        let _ = self.0.wait();
    }
}

/// A process and its children.
fn with_children(pid: i32) -> Vec<i32> {
    let listed = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    std::iter::once(pid).chain(listed.split_whitespace().filter_map(|pid| pid.parse().ok())).collect()
}
