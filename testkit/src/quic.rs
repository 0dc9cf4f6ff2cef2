//! QUIC connections to `quic_echo`, the example: each from a socket of its own, so that each is a flow, all
//! in one thread; and what became of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use quinn::rustls::RootCertStore;
use quinn::{ClientConfig, Connection, Endpoint};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::config::Config;
use crate::daemon::until;
use crate::network::towards;
use crate::patience::at_most;
use crate::world::World;

/// Time between two messages of a connection.
const EVERY: Duration = Duration::from_millis(50);

/// A connection is lost that is not answered for so long.
fn long() -> Duration {
    at_most(Duration::from_secs(5))
}

/// What a server needs to be known, and its clients to know it.
pub struct Identity {
    /// A PEM file.
    pub certificate: PathBuf,
    /// A PEM file.
    pub key: PathBuf,
    trusted: ClientConfig,
}

impl Identity {
    /// A new one for `localhost`, signed by itself, with files in `world`.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn new(world: &World) -> Self {
        let made =
            rcgen::generate_simple_self_signed(["localhost".into()]).expect("cannot make a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("cannot trust the certificate");
        Self {
            certificate: world.file("certificate.pem", &made.cert.pem()),
            key: world.file("key.pem", &made.signing_key.serialize_pem()),
            trusted: ClientConfig::with_root_certificates(Arc::new(roots)).expect("cannot trust anybody"),
        }
    }

    /// A service `echo` over UDP whose workers are this program, with the two files as its last arguments.
    pub fn echo(&self, to: SocketAddr, program: &[&str]) -> Config {
        let files = [&self.certificate, &self.key].map(|it| it.to_string_lossy());
        let words = [program, &files.each_ref().map(|it| &**it)].concat();
        Config::service("echo").listen(&format!("udp://{to}")).command(&words)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Server {
    pub worker: String,
    pub pid: i32,
}

/// A connection that ended without being asked to.
#[derive(Clone, Debug)]
pub struct Lost {
    /// Who had answered on it; nobody, if it was never open.
    pub server: Option<Server>,
    /// How it ended.
    pub why: String,
}

/// What became of connections.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Messages that came back, from the server that the connection began with.
    pub echoes: u64,
    /// Connections that were open, or are.
    pub opened: usize,
    /// Those that ended without being asked to.
    pub lost: Vec<Lost>,
    /// Packets of clients that QUIC took for lost, and sent again.
    pub packets_lost: u64,
    pub slowest: Duration,
    /// How often connections went on from another port.
    pub moved: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { echoes, opened, lost, packets_lost, slowest, moved } = self;
        let lost = lost.len();
        write!(f, "{echoes} echoes on {opened} connections, {lost} of them lost, {moved} changes of port, ")?;
        write!(f, "{packets_lost} packets sent again, slowest echo {slowest:?}")
    }
}

/// Connections that each send every 50 ms and check the answer. One that is lost is opened anew.
pub struct Clients {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    running: Option<JoinHandle<()>>,
}

struct Shared {
    to: SocketAddr,
    trusted: ClientConfig,
    state: Mutex<State>,
    /// How often clients have been told to move.
    moves: AtomicUsize,
    /// Clients move before each so many-th message; 0: only when they are told to.
    restless: AtomicUsize,
}

#[derive(Default)]
struct State {
    report: Report,
    /// For each client: whose its connection is, and its echoes so far, also on earlier ones.
    clients: Vec<(Option<Server>, u64)>,
    /// Connections to these processes shall end.
    unwanted: BTreeSet<i32>,
}

impl Clients {
    /// Opens so many, in this thread's namespace, and waits until each has had an answer.
    ///
    /// # Panics
    /// If that does not come to be.
    #[must_use]
    pub fn start(to: SocketAddr, identity: &Identity, count: usize) -> Self {
        let state = State { clients: vec![(None, 0); count], ..State::default() };
        let shared = Arc::new(Shared {
            to,
            trusted: identity.trusted.clone(),
            state: Mutex::new(state),
            moves: AtomicUsize::new(0),
            restless: AtomicUsize::new(0),
        });
        let (stop, stopping) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("cannot make a runtime for clients");
        let of_thread = shared.clone();
        let running = std::thread::spawn(move || {
            runtime.block_on(async {
                let mut clients = JoinSet::new();
                for index in 0..count {
                    clients.spawn(of_thread.clone().client(index, stopping.clone()));
                }
                clients.join_all().await;
            });
        });
        let clients = Self { shared, stop, running: Some(running) };
        clients.heard_again();
        clients
    }

    /// Waits until each has had one more answer, of the server that it has now.
    ///
    /// # Panics
    /// If that takes too long.
    pub fn heard_again(&self) {
        let counts = || self.shared.lock().clients.iter().map(|(_, echoes)| *echoes).collect::<Vec<_>>();
        let before = counts();
        // One answer may have been on its way when it was asked.
        until("each connection to be answered again", || {
            before.iter().zip(counts()).all(|(before, now)| now > before + 1).then_some(())
        });
    }

    /// How many connections each server has.
    #[must_use]
    pub fn by_server(&self) -> BTreeMap<Server, usize> {
        let mut tally = BTreeMap::new();
        for server in self.shared.lock().clients.iter().filter_map(|(server, _)| server.clone()) {
            *tally.entry(server).or_default() += 1;
        }
        tally
    }

    /// How many connections a process has.
    #[must_use]
    pub fn at(&self, pid: i32) -> usize {
        self.by_server().iter().filter(|(server, _)| server.pid == pid).map(|(_, count)| count).sum()
    }

    /// Each connection goes on from another port, and has been answered there.
    ///
    /// # Panics
    /// If one is not answered any more.
    pub fn move_all(&self) {
        self.shared.moves.fetch_add(1, Relaxed);
        self.heard_again();
    }

    /// From now on each connection moves before every so many-th message.
    pub fn keep_moving(&self, every: usize) {
        self.shared.restless.store(every, Relaxed);
    }

    /// From now on connections to this process are ended in order, and opened anew.
    pub fn avoid(&self, pid: i32) {
        self.shared.lock().unwanted.insert(pid);
    }

    /// What became of them until now.
    #[must_use]
    pub fn so_far(&self) -> Report {
        self.shared.lock().report.clone()
    }

    /// Ends all in order.
    ///
    /// # Panics
    /// If their thread panicked.
    #[must_use]
    pub fn end(mut self) -> Report {
        self.stop.send_replace(true);
        let joined = self.running.take().map(JoinHandle::join);
        assert!(matches!(joined, Some(Ok(()))), "the thread of the clients panicked");
        self.so_far()
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One connection after the other.
    async fn client(self: Arc<Self>, index: usize, stopping: watch::Receiver<bool>) {
        while !*stopping.borrow() {
            let ended = self.connection(index, &stopping).await;
            let mut state = self.lock();
            let server = state.clients[index].0.take();
            state.report.lost.extend(ended.err().map(|why| Lost { server, why }));
        }
    }

    /// From its beginning to its end; the error is why that came too early.
    async fn connection(&self, index: usize, stopping: &watch::Receiver<bool>) -> Result<(), String> {
        let endpoint = Endpoint::client(towards(self.to)).map_err(|error| error.to_string())?;
        let opening = endpoint.connect_with(self.trusted.clone(), self.to, "localhost");
        let opening = opening.map_err(|error| error.to_string())?;
        let opened = timeout(long(), opening).await.map_err(|_| "not open in time".to_owned())?;
        let connection = opened.map_err(|error| error.to_string())?;
        self.lock().report.opened += 1;
        let ended = self.exchange(index, (&endpoint, &connection), stopping).await;
        self.lock().report.packets_lost += connection.stats().path.lost_packets;
        connection.close(0u32.into(), b"");
        // The server hears of it, or is gone.
        let _ = timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
        ended
    }

    async fn exchange(
        &self,
        index: usize,
        (endpoint, connection): (&Endpoint, &Connection),
        stopping: &watch::Receiver<bool>,
    ) -> Result<(), String> {
        let mut moved = self.moves.load(Relaxed);
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for message in 0u64.. {
            tick.tick().await;
            let restless = self.restless.load(Relaxed) as u64;
            let told = self.moves.load(Relaxed);
            if told != std::mem::replace(&mut moved, told)
                || (restless > 0 && (message + index as u64).is_multiple_of(restless))
            {
                let socket = UdpSocket::bind(towards(self.to)).map_err(|error| error.to_string())?;
                endpoint.rebind(socket).map_err(|error| error.to_string())?;
                self.lock().report.moved += 1;
            }
            let begun = Instant::now();
            let message = format!("{index}:{message}");
            let answered = timeout(long(), ask(connection, &message)).await;
            let server = answered.map_err(|_| "no answer in time".to_owned())?.map_err(|error| {
                // Of the stream, while it says more of the connection.
                connection.close_reason().map_or(error, |reason| reason.to_string())
            })?;
            let mut state = self.lock();
            match &state.clients[index].0 {
                None => state.clients[index].0 = Some(server.clone()),
                Some(first) if *first == server => {}
                Some(first) => return Err(format!("{first:?} had it, {server:?} answers")),
            }
            state.clients[index].1 += 1;
            state.report.echoes += 1;
            state.report.slowest = state.report.slowest.max(begun.elapsed());
            if *stopping.borrow() || state.unwanted.contains(&server.pid) {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// One message and its answer, on a stream of its own.
async fn ask(connection: &Connection, message: &str) -> Result<Server, String> {
    let (mut question, mut answer) = connection.open_bi().await.map_err(|error| error.to_string())?;
    question.write_all(message.as_bytes()).await.map_err(|error| error.to_string())?;
    question.finish().map_err(|error| error.to_string())?;
    let answer = answer.read_to_end(1024).await.map_err(|error| error.to_string())?;
    let answer = String::from_utf8_lossy(&answer);
    let server = || {
        let (worker, pid) =
            answer.strip_prefix(message)?.strip_prefix("\nworker=")?.trim_end().split_once("\npid=")?;
        Some(Server { worker: worker.into(), pid: pid.parse().ok()? })
    };
    server().ok_or_else(|| format!("not an answer to {message:?}: {answer:?}"))
}
