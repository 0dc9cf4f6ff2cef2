//! Flows of datagrams as a load: a question in each every 10 ms, and what became of them.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::background::Background;
use crate::client::Answer;

pub struct Datagrams(Background<Tally>);

/// What became of datagrams.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub sent: u64,
    /// Questions without an answer.
    pub lost: u64,
    /// Times that another process answered than before.
    pub moved: u64,
    /// The longest time until an answer.
    pub slowest: Duration,
}

impl Datagrams {
    /// So many flows to one address.
    ///
    /// # Panics
    /// If there is no socket for one.
    #[must_use]
    pub fn start(to: SocketAddr, flows: usize) -> Self {
        let mut flows: Vec<Flow> = (0..flows).map(|_| Flow::new(to)).collect();
        Self(Background::start(move |over| {
            while !over.load(Ordering::Relaxed) {
                flows.iter_mut().for_each(Flow::turn);
                std::thread::sleep(Duration::from_millis(10)); // sleep: the pace of the load
            }
            // What is on its way may come.
            let begun = Instant::now();
            while flows.iter().any(|flow| flow.asked.is_some()) && begun.elapsed() < Flow::PATIENCE {
                flows.iter_mut().for_each(Flow::listen);
                std::thread::sleep(Duration::from_millis(1)); // sleep: between two looks at sockets that do not block
            }
            let mut sum = Tally::default();
            for flow in flows {
                let Tally { sent, lost, moved, slowest } = flow.tally;
                sum.sent += sent;
                sum.lost += lost + u64::from(flow.asked.is_some());
                sum.moved += moved;
                sum.slowest = sum.slowest.max(slowest);
            }
            sum
        }))
    }

    /// Asks nothing more; what became of all questions.
    ///
    /// # Panics
    /// If its thread has.
    #[must_use]
    pub fn end(self) -> Tally {
        self.0.end()
    }
}

/// One client with one question at a time.
struct Flow {
    socket: UdpSocket,
    asked: Option<Instant>,
    pid: Option<i32>,
    tally: Tally,
}

impl Flow {
    /// A question without an answer for so long is lost.
    const PATIENCE: Duration = Duration::from_secs(1);

    fn new(to: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("cannot make a socket");
        socket.connect(to).expect("cannot connect a datagram socket");
        socket.set_nonblocking(true).expect("cannot make a socket non-blocking");
        Self { socket, asked: None, pid: None, tally: Tally::default() }
    }

    fn turn(&mut self) {
        self.listen();
        if self.asked.is_some_and(|asked| asked.elapsed() > Self::PATIENCE) {
            self.tally.lost += 1;
            self.asked = None;
        }
        if self.asked.is_none() {
            self.tally.sent += 1;
            self.asked = Some(Instant::now());
            // A refused one (ICMP) is not answered, and counts as lost then.
            let _ = self.socket.send(b"?");
        }
    }

    fn listen(&mut self) {
        let mut buffer = [0; 1024];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let Ok(answer) = Answer::parse(&String::from_utf8_lossy(&buffer[..length])) else { continue };
            if self.pid.replace(answer.pid).is_some_and(|before| before != answer.pid) {
                self.tally.moved += 1;
            }
            if let Some(asked) = self.asked.take() {
                self.tally.slowest = self.tally.slowest.max(asked.elapsed());
            }
        }
    }
}
