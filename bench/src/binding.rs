//! What `sockets = "bind"` costs those who have nothing to do with it: other binds, other system calls, requests.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use testkit::config::Config;
use testkit::daemon::{Daemon, until};
use testkit::world::World;

use crate::client::{Load, Pace, run};
use crate::peers::{Peer, Server, WORKERS};
use crate::process::{self, Process};
use crate::record::{OURS, Record};

/// Without reuseport-lb and its filter.
pub(crate) const PLAIN: &str = "plain";

pub(crate) const BINDS: &str = "ns to open, bind and close another socket";
pub(crate) const CALLS: &str = "ns a system call (getppid)";
pub(crate) const REQUESTS: &str = "requests/s of nginx on kept connections";
pub(crate) const CONNECTIONS: &str = "new connections/s of nginx, one request each";
pub(crate) const CPU: &str = "server CPU µs for each of them";

/// Where the program listens that measures.
const ADDRESS: &str = "127.0.0.1:3050";

/// How often it does each.
const ROUNDS: (u32, u32) = (10_000, 2_000_000);

/// Clients of nginx, with a request each.
const CLIENTS: usize = 64;

/// `bench binds FILE`: opens a socket at [`ADDRESS`], measures, and writes nanoseconds into the file.
pub(crate) fn measured(file: &str) -> Result<()> {
    let _listener = TcpListener::bind(ADDRESS)?;
    let nanos = |rounds: u32, act: &dyn Fn() -> Result<()>| -> Result<f64> {
        let begun = Instant::now();
        (0..rounds).try_for_each(|_| act())?;
        Ok(begun.elapsed().as_nanos() as f64 / f64::from(rounds))
    };
    let calls = nanos(ROUNDS.1, &|| {
        std::hint::black_box(nix::unistd::getppid());
        Ok(())
    })?;
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into();
    let binds = nanos(ROUNDS.0, &|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
        Ok(socket.bind(&any)?)
    })?;
    let half = format!("{file}.new");
    std::fs::write(&half, format!("{binds} {calls}"))?;
    std::fs::rename(half, file)?;
    nix::unistd::pause();
    Ok(())
}

/// Waits for what [`measured`] writes, in nanoseconds.
fn figures(file: &Path) -> Result<[f64; 2]> {
    let text = until("the figures", || std::fs::read_to_string(file).ok());
    let both = text.split(' ').map(str::parse).collect::<Result<Vec<f64>, _>>()?;
    std::fs::remove_file(file)?;
    both.try_into().ok().context("not two figures")
}

/// Section `binding`: with and without it, by turns.
pub(crate) fn run_all(record: &mut Record, world: &World) -> Result<()> {
    let runs = record.either(3, 9);
    for nth in 0..runs {
        for turn in 0..2 {
            let (name, ours) = if (nth + turn) % 2 == 0 { (OURS, true) } else { (PLAIN, false) };
            record.step(&format!("other binds, run {} of {runs}: {name}", nth + 1), seconds(record.quick))?;
            let [binds, calls] = costs(world, ours)?;
            let [kept, new, cpu] = requests(record, world, ours)?;
            let values = [(BINDS, binds), (CALLS, calls), (REQUESTS, kept), (CONNECTIONS, new), (CPU, cpu)];
            record.add("binding", name, nth, &values);
        }
    }
    Ok(())
}

fn costs(world: &World, ours: bool) -> Result<[f64; 2]> {
    let program = std::env::current_exe()?.display().to_string();
    let file = world.path("figures");
    let command = [&*program, "binds", &file.to_string_lossy()];
    if ours {
        let config = Config::service("web").listen(&format!("tcp://{ADDRESS}")).workers(1);
        let daemon = Daemon::with(world, &config.set("sockets", "bind").command(&command));
        let figures = figures(&file);
        ensure!(daemon.service().workers[0].restarts == 0, "{}", daemon.log());
        daemon.stop();
        figures
    } else {
        let mut alone = Command::new(command[0]);
        alone.args(&command[1..]);
        let _alone = Process::start(alone)?;
        figures(&file)
    }
}

/// Requests of nginx each second, on kept connections and on new ones, and CPU time of each of the latter.
fn requests(record: &Record, world: &World, ours: bool) -> Result<[f64; 3]> {
    let peer = if ours { Peer::NginxBound } else { Peer::Nginx };
    let server = Server::start(peer, WORKERS, world)?;
    let load =
        |requests, keep| Load { to: server.to, requests, pace: Pace::Closed(CLIENTS), keep, burn: None };
    let rate = |load: Load| Ok::<f64, anyhow::Error>(run(load, || false)?.whole(load.requests)?.rate());
    rate(load(1_000, false))?;
    // Which process has how many of the kept connections is luck, so they are made anew a few times.
    let rounds = record.either(5, 10);
    let mut kept = 0.0;
    for _ in 0..rounds {
        kept += rate(load(20_000, true))? / f64::from(rounds);
    }
    let requests = record.either(20_000, 60_000);
    let spent = || process::cpu(&server.pids()).iter().sum::<f64>();
    let before = spent();
    let new = rate(load(requests, false))?;
    Ok([kept, new, (spent() - before) * 1e6 / requests as f64])
}

pub(crate) fn seconds(quick: bool) -> f64 {
    if quick { 5.0 } else { 9.0 }
}
