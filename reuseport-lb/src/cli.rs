//! The command line: verbs, options, help texts. Not: what the commands do (`cmd/`).

mod changes;
mod launch;
mod machine;
mod questions;
mod values;
mod worker;

pub(crate) use changes::{
    AdoptArgs, DrainArgs, ReleaseArgs, ReloadArgs, RestartArgs, ScaleArgs, StopArgs, WeightArgs,
};
pub(crate) use machine::{HealthArgs, HostArgs, HostVerb};
pub(crate) use questions::{
    CheckArgs, DoctorArgs, EventsArgs, PolicyArgs, PolicyTestArgs, PolicyVerb, StatusArgs, TopArgs, TraceArgs,
};
pub(crate) use worker::{ConnectArgs, ExecArgs};

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::process::LogTo;
use crate::config::{
    self, HttpAddress, LogFormat, Ready, Replace, SocketOwner, SocketSource, StopMode, StopSignal,
};
use crate::daemon::Paths;
use crate::domain::listener::Listener;
use crate::domain::whose::Whose;
use crate::kernel::bpffs;
use crate::kernel::findings::TRIAL;
use crate::kernel::launch::COMMAND;

const EXAMPLES: &str = "\
Examples:
  reuseport-lb run                                              the embedded demo on port 8080
  reuseport-lb run --listen tcp://127.0.0.1:3000 --workers 3    three embedded workers
  reuseport-lb run --config /etc/reuseport-lb.toml              your services
  reuseport-lb doctor --config /etc/reuseport-lb.toml           would they work here?
  reuseport-lb status                                           what happens

`run` needs root or eight capabilities (docs/SYSTEMD.md). Commands that speak to a daemon are for root and the daemon's \
user, those that only ask also for the group that `monitors` names; `exec` is for whom the service lets join.

Exit codes: 0 done, 1 failed, 2 usage or invalid configuration.";

/// Gives every worker of a server its own SO_REUSEPORT socket and picks among them in the kernel by
/// consistent hashing.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

impl Cli {
    /// Reads a command line.
    pub fn parse<T: Into<std::ffi::OsString> + Clone>(
        line: impl IntoIterator<Item = T>,
    ) -> Result<Self, clap::Error> {
        Self::try_parse_from(line).map_err(|error| values::explain(error, &Self::command()))
    }
}

/// Heads the options of [`Global`] in help texts.
const COMMON: &str = "Options of every command";

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The directory of the daemon's lock, sockets and state; one for each daemon
    #[arg(long, global = true, help_heading = COMMON, value_name = "DIR", default_value = "/run/reuseport-lb")]
    pub(crate) runtime_dir: PathBuf,
    /// A BPF file system, for what the kernel shall keep without the daemon; if there is none, it is mounted there, on an
    /// empty directory
    #[arg(long, global = true, help_heading = COMMON, value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub(crate) bpffs: PathBuf,
    /// Log more; twice: still more. RUST_LOG overrules it
    #[arg(short, long, global = true, help_heading = COMMON, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

impl Global {
    /// Both directories as absolute paths: workers get paths in them, and may change their working directory.
    pub(crate) fn paths(&self) -> std::io::Result<Paths> {
        let absolute = |path: &PathBuf| std::path::absolute(path);
        Ok(Paths { runtime_dir: absolute(&self.runtime_dir)?, bpffs: absolute(&self.bpffs)? })
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run the daemon in the foreground
    #[command(after_help = "\
Examples:
  reuseport-lb run
  reuseport-lb run --listen tcp://0.0.0.0:8080 --listen udp://0.0.0.0:8080 --workers 8
  reuseport-lb run --listen tcp://127.0.0.1:3000 --stop-signal USR1 -- haproxy -db -f haproxy.cfg
  reuseport-lb run --config /etc/reuseport-lb.toml

It needs root, or the capabilities in docs/SYSTEMD.md; `reuseport-lb doctor` says what is missing.

A command gets its sockets as descriptors 3, 4, … in the order of --listen, with LISTEN_FDS, LISTEN_PID, \
LISTEN_FDNAMES, NOTIFY_SOCKET and REUSEPORT_LB_WORKER, _SERVICE and _INDEX in its environment. {index}, {worker}, \
{service} and {pid} in its arguments, --env and --cwd stand for the worker's own; --log has them but for {pid}. \
What has no option has a key in a file.

Without --config and --listen it listens on tcp and udp of 127.0.0.1:8080 and [::1]:8080. SIGTERM, SIGINT (Ctrl-C) \
and `reuseport-lb stop` end it in order; a second signal ends it at once.")]
    Run(RunArgs),
    /// Join a running daemon as a worker, from anywhere, and become a command
    #[command(after_help = worker::EXEC)]
    Exec(ExecArgs),
    /// Speak with one worker, through the listener that everyone uses
    #[command(after_help = worker::CONNECT)]
    Connect(ConnectArgs),
    /// Show services, listeners and workers
    #[command(after_help = "\
Examples:
  reuseport-lb status
  reuseport-lb status web
  reuseport-lb status web/2
  reuseport-lb status --json | jq '.services[].workers[] | {name, state, share}'
  reuseport-lb status --watch
  reuseport-lb status --check      for monitoring: exit code 0 if all is ready, else 1

Of listeners: DECISIONS is how often the program in the kernel (PROGRAM, its id) picked a socket for a connection or a \
datagram, REFUSED how often there was none to pick, STRANGERS how many sockets other programs have on that address: they \
get nothing.

Of workers: SHARE is their part of the 65,536 buckets that all clients are hashed into, and so of what is new; SLOT their \
place in the kernel's table of sockets, SELECTED how often they were picked, QUEUE how many connections they have not \
accepted yet, RESTARTS how often their process was started again. Below the table stands what a worker lacks that does \
not serve.")]
    Status(StatusArgs),
    /// Watch services and workers, and change them by keys
    #[command(after_help = questions::TOP_HELP)]
    Top(TopArgs),
    /// Check a configuration file and show what it means; changes nothing
    #[command(after_help = "\
Examples:
  reuseport-lb check /etc/reuseport-lb.toml
  reuseport-lb check --json /etc/reuseport-lb.toml
  reuseport-lb check --offline web.toml      on a machine without its users and commands")]
    Check(CheckArgs),
    /// Find out what would keep services from working here; changes nothing
    #[command(after_help = "\
Examples:
  reuseport-lb doctor
  reuseport-lb doctor --config /etc/reuseport-lb.toml
  reuseport-lb doctor --json | jq '.checks[] | select(.verdict != \"ok\")'

Run it as the daemon will be run: as the same user, with the same --runtime-dir and --bpffs, best also with the same \
limits. Each line says ok, WARNING (it works, but) or FAILURE (it would not work); the last two with what that means and \
how to mend it (docs/DOCTOR.md). Without --config it looks at what `run` alone needs.

Exit codes: 0 no failure, 1 at least one, 2 usage or invalid configuration.")]
    Doctor(DoctorArgs),
    /// Show what happened and happens to services and workers, why, and who asked for it, as JSON lines
    #[command(after_help = questions::EVENTS)]
    Events(EventsArgs),
    /// Show single decisions as they are made, until Ctrl-C
    #[command(after_help = "\
Examples:
  reuseport-lb trace web
  reuseport-lb trace web --count 10
  reuseport-lb trace web --json | jq .worker
  reuseport-lb trace web --explain 192.0.2.7     where would this client go now, and why?
  reuseport-lb trace web --explain [2001:db8::7]:40000 --listen udp://[::]:53 --json

While it runs, every decision leaves the fast path and writes a log line; it costs nothing when it does not. A reader \
that is too slow misses decisions, and is told how many.

--explain asks the daemon instead, once, and decides as the kernel would. With affinity \"source\" the answer is exact, and \
the port does not matter. With the others nobody can know it beforehand: it shows how likely each worker is.")]
    Trace(TraceArgs),
    /// Try a function of your own that says which packets belong together; changes nothing
    #[command(after_help = questions::POLICY)]
    Policy(PolicyArgs),
    /// Steer a server that others have started and that runs: the sockets that it has open
    #[command(after_help = changes::ADOPT)]
    Adopt(AdoptArgs),
    /// Let go of a server that was adopted: it goes on, and the kernel chooses again
    #[command(after_help = "\
Examples:
  reuseport-lb release web

What it has open stays open, with all that waits there. A service that is in the configuration comes back with the next \
`reload`.")]
    Release(ReleaseArgs),
    /// Add or remove workers, and wait until that is done
    #[command(after_help = "\
Examples:
  reuseport-lb scale web 8
  reuseport-lb scale web +1            one more than it shall have now
  reuseport-lb scale web -2            two fewer
  reuseport-lb scale web 2 --no-wait

New workers get their share when they are ready. Those with the highest numbers leave: they get nothing new, their queue \
empties, then stop_signal (SIGTERM), and SIGKILL after drain_timeout. What this changes holds until `reload`.")]
    Scale(ScaleArgs),
    /// Change the weight of a worker: its share is its weight over the sum of all
    #[command(after_help = "\
Examples:
  reuseport-lb weight web/2 5
  reuseport-lb weight web/2 0      no new flows for it")]
    Weight(WeightArgs),
    /// Let a worker leave in order, and wait until it is gone
    #[command(after_help = "\
Examples:
  reuseport-lb drain web/2
  reuseport-lb drain web/2 --timeout 5s

It gets nothing new, its queue empties, then stop_signal (SIGTERM), and SIGKILL if it is still there after the timeout. \
It is not replaced: the service has one worker less until `scale` or `reload`.")]
    Drain(DrainArgs),
    /// Replace the process of a worker, or of all workers of a service, without losing a connection
    #[command(after_help = "\
Examples:
  reuseport-lb restart web
  reuseport-lb restart web --parallel 4
  reuseport-lb restart web/2

A new process is started beside each old one. When it is ready, and the first one also after a trial, it takes over, and \
the old one leaves in order. If it does not become ready, it is stopped, the old one stays, and no other worker is \
replaced. With replace = \"stop-first\" the old process ends first.")]
    Restart(RestartArgs),
    /// Say whether new traffic should be sent to this machine, and how much
    #[command(after_help = machine::HEALTH)]
    Health(HealthArgs),
    /// Tell everyone who asks whether this machine is to get anything new
    #[command(after_help = machine::HOST)]
    Host(HostArgs),
    /// Read the configuration again, and apply it whole, or not at all
    #[command(after_help = "\
Examples:
  reuseport-lb reload --dry-run                            what would be changed
  reuseport-lb reload
  systemctl reload reuseport-lb                            if it runs as a unit
  kill -HUP $(head -n1 /run/reuseport-lb/daemon.lock)      the same; the outcome is in the log

It is for a daemon that was started with --config. docs/CONFIGURATION.md says which keys replace processes.")]
    Reload(ReloadArgs),
    /// End the daemon in order, and wait until it is gone
    #[command(after_help = "\
Examples:
  reuseport-lb stop
  reuseport-lb stop --keep                      workers go on; the next `run` takes them over
  reuseport-lb stop --announce 10s              say so first, for 10 s
  reuseport-lb stop --runtime-dir /run/other")]
    Stop(StopArgs),
    #[command(name = COMMAND, hide = true)]
    Launch(launch::Options),
    #[command(name = TRIAL, hide = true)]
    TryCalls,
    #[command(name = bpffs::UNMOUNT, hide = true)]
    Unmount { bpffs: PathBuf },
}

impl Verb {
    /// Whether the answer is to be JSON.
    pub(crate) fn json(&self) -> bool {
        match self {
            Self::Status(arguments) => arguments.json,
            Self::Check(arguments) => arguments.json,
            Self::Doctor(arguments) => arguments.json,
            Self::Events(arguments) => !arguments.text,
            Self::Trace(arguments) => arguments.json,
            Self::Policy(PolicyArgs { verb: PolicyVerb::Test(arguments), .. }) => arguments.json,
            Self::Adopt(arguments) => arguments.json,
            Self::Release(arguments) => arguments.json,
            Self::Scale(arguments) => arguments.json,
            Self::Weight(arguments) => arguments.json,
            Self::Drain(arguments) => arguments.json,
            Self::Restart(arguments) => arguments.json,
            Self::Health(arguments) => arguments.json,
            Self::Host(HostArgs { verb: HostVerb::Drain(arguments) }) => arguments.json,
            Self::Host(HostArgs { verb: HostVerb::Undrain(arguments) }) => arguments.json,
            Self::Reload(arguments) => arguments.json,
            Self::Stop(arguments) => arguments.json,
            Self::Run(_) | Self::Exec(_) | Self::Connect(_) | Self::Top(_) => false,
            Self::Launch(_) | Self::TryCalls | Self::Unmount { .. } => false,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// A file with services (docs/CONFIGURATION.md)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["listen", "workers", "name", "ready", "sockets", "adopt", "stop_signal", "stop_mode", "replace", "user", "group", "socket_owner", "join", "env", "cwd", "lame_duck", "log", "command"])]
    pub(crate) config: Option<PathBuf>,
    /// An address to listen on, like tcp://127.0.0.1:3000, udp://[::]:53, or tcp://*:80 for both families; may be repeated
    #[arg(long, value_name = "URL")]
    pub(crate) listen: Vec<Listener>,
    /// How many workers, at most 1,024
    #[arg(long, value_name = "N", default_value = "4", value_parser = values::count, allow_negative_numbers = true)]
    pub(crate) workers: usize,
    /// The name of the service
    #[arg(long, value_name = "NAME", default_value = "demo")]
    pub(crate) name: String,
    /// How a command comes by its sockets: pass (it gets them, LISTEN_FDS), bind (it opens its own, like servers that
    /// know nothing of socket activation), or nginx (it gets them in the way of nginx)
    #[arg(long, value_name = "HOW", default_value = "pass", requires = "command")]
    pub(crate) sockets: SocketSource,
    /// Instead of starting workers adopt the sockets of a server that runs already, as it opens and closes them:
    /// pid=4711, pid_file=/run/nginx.pid, unit=nginx.service, or any (docs/SERVERS.md)
    #[arg(long, value_name = "WHOSE", requires = "listen", conflicts_with_all = ["command", "workers", "join", "log"])]
    pub(crate) adopt: Option<Whose>,
    /// When a command counts as ready: accepting (it waits for work on its sockets; the default), listening (it has called
    /// listen; the default with --sockets bind), notify (READY=1), immediate, or a time like 500ms (it waits for work then);
    /// READY=1 counts with each
    #[arg(long, value_name = "WHEN", requires = "command")]
    pub(crate) ready: Option<Ready>,
    /// What ends a worker of a command in order: TERM, QUIT, INT, HUP, USR1, USR2 or WINCH; nginx needs QUIT,
    /// HAProxy USR1
    #[arg(long, value_name = "SIGNAL", default_value = "TERM", requires = "command")]
    pub(crate) stop_signal: StopSignal,
    /// Which processes of a worker get that signal: group (all) or main (the first one)
    #[arg(long, value_name = "MODE", default_value = "group", requires = "command")]
    pub(crate) stop_mode: StopMode,
    /// How `restart` replaces a worker of a command: start-first (its successor starts beside it) or stop-first (it ends
    /// before, for servers with a lock, a pid file or a port of their own)
    #[arg(long, value_name = "ORDER", default_value = "start-first", requires = "command", value_parser = values::replace)]
    pub(crate) replace: Replace,
    /// The user that workers of a command run as, by name or number; without it the daemon's
    #[arg(long, value_name = "USER", requires = "command")]
    pub(crate) user: Option<String>,
    /// Their group, by name or number; without it the user's primary one
    #[arg(long, value_name = "GROUP", requires_all = ["command", "user"])]
    pub(crate) group: Option<String>,
    /// The user that the sockets belong to: daemon, or user, who can then bind further ones on their addresses
    #[arg(long, value_name = "OWNER", default_value = "daemon", requires = "user")]
    pub(crate) socket_owner: SocketOwner,
    /// A user whose processes may join, by name or number, besides root; may be repeated. Without it that of
    /// --user
    #[arg(long, value_name = "USER")]
    pub(crate) join: Vec<String>,
    /// A variable for workers of a command, like PORT=808{index}; may be repeated
    #[arg(long, value_name = "KEY=VALUE", requires = "command", value_parser = values::variable)]
    pub(crate) env: Vec<(String, String)>,
    /// Their working directory, like /srv/{worker}; without it the daemon's
    #[arg(long, value_name = "DIR", requires = "command", value_parser = values::directory)]
    pub(crate) cwd: Option<String>,
    /// How long to go on serving after `stop`, SIGTERM or SIGINT, like 10s, while `status` says that the service is to
    /// end: for load balancers in front
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = config::duration)]
    pub(crate) lame_duck: Duration,
    /// Where the output of workers goes: inherit (with the daemon's log), or a file, like /var/log/web-{index}.log,
    /// which is renamed at 10 MiB; the last three are kept
    #[arg(long, value_name = "WHERE", default_value = "inherit", value_parser = config::log)]
    pub(crate) log: LogTo,
    /// Answer over HTTP at this address, like 127.0.0.1:9465 or /run/lb.http: /metrics, /readyz and more
    /// (docs/HTTP.md); counts more than [http] of a file
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) http: Option<HttpAddress>,
    /// A group whose members may ask what changes nothing (status, events, top, trace --explain), by name or number;
    /// counts more than monitors of a file
    #[arg(long, value_name = "GROUP")]
    pub(crate) monitors: Option<String>,
    /// Answer agent checks of HAProxy at this address, like 127.0.0.1:9466 (docs/MACHINES.md); counts more than [agent] of a
    /// file
    #[arg(long, value_name = "ADDRESS", value_parser = config::agent)]
    pub(crate) agent: Option<std::net::SocketAddr>,
    /// How the log looks: text, or json, one object a line; counts more than log_format of a file, and is text without
    /// both
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
    /// The program of a worker, and its arguments; without it the embedded one
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[cfg(test)]
mod tests;
