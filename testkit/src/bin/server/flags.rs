//! What a server is told to do: flags, some of them in files or on conditions.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use humantime::parse_duration;

/// The server of tests.
///
/// `@FILE` stands for the words in FILE, if it is there. What follows `--if-worker NAME` counts for that worker only, what follows
/// `--if-file FILE` only if FILE is there, what follows `--once FILE` only for the first process, which makes FILE.
#[derive(Parser)]
#[command(name = "server", max_term_width = 120)]
pub(crate) struct Flags {
    /// Open a socket by itself, with SO_REUSEPORT, at tcp://ADDRESS or udp://ADDRESS, or one with an abstract name at
    /// unix://NAME; else those of LISTEN_FDS
    #[arg(long, value_name = "URL")]
    pub(crate) open: Vec<String>,
    /// Use the first so many sockets only
    #[arg(long)]
    pub(crate) sockets: Option<usize>,
    /// Its name, if not that in REUSEPORT_LB_WORKER
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// The name of its process, for ps(1); with escapes like \x1b
    #[arg(long)]
    pub(crate) comm: Option<String>,

    /// Take a lock on this file, or end with code 7 if another process has it
    #[arg(long, value_name = "FILE")]
    pub(crate) lock: Option<PathBuf>,
    /// Listen at this address, without SO_REUSEPORT, or end with code 8 if another process does
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics: Option<SocketAddr>,

    /// First wait for so long,
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub(crate) load: Option<Duration>,
    /// then until there is this file,
    #[arg(long, value_name = "FILE")]
    pub(crate) gate: Option<PathBuf>,
    /// then end with this code,
    #[arg(long, value_name = "CODE")]
    pub(crate) exit: Option<i32>,
    /// or look for so long again and again who has come, edge-triggered, and accept nobody;
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub(crate) spin: Option<Duration>,
    /// write into this file what was seen of a hang-up meanwhile
    #[arg(long, value_name = "FILE")]
    pub(crate) hang_ups: Option<PathBuf>,
    /// How to say that it is ready then
    #[arg(long, value_enum, default_value_t = Ready::Never)]
    pub(crate) ready: Ready,
    /// If nobody hears that, write why into this file, and go on
    #[arg(long, value_name = "FILE")]
    pub(crate) unheard: Option<PathBuf>,
    /// Make this file when that is said
    #[arg(long, value_name = "FILE")]
    pub(crate) said: Option<PathBuf>,

    /// How to wait for clients
    #[arg(long, value_enum, default_value_t = Wait::Epoll)]
    pub(crate) wait: Wait,
    /// What to answer
    #[arg(long, value_enum, default_value_t = Answer::Worker)]
    pub(crate) answer: Answer,
    /// Wait before each answer, or between its halves
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub(crate) pause: Option<Duration>,
    /// Wait before an answer to a request for /slow
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub(crate) slow: Option<Duration>,
    /// How long a client may take to its request
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub(crate) patience: Option<Duration>,
    /// Wake up after this time also if nobody has come
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub(crate) tick: Option<Duration>,

    /// What to do at SIGTERM
    #[arg(long, value_enum, default_value_t = Term::Die)]
    pub(crate) term: Term,
    /// With `--term note`: where to write `finished`; made at the start
    #[arg(long, value_name = "FILE", required_if_eq("term", "note"))]
    pub(crate) note: Option<PathBuf>,
    /// End when standard input does
    #[arg(long)]
    pub(crate) until_stdin: bool,
    /// Abort so long after it was ready
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub(crate) crash_after: Option<Duration>,
    /// End so long after it was ready
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub(crate) end_after: Option<Duration>,

    /// Say WATCHDOG=1 twice in the time of WATCHDOG_USEC
    #[arg(long)]
    pub(crate) watchdog: bool,
    /// Say WATCHDOG=1 once in this time
    #[arg(long, value_parser = parse_duration, value_name = "TIME", conflicts_with = "watchdog")]
    pub(crate) ping: Option<Duration>,
    /// So often and no more
    #[arg(long, value_name = "N")]
    pub(crate) beats: Option<u32>,
    /// Connect to NOTIFY_SOCKET once; if nothing can be said there any more, write why into this file
    #[arg(long, value_name = "FILE")]
    pub(crate) connected: Option<PathBuf>,

    /// At SIGUSR2 start the next generation with these sockets, which says MAINPID= and READY=1 and ends this process
    /// (`--wait keep`)
    #[arg(long)]
    pub(crate) upgrade: bool,
    /// At SIGUSR1 make a file of its name in this directory, and compute until `enough` is there
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) compute: Option<PathBuf>,
    /// At SIGUSR1 stop as by SIGSTOP, then do what is in this file (`deeds.rs`); with `--tick` as soon as it is there
    #[arg(long, value_name = "FILE", conflicts_with = "compute")]
    pub(crate) deeds: Option<PathBuf>,
    /// Do this when the first connection is accepted
    #[arg(long, value_name = "DEEDS")]
    pub(crate) at_accept: Option<String>,
    /// Serve nobody, but open sockets at this address as long as there is room
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) crowd: Option<SocketAddr>,
    /// Serve nobody, but try what a worker may not do, and tell in a file `words` of this directory
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) intrude: Option<PathBuf>,
    /// Just say this at NOTIFY_SOCKET
    #[arg(long, value_name = "WORD")]
    pub(crate) say: Option<String>,
    /// Serve nobody, but say what is in a file `order` of this directory
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) orders: Option<PathBuf>,
    /// Serve nobody, but start processes that leave their parent, and tell of them in this directory
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) family: Option<PathBuf>,
    /// How these processes behave
    #[arg(long, value_enum, default_value_t = Family::Plain)]
    pub(crate) how: Family,
}

/// How readiness is said.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ready {
    /// Not at all
    Never,
    /// READY=1
    Notify,
    /// READY=1, by another process
    Helper,
    /// READY=1 after another line
    Status,
    /// The process id, on standard output
    Pid,
}

/// How a server waits.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wait {
    /// In accept(2), at the first socket only
    Accept,
    Poll,
    Select,
    Epoll,
    EpollInEpoll,
    /// In epoll_wait(2), for all connections at the same time, which are kept
    Keep,
}

/// What is answered.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Answer {
    /// What the embedded worker answers; one request a connection, unless `--wait keep`
    Worker,
    /// Sockets, user and descriptors that it has found, to whoever connects
    Found,
    /// `begun ` to one that connects, then `finished`; then it ends
    Halves,
    /// A datagram as it is
    Echo,
    /// Each client from a socket of its own on the listener's address, or why there is none
    Children,
    /// Nobody
    Never,
}

/// What SIGTERM does.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Term {
    /// What it usually does
    Die,
    Ignore,
    /// STOPPING=1; it ends when its listener is shut down (`--wait poll`)
    Polite,
    /// It answers whom it has accepted, and ends (`--wait poll`, `--answer children`)
    Abrupt,
    /// Half a second more; connections are closed after the next answer (`--wait keep`)
    Leave,
    /// After 300 ms it writes its note, and ends (`--answer never`)
    Note,
}

/// How the processes of a server that has several behave.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Family {
    Plain,
    /// The one that has lost its parent says that the server is ready
    Speaks,
    /// The first one says that it lives, as long as there is a file `alive`
    Pings,
    /// All but the first ignore SIGTERM
    Stubborn,
}

impl Flags {
    /// Of this process.
    pub(crate) fn of_process() -> Self {
        let mut given = std::env::args();
        let program = given.next();
        Self::parse_from(program.into_iter().chain(expanded(given.collect())))
    }

    /// What it calls itself.
    pub(crate) fn name(&self) -> String {
        self.name.clone().or_else(|| std::env::var("REUSEPORT_LB_WORKER").ok()).unwrap_or_default()
    }
}

/// Without conditions and files.
fn expanded(given: Vec<String>) -> Vec<String> {
    let mut words = Vec::new();
    let mut given = given.into_iter();
    while let Some(word) = given.next() {
        if let Some(file) = word.strip_prefix('@') {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            words.extend(text.split_whitespace().map(str::to_owned));
            continue;
        }
        let mut operand = || given.next().unwrap_or_default();
        let holds = match word.as_str() {
            "--if-worker" => std::env::var("REUSEPORT_LB_WORKER").is_ok_and(|name| name == operand()),
            "--if-file" => Path::new(&operand()).exists(),
            "--once" => std::fs::File::create_new(operand()).is_ok(),
            _ => {
                words.push(word);
                true
            }
        };
        if !holds {
            break;
        }
    }
    words
}
