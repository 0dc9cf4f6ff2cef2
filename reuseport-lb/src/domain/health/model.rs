//! Tests of `health` with a model of listening sockets: dropped SYNs, handshakes that
//! take time or never end, slow and stopped workers, lost samples.

use proptest::prelude::*;

use super::*;

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

/// A model of one worker's listening socket, in steps of a millisecond.
struct Socket {
    backlog: u32,
    queue: u32,
    selected: u64,
    /// End times of handshakes under way.
    coming: Vec<u64>,
    /// Time between two accepts, in which the worker sleeps; `None`: the worker is stopped.
    pace: Option<u64>,
    switches: u64,
    busy_until: u64,
}

struct Model {
    now: u64,
    random: u64,
    /// Connections per second for each worker.
    rate: u64,
    handshake: u64,
    /// Percentage of connections whose handshake never ends.
    unfinished: u64,
    sockets: Vec<Socket>,
}

impl Model {
    fn new(paces: &[u64], rate: u64, backlog: u32, seed: u64) -> Self {
        let socket = |pace: &u64| Socket {
            backlog,
            queue: 0,
            selected: 0,
            coming: Vec::new(),
            pace: Some(*pace),
            switches: 0,
            busy_until: 0,
        };
        let sockets = paces.iter().map(socket).collect();
        Self { now: 0, random: seed, rate, handshake: 20, unfinished: 0, sockets }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    fn step(&mut self) {
        self.now += 1;
        let now = self.now;
        for at in 0..self.sockets.len() {
            for _ in 0..4 {
                if self.random(4_000) >= self.rate {
                    continue;
                }
                let ends = now + self.handshake + self.random(self.handshake + 1);
                let finishes = self.random(100) >= self.unfinished;
                let socket = &mut self.sockets[at];
                socket.selected += 1;
                // A SYN at a full queue is dropped.
                if finishes && socket.queue <= socket.backlog {
                    socket.coming.push(ends);
                }
            }
            let retry = 10 + self.random(200);
            let socket = &mut self.sockets[at];
            for ends in socket.coming.iter_mut().filter(|ends| **ends <= now) {
                if socket.queue <= socket.backlog {
                    socket.queue += 1;
                    *ends = 0;
                } else {
                    // The last packet of the handshake is dropped as well, and comes again.
                    *ends = now + retry;
                }
            }
            socket.coming.retain(|ends| *ends > 0);
            if let Some(pace) = socket.pace
                && socket.queue > 0
                && socket.busy_until <= now
            {
                socket.queue -= 1;
                socket.busy_until = now + pace;
                socket.switches += 1;
            }
        }
    }

    /// Lets time pass, with a look after each pause; samples are lost at random.
    fn run(
        &mut self,
        health: &mut Health<usize>,
        time: u64,
        policy: &ServiceConfig,
        losses: u64,
    ) -> Vec<(u64, Change<usize>)> {
        let epoch = *EPOCH;
        let mut all = Vec::new();
        let (end, mut next) = (self.now + time, self.now);
        while self.now < end {
            self.step();
            if self.now < next {
                continue;
            }
            let mut samples = Vec::new();
            for worker in 0..self.sockets.len() {
                if self.random(100) < losses {
                    continue;
                }
                let socket = &self.sockets[worker];
                let (queue, selected) = (socket.queue, socket.selected);
                samples.push(Sample { worker, queue, full: queue >= socket.backlog, selected });
            }
            let sockets = &self.sockets;
            let signs = |worker: usize| {
                let Socket { pace, switches, .. } = sockets[worker];
                Some(Signs { stopped: pace.is_none(), switches, pinged: false, waits: None })
            };
            let changes = health.look(&samples, signs, epoch + ms(self.now), policy);
            all.extend(changes.into_iter().map(|change| (self.now, change)));
            next = self.now + health.pause(policy).unwrap().as_millis() as u64;
        }
        all
    }
}

static EPOCH: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);

fn stalls(changes: &[(u64, Change<usize>)]) -> Vec<(u64, usize)> {
    let stalled = |(at, change): &(u64, Change<usize>)| match change {
        Change::Stalled(worker) => Some((*at, *worker)),
        _ => None,
    };
    changes.iter().filter_map(stalled).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn slow_workers_are_not_stalled(
        pace in 1u64..60, rate in 1u64..2_000, backlog in 4u32..500, unfinished in 0u64..60,
        losses in 0u64..5, seed: u64,
    ) {
        let mut model = Model::new(&[pace, pace / 2, 1], rate, backlog, seed);
        model.unfinished = unfinished;
        let policy = ServiceConfig::new("web", Vec::new(), 3);
        let changes = model.run(&mut Health::default(), 20_000, &policy, losses);
        prop_assert_eq!(stalls(&changes), []);
    }

    #[test]
    fn a_stopped_worker_is_stalled_in_time(
        pace in 1u64..20, rate in 20u64..2_000, backlog in 4u32..500, handshake in 0u64..50,
        losses in 0u64..5, seed: u64,
    ) {
        let mut model = Model::new(&[pace, 1, 1], rate, backlog, seed);
        model.handshake = handshake;
        let policy = ServiceConfig::new("web", Vec::new(), 3);
        let mut health = Health::default();
        let before = model.run(&mut health, 5_000, &policy, losses);
        prop_assert_eq!(stalls(&before), []);
        model.sockets[0].pace = None;
        let mut first = None;
        let mut at = 0u64;
        let mut after = Vec::new();
        while at < 5_000 && stalls(&after).is_empty() {
            after.extend(model.run(&mut health, 1, &policy, losses));
            at += 1;
            if model.sockets[0].queue > 0 {
                first.get_or_insert(at);
            }
        }
        prop_assert_eq!(stalls(&after).first().map(|(_, worker)| *worker), Some(0));
        // Allowed: the pause of an idle service, a part of the window, some lost samples; or, if
        // handshakes are under way when the queue becomes full, the time until they end.
        let late = at.saturating_sub(first.unwrap() + 1_000);
        let allowed = if model.sockets[0].queue > backlog { 1_000 } else { 100 + 1_000 / 16 + 3 * 10 };
        prop_assert!(late <= allowed, "{late} ms late");
    }

    #[test]
    fn every_change_fits_to_what_was_before(
        looks in proptest::collection::vec((0u64..400, proptest::collection::vec((0u32..40, 0u64..20, 0u64..20), 4)), 1..200),
    ) {
        let mut health = Health::<usize>::default();
        let mut policy = ServiceConfig::new("web", Vec::new(), 4);
        policy.stall_timeout = Some(ms(200));
        let mut now = *EPOCH;
        let mut selected = [0; 4];
        let mut switches = [0; 4];
        let mut known = [HealthStatus::Fit; 4];
        for (time, workers) in looks {
            now += ms(time);
            let mut samples = Vec::new();
            for (worker, &(queue, decided, switched)) in workers.iter().enumerate() {
                selected[worker] += decided;
                switches[worker] += u64::from(switched == 0);
                // Divided, so that most looks see a queue of unchanged length.
                samples.push(Sample { worker, queue: queue / 13, full: false, selected: selected[worker] });
            }
            let signs = |worker: usize| Some(Signs { stopped: false, switches: switches[worker], pinged: false, waits: None });
            for change in health.look(&samples, signs, now, &policy) {
                let (worker, from, to) = match change {
                    Change::Overloaded(worker) => (worker, HealthStatus::Fit, HealthStatus::Overloaded),
                    Change::Fit(worker) => (worker, HealthStatus::Overloaded, HealthStatus::Fit),
                    Change::Stalled(worker) => (worker, known[worker], HealthStatus::Stalled),
                    Change::Recovered(worker) => (worker, HealthStatus::Stalled, HealthStatus::Fit),
                    Change::Rescue(worker) | Change::Replace(worker) => (worker, HealthStatus::Stalled, HealthStatus::Stalled),
                };
                prop_assert!(known[worker] == from && (from != to || !matches!(change, Change::Stalled(_))));
                known[worker] = to;
            }
            prop_assert!(known.contains(&HealthStatus::Fit) || known.contains(&HealthStatus::Overloaded));
            for (worker, status) in known.iter().enumerate() {
                prop_assert_eq!(health.status(worker), *status);
            }
        }
    }
}
