//! Tests of `health/datagrams.rs` with a model of the kernel's UDP queues: the bytes of what was read are taken off
//! together (docs/KERNEL.md 82).

use std::collections::VecDeque;

use proptest::prelude::*;

use super::{STALL, ms};
use crate::config::{OnStall, ServiceConfig};
use crate::domain::health::{Change, DatagramSample, Health, HealthStatus, Signs};
use crate::domain::observed::{Head, Queue};
use std::time::{Duration, Instant};

const LIMIT: u32 = 212_992;
const SIZE: u32 = 768;

/// A UDP socket with its reader.
#[derive(Clone)]
struct Socket {
    /// What came since the reader last took all (`sk_receive_queue`), and what it took (`reader_queue`).
    came: VecDeque<u64>,
    taken: VecDeque<u64>,
    bytes: u32,
    deficit: u32,
    next: u64,
    /// All datagrams are equal.
    equal: bool,
    /// The reader needs so long for each datagram; `None`: it does not read.
    pace: Option<Duration>,
    free_at: Instant,
    signs: Signs,
    read: u64,
    unseen: bool,
}

impl Socket {
    fn receive(&mut self) {
        if self.bytes + SIZE <= LIMIT {
            self.next += 1;
            self.came.push_back(if self.equal { 0 } else { self.next });
            self.bytes += SIZE;
        }
    }

    fn refill(&mut self) {
        if self.taken.is_empty() {
            self.taken.append(&mut self.came);
            self.bytes -= std::mem::take(&mut self.deficit);
        }
    }

    fn read(&mut self, now: Instant) {
        let Some(pace) = self.pace else { return };
        while self.free_at <= now && (!self.taken.is_empty() || !self.came.is_empty()) {
            self.refill();
            self.taken.pop_front();
            self.read += 1;
            self.deficit += SIZE;
            if self.taken.is_empty() || self.deficit >= LIMIT / 4 {
                self.bytes -= std::mem::take(&mut self.deficit);
            }
            self.free_at = now + pace;
        }
    }

    fn head(&mut self) -> Head {
        self.refill();
        match self.taken.front() {
            _ if self.unseen => Head::Unseen,
            Some(datagram) => Head::Datagram(*datagram),
            None => Head::Empty,
        }
    }
}

struct Trial {
    health: Health<usize>,
    policy: ServiceConfig,
    begun: Instant,
    now: Instant,
    next_look: Instant,
    sockets: Vec<Socket>,
    peeks: usize,
}

impl Trial {
    /// Workers of which each reads at once.
    fn new(workers: usize) -> Self {
        let now = Instant::now();
        let socket = Socket {
            came: VecDeque::new(),
            taken: VecDeque::new(),
            bytes: 0,
            deficit: 0,
            next: 0,
            equal: false,
            pace: Some(Duration::ZERO),
            free_at: now,
            signs: Signs { stopped: false, switches: 7, pinged: false, waits: None },
            read: 0,
            unseen: false,
        };
        let policy = ServiceConfig::new("web", Vec::new(), workers);
        let (health, sockets) = (Health::default(), vec![socket; workers]);
        Self { health, policy, begun: now, now, next_look: now, sockets, peeks: 0 }
    }

    /// Lets time pass in steps of 5 ms, of which each does what `each` says; returns changes with the time since the
    /// beginning.
    fn run(&mut self, time: Duration, mut each: impl FnMut(&mut Self)) -> Vec<(Duration, Change<usize>)> {
        let (end, mut all) = (self.now + time, Vec::new());
        while self.now < end {
            self.now += ms(5);
            each(self);
            let now = self.now;
            self.sockets.iter_mut().for_each(|socket| socket.read(now));
            if self.now < self.next_look {
                continue;
            }
            let changes = self.look();
            all.extend(changes.into_iter().map(|change| (self.now - self.begun, change)));
            self.next_look = self.now + self.health.datagram_pause(&self.policy).unwrap_or(ms(200));
        }
        all
    }

    fn look(&mut self) -> Vec<Change<usize>> {
        let sample = |(worker, socket): (usize, &Socket)| {
            let queue = Queue { queue: socket.bytes, backlog: LIMIT };
            DatagramSample { worker, queue, selected: Some(socket.next) }
        };
        let samples: Vec<_> = self.sockets.iter().enumerate().map(sample).collect();
        let signs: Vec<Signs> = self.sockets.iter().map(|socket| socket.signs).collect();
        let (sockets, peeks) = (std::cell::RefCell::new(&mut self.sockets), std::cell::Cell::new(0));
        let head = |worker: usize| {
            peeks.update(|peeks| peeks + 1);
            sockets.borrow_mut()[worker].head()
        };
        let signs = |worker: usize| Some(signs[worker]);
        let changes = self.health.look_at_datagrams(&samples, head, signs, self.now, &self.policy);
        self.peeks += peeks.get();
        changes
    }

    fn kinds(changes: &[(Duration, Change<usize>)]) -> Vec<Change<usize>> {
        changes.iter().map(|(_, change)| *change).collect()
    }
}

fn to_all(it: &mut Trial) {
    it.sockets.iter_mut().for_each(Socket::receive);
}

#[test]
fn a_stopped_worker_is_stalled_in_time_and_back_when_it_has_read() {
    for equal in [false, true] {
        let mut it = Trial::new(3);
        it.sockets.iter_mut().for_each(|socket| socket.equal = equal);
        assert_eq!(it.run(ms(2_000), to_all), []);
        (it.sockets[1].pace, it.sockets[1].signs.stopped) = (None, true);
        let changes = it.run(ms(4_000), to_all);
        assert_eq!(Trial::kinds(&changes), [Change::Stalled(1)]);
        assert!(changes[0].0 < ms(2_000) + STALL + ms(400), "{changes:?}");
        assert!(!it.health.is_loading(1), "it has read before");
        (it.sockets[1].pace, it.sockets[1].signs.stopped) = (Some(Duration::ZERO), false);
        assert_eq!(Trial::kinds(&it.run(ms(500), |_| {})), [Change::Recovered(1)]);
        assert_eq!(it.health.status(1), HealthStatus::Fit);
    }
}

#[test]
fn one_that_sleeps_in_its_handler_is_stalled_as_well() {
    let mut it = Trial::new(2);
    it.run(ms(1_000), to_all);
    it.sockets[0].pace = None;
    let changes = it.run(ms(4_000), to_all);
    assert_eq!(Trial::kinds(&changes), [Change::Stalled(0)]);
    assert!(changes[0].0 < ms(1_000) + 2 * STALL + ms(600), "{changes:?}");
}

#[test]
fn one_that_lives_and_does_not_read_is_stalled_when_equal_datagrams_would_have_shown() {
    let mut it = Trial::new(2);
    it.sockets[0].pace = None;
    it.sockets[0].receive();
    it.sockets[0].receive();
    // Another thread of it does other work.
    let changes = it.run(ms(20_000), |it| it.sockets[0].signs.switches += 1);
    assert_eq!(Trial::kinds(&changes), [Change::Stalled(0)]);
    let time = changes[0].0;
    assert!(time > 3 * STALL && time < 5 * STALL, "{time:?}: two datagrams that could have been read unseen");
    assert!(it.health.is_loading(0), "it has never read");
}

#[test]
fn a_slow_reader_is_never_stalled() {
    for (equal, pace) in [(false, 900), (false, 90), (true, 90), (true, 40)] {
        let mut it = Trial::new(2);
        (it.sockets[0].equal, it.sockets[0].pace) = (equal, Some(ms(pace)));
        let changes = it.run(ms(60_000), |it| {
            it.sockets[0].receive();
            let read = it.sockets[0].read;
            // It sleeps now and then, as one that waits for something.
            it.sockets[0].signs.switches = read;
        });
        assert_eq!(changes, [], "equal: {equal}, {pace} ms each");
        assert!(it.sockets[0].read >= 60, "it reads");
    }
}

/// The limit of what can be seen: docs/LIMITS.md 5.
#[test]
fn one_that_reads_equal_datagrams_of_one_sender_very_slowly_is_taken_for_stalled_late() {
    let mut it = Trial::new(2);
    (it.sockets[0].equal, it.sockets[0].pace) = (true, Some(ms(900)));
    let changes = it.run(ms(30_000), |it| {
        it.sockets[0].receive();
        it.sockets[0].signs.switches = it.sockets[0].read;
    });
    assert_eq!(changes[0].1, Change::Stalled(0));
    assert!(changes[0].0 > 10 * STALL, "{changes:?}");
}

#[test]
fn the_last_worker_is_never_stalled() {
    let mut it = Trial::new(2);
    it.run(ms(500), to_all);
    for socket in &mut it.sockets {
        (socket.pace, socket.signs.stopped) = (None, true);
    }
    assert_eq!(it.run(ms(20_000), to_all).len(), 1);
    assert_eq!(it.health.stalled().count(), 1);
}

#[test]
fn a_queue_that_must_not_be_looked_at_says_nothing() {
    let mut it = Trial::new(2);
    (it.sockets[0].pace, it.sockets[0].unseen, it.sockets[0].signs.stopped) = (None, true, true);
    assert_eq!(it.run(ms(10_000), to_all), []);
}

#[test]
fn only_queues_that_stay_are_looked_at_and_idle_ones_rarely() {
    let mut it = Trial::new(4);
    let mut looks = 0;
    it.run(ms(2_000), |it| looks += usize::from(it.now >= it.next_look));
    assert_eq!((it.peeks, looks), (0, 10));
    // One that is empty at every second look.
    for at in 0..20 {
        it.sockets[0].bytes = SIZE * (at % 2);
        it.look();
    }
    assert_eq!(it.peeks, 0);
}

#[test]
fn relapses_last_longer_and_the_third_asks_for_another_process_once() {
    let mut it = Trial::new(2);
    it.policy.on_stall = OnStall::Restart;
    it.run(ms(500), to_all);
    let mut away = Vec::new();
    for _ in 0..5 {
        (it.sockets[0].pace, it.sockets[0].signs.stopped) = (None, true);
        let mut changes = it.run(ms(1_600), to_all);
        // It reads once, and hangs again.
        it.sockets[0].pace = Some(Duration::ZERO);
        let since = it.now - it.begun;
        let back = it.run(ms(40_000), |_| {});
        assert_eq!(Trial::kinds(&back), [Change::Recovered(0)]);
        away.push((back[0].0 - since, changes.iter().any(|(_, change)| *change == Change::Replace(0))));
        changes.retain(|(_, change)| *change != Change::Replace(0));
        assert_eq!(Trial::kinds(&changes), [Change::Stalled(0)]);
    }
    assert_eq!(away.iter().filter(|(_, replaced)| *replaced).count(), 1, "{away:?}");
    assert!(away[0].0 < ms(300) && away[4].0 > ms(500), "{away:?}");
}

#[test]
fn without_a_time_nobody_is_stalled_and_those_who_are_recover() {
    let mut it = Trial::new(2);
    (it.sockets[0].pace, it.sockets[0].signs.stopped) = (None, true);
    assert_eq!(Trial::kinds(&it.run(ms(3_000), to_all)), [Change::Stalled(0)]);
    it.policy.stall_timeout = None;
    assert_eq!(it.health.datagram_pause(&it.policy), Some(Duration::ZERO));
    assert_eq!(it.look(), [Change::Recovered(0)]);
    assert_eq!(it.health.datagram_pause(&it.policy), None);
    assert_eq!(it.run(ms(3_000), to_all), []);
}

#[test]
fn a_stall_that_is_taken_over_ends_when_the_queue_is_empty() {
    let mut it = Trial::new(2);
    it.health.restore_stalled(0, it.now);
    it.sockets[0].pace = None;
    it.sockets[0].receive();
    assert_eq!(it.run(ms(2_000), |_| {}), []);
    it.sockets[0].pace = Some(Duration::ZERO);
    assert_eq!(Trial::kinds(&it.run(ms(500), |_| {})), [Change::Recovered(0)]);
}

#[test]
fn a_machine_that_stood_still_stalls_nobody() {
    let mut it = Trial::new(2);
    it.run(ms(1_000), to_all);
    it.sockets[0].pace = None;
    it.sockets[0].signs.stopped = true;
    it.run(ms(400), to_all);
    it.now += ms(60_000);
    it.next_look = it.now;
    assert_eq!(it.run(ms(100), |_| {}), []);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    /// Readers of any pace up to `stall_timeout`, with any traffic of different datagrams, are never stalled while they show life.
    #[test]
    fn who_reads_is_never_stalled(
        paces in prop::collection::vec(0..950u64, 2..5),
        burst in 1..200usize,
        every in 1..400u32,
    ) {
        let mut it = Trial::new(paces.len());
        for (socket, pace) in it.sockets.iter_mut().zip(&paces) {
            socket.pace = Some(ms(*pace));
        }
        let mut steps = 0;
        let changes = it.run(ms(30_000), |it| {
            steps += 1;
            for socket in &mut it.sockets {
                if steps % every == 1 {
                    (0..burst).for_each(|_| socket.receive());
                }
                socket.signs.switches = socket.read;
            }
        });
        prop_assert_eq!(changes, []);
    }
}

#[test]
fn many_that_stop_at_once_are_asked_a_few_at_a_time_and_all_found() {
    let mut it = Trial::new(400);
    it.run(ms(1_000), to_all);
    for socket in it.sockets.iter_mut().skip(100) {
        (socket.pace, socket.signs.stopped) = (None, true);
    }
    let changes = it.run(ms(2_500), to_all);
    assert_eq!(changes.len(), 300);
    for (time, _) in &changes {
        let together = changes.iter().filter(|(other, _)| other == time).count();
        assert!(together <= 64, "{together} in one look");
    }
}
