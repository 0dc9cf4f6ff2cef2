//! Tests of `health` with samples made by hand.

mod back;
mod datagrams;

use super::*;
use crate::config::Overload;

pub(super) const STALL: Duration = Duration::from_secs(1);

pub(super) fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

pub(super) struct Trial {
    health: Health<u8>,
    policy: ServiceConfig,
    now: Instant,
    /// Queue, full, selected of each worker.
    samples: Vec<(u32, bool, u64)>,
    signs: Vec<Option<Signs>>,
}

impl Trial {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            health: Health::default(),
            policy: ServiceConfig::new("web", Vec::new(), workers),
            now: Instant::now(),
            samples: vec![(0, false, 0); workers],
            signs: vec![Some(Signs { stopped: false, switches: 7, pinged: false, waits: None }); workers],
        }
    }

    pub(super) fn look(&mut self) -> Vec<Change<u8>> {
        self.look_without(None)
    }

    pub(super) fn look_without(&mut self, lost: Option<u8>) -> Vec<Change<u8>> {
        let samples: Vec<Sample<u8>> = (0..)
            .zip(&self.samples)
            .map(|(worker, &(queue, full, selected))| Sample { worker, queue, full, selected })
            .filter(|sample| Some(sample.worker) != lost)
            .collect();
        let signs = &self.signs;
        self.health.look(&samples, |worker| signs[usize::from(worker)], self.now, &self.policy)
    }

    /// Looks every 10 ms; returns changes and their times since the call. Queues of stalled workers are emptied.
    pub(super) fn run(
        &mut self,
        time: Duration,
        mut each: impl FnMut(&mut Self),
    ) -> Vec<(Duration, Change<u8>)> {
        let start = self.now;
        let mut all = Vec::new();
        while self.now - start < time {
            self.now += BUSY_PAUSE;
            each(self);
            let passed = self.now - start;
            for change in self.look() {
                if let Change::Stalled(worker) | Change::Rescue(worker) = change {
                    self.samples[usize::from(worker)].0 = 0;
                }
                all.push((passed, change));
            }
        }
        all
    }

    pub(super) fn queues<const N: usize>(&mut self, queues: [u32; N]) -> Vec<Change<u8>> {
        for (sample, queue) in self.samples.iter_mut().zip(queues) {
            sample.0 = queue;
        }
        self.look()
    }

    /// A connection comes to worker 0 and stays, until the worker is stalled; then the queue is emptied.
    pub(super) fn stall(&mut self) -> Vec<Change<u8>> {
        self.samples[0] = (1, false, self.samples[0].2 + 1);
        let changes = self.run(STALL + BUSY_PAUSE, |_| {});
        changes.into_iter().map(|(_, change)| change).collect()
    }

    pub(super) fn switch(&mut self) {
        self.signs[0].as_mut().unwrap().switches += 1;
    }

    /// Worker 0 shows a sign of life; returns how long it stays stalled nevertheless.
    pub(super) fn wake(&mut self) -> Duration {
        self.switch();
        let changes = self.run(ms(31_000), |_| {});
        assert_eq!(changes.iter().map(|(_, change)| *change).collect::<Vec<_>>(), [Change::Recovered(0)]);
        changes[0].0
    }
}

#[test]
fn a_queue_that_stays_for_the_time_is_a_stall() {
    let mut it = Trial::new(3);
    it.samples[1].0 = 2;
    assert_eq!(it.run(ms(5_000), |_| {}), [(STALL + BUSY_PAUSE, Change::Stalled(1))]);
    assert_eq!(it.health.status(1), HealthStatus::Stalled);
}

#[test]
fn a_queue_that_grows_as_it_is_decided_is_a_stall() {
    let mut it = Trial::new(2);
    let changes = it.run(ms(1_100), |it| {
        it.samples[0].0 += 3;
        it.samples[0].2 += 3;
    });
    assert!(changes.contains(&(STALL + BUSY_PAUSE, Change::Stalled(0))), "{changes:?}");
}

#[test]
fn any_shrink_starts_the_time_anew() {
    let mut it = Trial::new(2);
    it.samples[0].0 = 5;
    for _ in 0..4 {
        assert_eq!(it.run(ms(990), |_| {}), []);
        it.samples[0].0 -= 1;
    }
    assert_eq!(it.run(ms(1_010), |_| {}), [(ms(1_010), Change::Stalled(0))]);
}

#[test]
fn a_queue_that_keeps_its_length_while_connections_come_is_no_stall() {
    let mut it = Trial::new(2);
    it.samples[0].0 = 10;
    // One in 50 ms is accepted, and another one comes right behind it.
    let mut looks = 0;
    let trade = |it: &mut Trial| {
        looks += 1;
        it.samples[0].2 += u64::from(looks % 5 == 0);
    };
    assert_eq!(it.run(ms(10_000), trade), []);
    // Then the worker stops: connections accepted before do not count for long.
    let changes = it.run(ms(3_000), |_| {});
    assert!(
        matches!(changes[..], [(at, Change::Stalled(0))] if at > STALL / 2 && at <= STALL + STALL / 16),
        "{changes:?}"
    );
}

#[test]
fn a_few_unfinished_handshakes_do_not_hide_a_stall_and_many_do() {
    for (unfinished, stalls) in [(4, true), (5, false)] {
        let mut it = Trial::new(2);
        it.samples[0].0 = 1;
        assert_eq!(it.look(), []);
        it.samples[0].2 += unfinished;
        assert_eq!(!it.run(ms(1_000), |_| {}).is_empty(), stalls, "{unfinished}");
    }
    // One in ten of many connections.
    for (unfinished, stalls) in [(1, true), (2, false)] {
        let mut it = Trial::new(2);
        let changes = it.run(ms(2_100), |it| {
            it.samples[0].0 += 10;
            it.samples[0].2 += 10 + unfinished;
        });
        assert_eq!(changes.iter().any(|(_, change)| *change == Change::Stalled(0)), stalls, "{unfinished}");
    }
}

#[test]
fn unfinished_handshakes_do_not_hide_a_stopped_worker_for_long() {
    let mut it = Trial::new(2);
    it.samples[0].0 = 1;
    it.signs[0] = Some(Signs { stopped: true, switches: 7, pinged: false, waits: None });
    let changes = it.run(ms(2_200), |it| it.samples[0].2 += 100);
    assert!(matches!(changes[..], [(at, Change::Stalled(0))] if at >= STALL * 2), "{changes:?}");
    // Stopped for a moment, as by a debugger.
    let mut it = Trial::new(2);
    it.samples[0].0 = 1;
    let mut looks = 0;
    let changes = it.run(ms(20_000), |it| {
        looks += 1;
        it.samples[0].2 += 100;
        it.signs[0] =
            Some(Signs { stopped: looks % 50 > 0, switches: looks / 50, pinged: false, waits: None });
    });
    assert_eq!(changes, []);
}

#[test]
fn handshakes_that_never_finish_are_no_stall() {
    let mut it = Trial::new(2);
    assert_eq!(it.run(ms(10_000), |it| it.samples[0].2 += 100), []);
}

#[test]
fn arrivals_at_a_full_queue_count_for_nothing() {
    let stopped = Some(Signs { stopped: true, switches: 7, pinged: false, waits: None });
    let asleep = Some(Signs { stopped: false, switches: 7, pinged: false, waits: None });
    // A process that is not stopped may be slow: it is watched for as long again.
    for (signs, at) in [(stopped, ms(1_010)), (asleep, ms(2_050))] {
        let mut it = Trial::new(2);
        it.policy.overload = None;
        it.samples[0] = (129, true, 0);
        it.signs[0] = signs;
        assert_eq!(it.run(at, |it| it.samples[0].2 += 10), [(at, Change::Stalled(0))]);
    }
}

#[test]
fn a_full_queue_of_a_process_that_does_something_is_no_stall() {
    let mut it = Trial::new(2);
    it.policy.overload = None;
    it.samples[0] = (129, true, 0);
    let mut looks = 0;
    let changes = it.run(ms(20_000), |it| {
        looks += 1;
        it.samples[0].2 += 10;
        // A sign of life every 0.9 s.
        if looks % 90 == 0 {
            it.switch();
        }
    });
    assert_eq!(changes, []);
}

#[test]
fn when_all_queues_are_full_only_a_stopped_worker_is_stalled() {
    let mut it = Trial::new(3);
    for sample in &mut it.samples {
        *sample = (129, true, 0);
    }
    let all_get_more = |it: &mut Trial| it.samples.iter_mut().for_each(|sample| sample.2 += 10);
    assert_eq!(it.run(ms(20_000), all_get_more), []);
    it.signs[1] = Some(Signs { stopped: true, switches: 7, pinged: false, waits: None });
    let changes = it.run(ms(1_000), all_get_more);
    assert!(matches!(changes[..], [(at, Change::Stalled(1))] if at <= STALL / 8 + BUSY_PAUSE), "{changes:?}");
}

#[test]
fn a_full_queue_is_overloaded_whatever_the_floor_while_there_is_room_elsewhere() {
    let mut it = Trial::new(2);
    it.policy.stall_timeout = None;
    it.samples[1] = (9, true, 0);
    assert_eq!(it.look(), [Change::Overloaded(1)]);
    it.samples[0] = (9, true, 0);
    assert_eq!(it.look(), [Change::Fit(1)], "neither is better");
    it.samples[1] = (1, false, 0);
    assert_eq!(it.look(), [Change::Overloaded(0)]);
}

#[test]
fn a_full_queue_that_shrinks_now_and_then_is_no_stall() {
    let mut it = Trial::new(2);
    it.policy.overload = None;
    let mut looks = 0;
    let changes = it.run(ms(20_000), |it| {
        looks += 1;
        // One look in half a second sees room for one connection.
        let queue = if looks % 50 == 0 { 128 } else { 129 };
        it.samples[0] = (queue, true, it.samples[0].2 + 10);
    });
    assert_eq!(changes, []);
}

#[test]
fn a_lost_sample_changes_nothing() {
    let mut it = Trial::new(2);
    it.samples[0].0 = 1;
    for look in 0..101 {
        it.now += BUSY_PAUSE;
        let changes = it.look_without((look == 50).then_some(0));
        assert_eq!(changes, if look == 100 { vec![Change::Stalled(0)] } else { vec![] }, "{look}");
    }
    // Nor while it is stalled.
    it.now += BUSY_PAUSE;
    assert_eq!(it.look_without(Some(0)), []);
    assert_eq!(it.health.status(0), HealthStatus::Stalled);
}

#[test]
fn no_worker_is_stalled_for_what_happened_between_looks() {
    let mut it = Trial::new(3);
    it.samples[0].0 = 1;
    it.samples[1].0 = 1;
    assert_eq!(it.run(ms(100), |_| {}), []);
    it.now += ms(60_000);
    assert_eq!(it.look(), []);
    // The whole machine may have stood still: half a second of the time counts.
    it.samples[0].0 = 0;
    assert_eq!(it.run(ms(5_000), |_| {}), [(ms(410), Change::Stalled(1))]);
}

#[test]
fn a_worker_is_left_to_take_the_queue() {
    let mut it = Trial::new(3);
    it.samples[0].0 = 1;
    it.samples[2].0 = 1;
    assert_eq!(it.run(ms(100), |_| {}), []);
    it.samples[1].0 = 1;
    let changes = it.run(ms(20_000), |_| {});
    // The worker that got stuck last is not stalled.
    assert_eq!(changes, [(ms(910), Change::Stalled(0)), (ms(910), Change::Stalled(2))]);
    // When another worker has recovered, that one is stalled as well.
    it.switch();
    assert_eq!(it.look(), [Change::Recovered(0), Change::Stalled(1)]);
}

#[test]
fn a_worker_alone_is_never_stalled_nor_overloaded() {
    let mut it = Trial::new(1);
    it.samples[0] = (4097, true, 0);
    assert_eq!(it.run(ms(10_000), |_| {}), []);
}

#[test]
fn overload_follows_floor_factor_and_the_others() {
    let mut it = Trial::new(3);
    it.policy.overload = Some(Overload { factor: 2.0, floor: 16 });
    assert_eq!(it.queues([16, 0, 0]), []);
    assert_eq!(it.queues([17, 0, 0]), [Change::Overloaded(0)]);
    assert_eq!(it.health.status(0), HealthStatus::Overloaded);
    assert_eq!(it.queues([9, 0, 0]), []);
    assert_eq!(it.queues([8, 0, 0]), [Change::Fit(0)]);
    // All queues are deep.
    assert_eq!(it.queues([200, 100, 100]), []);
    assert_eq!(it.queues([201, 100, 100]), [Change::Overloaded(0)]);
    assert_eq!(it.queues([101, 100, 100]), []);
    assert_eq!(it.queues([100, 100, 100]), [Change::Fit(0)]);
    assert_eq!(it.queues([0, 300, 0]), [Change::Overloaded(1)]);
    assert_eq!(it.queues([0, 0, 300]), [Change::Fit(1), Change::Overloaded(2)]);
}

#[test]
fn one_of_two_can_be_overloaded_and_is_fit_when_alone() {
    let mut it = Trial::new(2);
    assert_eq!(it.queues([50, 20]), [Change::Overloaded(0)]);
    it.samples.pop();
    assert_eq!(it.look(), [Change::Fit(0)]);
}

#[test]
fn stalled_workers_do_not_count_for_overload() {
    let mut it = Trial::new(3);
    it.samples[0].0 = 1_000;
    let changes = it.run(ms(1_010), |_| {});
    assert_eq!(changes, [(ms(10), Change::Overloaded(0)), (ms(1_010), Change::Stalled(0))]);
    // With its queue the mean of the others would be 505.
    assert_eq!(it.queues([1_000, 30, 10]), [Change::Overloaded(1)]);
    // A recovered worker is fit.
    it.switch();
    assert_eq!(it.queues([0, 10, 10]), [Change::Recovered(0)]);
    assert_eq!(it.queues([0, 8, 10]), [Change::Fit(1)]);
}

#[test]
fn what_is_turned_off_is_undone() {
    let mut it = Trial::new(3);
    it.stall();
    assert_eq!(it.queues([0, 100, 0]), [Change::Overloaded(1)]);
    it.policy.stall_timeout = None;
    it.policy.overload = None;
    assert_eq!(it.health.pause(&it.policy), Some(BUSY_PAUSE));
    assert_eq!(it.look(), [Change::Recovered(0), Change::Fit(1)]);
    assert_eq!(it.health.pause(&it.policy), None);
    assert_eq!(it.run(ms(5_000), |_| {}), []);
    // Time without `stall_timeout` does not count.
    it.policy.stall_timeout = Some(STALL);
    assert_eq!(it.run(ms(1_000), |_| {}), []);
}

#[test]
fn looks_are_rare_while_nothing_waits() {
    let mut it = Trial::new(2);
    it.policy.stall_timeout = Some(ms(1_000));
    assert_eq!(it.health.pause(&it.policy), Some(IDLE_PAUSE));
    it.queues([1, 0]);
    assert_eq!(it.health.pause(&it.policy), Some(ms(10)));
    it.policy.stall_timeout = None;
    assert_eq!(it.health.pause(&it.policy), Some(ms(10)));
    it.queues([0, 0]);
    assert_eq!(it.health.pause(&it.policy), Some(IDLE_PAUSE));
    it.policy.stall_timeout = Some(ms(20));
    assert_eq!(it.health.pause(&it.policy), Some(ms(5)));
}
