//! Tests of a worker's life with a made-up clock.

mod connections;

use super::crashes::{FAILED_PAUSE, NOT_ITS_FAULT, PROVEN};
use super::leaving::{LOOK, QUIET};
use super::*;
use crate::config::{OnCrash, Ready, ServiceConfig};
use std::time::{Duration, Instant};

struct Trial {
    life: Life,
    policy: ServiceConfig,
    now: Instant,
}

impl Trial {
    fn new(change: impl FnOnce(&mut ServiceConfig)) -> Self {
        let mut policy = ServiceConfig::new("web", Vec::new(), 1);
        change(&mut policy);
        Self { life: Life::new(Origin::Started), policy, now: Instant::now() }
    }

    /// Returns the steps that follow; a process that is to be started is started at once.
    fn on(&mut self, event: Event) -> Vec<Step> {
        let mut steps = self.life.on(event, self.now, &self.policy);
        if event == Event::Start || steps.contains(&Step::Spawn) {
            steps.extend(self.life.on(Event::Spawned, self.now, &self.policy));
        }
        steps
    }

    fn crash(&mut self) -> Vec<Step> {
        self.on(Event::Ended { killed: false })
    }

    /// Lets time pass up to the next deadline; returns how much, and the steps.
    fn wait(&mut self) -> (Duration, Vec<Step>) {
        let until = self.life.deadline().unwrap();
        let passed = until - self.now;
        self.now = until;
        (passed, self.on(Event::Tick))
    }
}

const READY: Event = Event::SaidReady;
const SEEN: Event = Event::SeenWaiting { all: false };
const LEAVE: Event = Event::Leave { patience: None };

#[test]
fn buckets_come_when_it_is_ready_and_not_before() {
    let mut it = Trial::new(|_| {});
    assert_eq!(it.on(Event::Start), [Step::Spawn]);
    assert!(!it.life.admitted() && it.life.can_wait());
    assert_eq!(it.on(READY), [Step::Admit]);
    assert_eq!(it.life.state(), State::Ready);
    assert_eq!(it.on(READY), []);
}

#[test]
fn readiness_by_time_comes_early_with_a_notification() {
    let mut it = Trial::new(|policy| policy.ready = Ready::After(Duration::from_millis(500)));
    assert_eq!(it.on(Event::Start), [Step::Spawn]);
    assert_eq!(it.on(SEEN), [], "not before its time");
    assert_eq!(it.wait(), (Duration::from_millis(500), vec![Step::Admit]));
    let mut it = Trial::new(|policy| policy.ready = Ready::Immediate);
    assert_eq!(it.on(Event::Start), [Step::Spawn, Step::Admit]);
}

#[test]
fn what_loads_for_longer_than_its_time_is_loading_until_it_is_seen_to_wait_for_work() {
    let mut it = Trial::new(|policy| policy.ready = Ready::After(Duration::from_millis(500)));
    let _ = it.on(Event::Start);
    assert_eq!(it.wait(), (Duration::from_millis(500), vec![]));
    assert_eq!(it.life.state(), State::Loading);
    assert!(it.life.can_wait() && !it.life.admitted() && it.life.deadline().is_none());
    assert!(it.life.wants_sight(&it.policy));
    let mut told = it.life.clone();
    assert_eq!(told.on(READY, it.now, &it.policy), [Step::Admit]);
    assert_eq!(it.on(SEEN), [Step::Admit]);
    assert_eq!(it.life.state(), State::Ready);
    assert!(!it.life.wants_sight(&it.policy));
    // The next process is another one.
    let _ = it.crash();
    assert_eq!(it.wait().1, [Step::Spawn]);
    assert_eq!(it.wait().1, [], "hold_timeout comes later");
    assert_eq!(it.life.state(), State::Loading);
    assert!(it.life.admitted(), "its buckets wait for it as after any crash");
}

#[test]
fn accepting_is_waiting_for_work_on_each_socket() {
    let mut it = Trial::new(|policy| policy.ready = Ready::Accepting);
    let _ = it.on(Event::Start);
    assert!(it.life.deadline().is_none());
    assert_eq!(it.on(SEEN), []);
    assert_eq!(it.life.state(), State::Starting);
    assert_eq!(it.on(Event::SeenWaiting { all: true }), [Step::Admit]);
    let mut it = Trial::new(|policy| policy.ready = Ready::Notify);
    let _ = it.on(Event::Start);
    assert_eq!(it.on(Event::SeenWaiting { all: true }), [], "that has to be said");
}

#[test]
fn a_word_that_no_daemon_heard_is_seen() {
    let mut it = Trial::new(|policy| policy.ready = Ready::Notify);
    let _ = it.on(Event::Start);
    it.life = Life::taken_over(&it.life.left(), it.now, &it.policy);
    assert!(it.life.wants_sight(&it.policy));
    assert_eq!(it.on(SEEN), []);
    assert_eq!(it.on(Event::SeenWaiting { all: true }), [Step::Admit]);
}

#[test]
fn a_crash_holds_buckets_until_the_timeout() {
    let mut it = Trial::new(|_| {});
    let _ = (it.on(Event::Start), it.on(READY));
    assert_eq!(it.crash(), []);
    assert_eq!(it.life.state(), State::Held);
    assert!(it.life.admitted());
    assert_eq!(it.wait(), (Duration::ZERO, vec![Step::Spawn]));
    // The next process runs, and may not wait for work yet.
    assert_eq!(it.wait(), (it.policy.hold_timeout, vec![Step::Withdraw, Step::HandOn]));
    assert_eq!(it.on(READY), [Step::Admit]);
}

#[test]
fn a_queue_without_a_process_is_rescued_after_the_timeout() {
    let mut it = Trial::new(|policy| policy.hold_timeout = Duration::from_millis(10));
    let _ = (it.on(Event::Start), it.on(READY), it.crash(), it.wait());
    let _ = (it.on(READY), it.crash());
    assert_eq!(it.wait(), (Duration::from_millis(10), vec![Step::Withdraw, Step::Rescue]));
}

#[test]
fn running_at_once_must_be_proven_after_a_crash() {
    let mut it = Trial::new(|policy| policy.ready = Ready::Immediate);
    assert_eq!(it.on(Event::Start), [Step::Spawn, Step::Admit]);
    let _ = it.crash();
    assert_eq!(it.wait(), (Duration::ZERO, vec![Step::Spawn]));
    assert_eq!(it.life.state(), State::Starting);
    for _ in 0..6 {
        let _ = it.crash();
        // The buckets go to other workers in between.
        while !it.wait().1.contains(&Step::Spawn) {}
    }
    assert!(!it.life.admitted());
    let _ = it.crash();
    assert_eq!(it.life.state(), State::Failed);
}

#[test]
fn a_crash_with_migrate_gives_buckets_up_at_once() {
    let mut it = Trial::new(|policy| policy.on_crash = OnCrash::Migrate);
    let _ = (it.on(Event::Start), it.on(READY));
    assert_eq!(it.crash(), [Step::Withdraw, Step::Rescue]);
    assert_eq!(it.wait(), (Duration::ZERO, vec![Step::Spawn]));
    assert_eq!(it.on(READY), [Step::Admit]);
}

#[test]
fn crashes_in_a_row_pause_longer_and_longer() {
    let mut it = Trial::new(|policy| policy.on_crash = OnCrash::Migrate);
    let _ = it.on(Event::Start);
    let mut pauses = Vec::new();
    for _ in 0..6 {
        let _ = (it.on(READY), it.crash());
        pauses.push(it.wait().0.as_millis());
    }
    assert_eq!(pauses, [0, 50, 100, 200, 400, 800]);
    let _ = it.on(READY);
    it.now += PROVEN;
    let _ = it.crash();
    assert_eq!(it.wait().0, Duration::ZERO, "it had proven itself");
}

#[test]
fn being_killed_is_not_held_against_it() {
    let mut it = Trial::new(|_| {});
    let _ = it.on(Event::Start);
    for _ in 0..100 {
        let _ = it.on(READY);
        it.now += NOT_ITS_FAULT;
        let _ = it.on(Event::Ended { killed: true });
        assert_eq!(it.wait(), (Duration::ZERO, vec![Step::Spawn]));
    }
    assert_eq!(it.life.restarts(), 100);
}

#[test]
fn it_fails_after_eight_exits_before_it_was_ready_and_is_still_tried() {
    let mut it = Trial::new(|_| {});
    let _ = it.on(Event::Start);
    for _ in 0..7 {
        assert_eq!(it.crash(), []);
        let _ = it.wait();
    }
    assert_eq!(it.crash(), []);
    assert_eq!(it.life.state(), State::Failed);
    assert!(!it.life.can_wait());
    assert_eq!(it.wait(), (FAILED_PAUSE, vec![Step::Spawn]));
    assert_eq!(it.life.state(), State::Failed);
    assert_eq!(it.on(READY), [Step::Admit]);
}

fn look(it: &mut Trial, queue: u64) -> Vec<Step> {
    look_at_flows(it, queue, 0)
}

fn look_at_flows(it: &mut Trial, queue: u64, flows: u64) -> Vec<Step> {
    it.now = it.life.deadline().unwrap();
    it.on(Event::Looked { queue, flows, connections: 0 })
}

#[test]
fn it_leaves_in_order() {
    let mut it = Trial::new(|_| {});
    let _ = (it.on(Event::Start), it.on(READY));
    assert_eq!(it.on(LEAVE), [Step::Withdraw]);
    let begun = it.now;
    assert_eq!(look(&mut it, 0), []);
    assert_eq!(look(&mut it, 1), [], "a client came late");
    let ended = (0..100).map(|_| look(&mut it, 0)).find(|steps| !steps.is_empty());
    assert_eq!(ended, Some(vec![Step::Terminate]));
    assert!(it.now - begun >= QUIET, "it was empty for a while");
    assert_eq!(it.crash(), [Step::Remove]);
}

#[test]
fn it_stays_for_its_flows_until_they_are_quiet() {
    let mut it = Trial::new(|policy| policy.drain_timeout = Duration::from_secs(3600));
    let _ = (it.on(Event::Start), it.on(READY), it.on(LEAVE));
    for queue in [0, 7, 0].repeat(100) {
        assert_eq!(look_at_flows(&mut it, queue, 1), []);
        assert!(it.life.keeps_flows());
    }
    let ended = (0..100).map(|_| look(&mut it, 0)).find(|steps| !steps.is_empty());
    assert_eq!(ended, Some(vec![Step::Terminate]));
    assert_eq!(it.crash(), [Step::Remove]);
    assert!(!it.life.keeps_flows());
}

#[test]
fn one_that_still_has_flows_is_not_stuck_because_something_waits_now_and_then() {
    let mut it = Trial::new(|policy| policy.stall_timeout = Some(Duration::from_millis(300)));
    let _ = (it.on(Event::Start), it.on(READY), it.on(LEAVE));
    for queue in [0, 0, 0, 0, 0, 7].repeat(10) {
        assert_eq!(look_at_flows(&mut it, queue, 1), []);
    }
    let told = (0..100).map(|_| look_at_flows(&mut it, 7, 1)).find(|steps| !steps.is_empty());
    assert_eq!(told, Some(vec![Step::Terminate, Step::HandOver]), "but it is if that goes on");
}

#[test]
fn others_get_its_flows_at_the_deadline_and_it_reads_what_is_queued() {
    let mut it = Trial::new(|_| {});
    let _ = (it.on(Event::Start), it.on(READY), it.on(LEAVE));
    let _ = look_at_flows(&mut it, 3, 5);
    it.now += it.policy.drain_timeout;
    assert_eq!(it.on(Event::Tick), [Step::Cut]);
    assert!(!it.life.keeps_flows());
    assert_eq!(look_at_flows(&mut it, 3, 5), [], "what is left in the maps does not matter any more");
    let cut = it.now;
    let ended = (0..100).map(|_| look(&mut it, 0)).find(|steps| !steps.is_empty());
    assert_eq!(ended, Some(vec![Step::Terminate]));
    assert!((QUIET..=QUIET * 2).contains(&(it.now - cut)), "{:?}", it.now - cut);
}

#[test]
fn one_that_joined_keeps_its_flows_although_it_leaves() {
    let mut it = Trial::new(|_| {});
    it.life = Life::new(Origin::Joined);
    let _ = (it.on(Event::Start), it.on(READY), it.on(Event::SaidStopping));
    assert!((0..100).all(|_| look_at_flows(&mut it, 0, 1).is_empty()));
    let parted = (0..100).map(|_| look(&mut it, 0)).find(|steps| !steps.is_empty());
    assert_eq!(parted, Some(vec![Step::Remove]));
}

#[test]
fn what_still_comes_after_sigterm_is_handed_over() {
    let mut it = Trial::new(|_| {});
    let _ = (it.on(Event::Start), it.on(READY), it.on(LEAVE));
    while look(&mut it, 0).is_empty() {}
    assert_eq!(look(&mut it, 0), []);
    let handed = (0..100).map(|_| look(&mut it, 1)).find(|steps| !steps.is_empty());
    assert_eq!(handed, Some(vec![Step::HandOver]));
    assert!(!it.life.wants_look(it.now + LOOK));
}

#[test]
fn it_is_terminated_and_then_killed_when_it_does_not_leave() {
    let mut it = Trial::new(|_| {});
    let _ = (it.on(Event::Start), it.on(READY), it.on(LEAVE));
    it.now += it.policy.drain_timeout;
    assert_eq!(it.on(Event::Tick), [Step::Terminate, Step::HandOver]);
    it.now += it.policy.drain_timeout;
    assert_eq!(it.on(Event::Tick), [Step::Kill]);
    assert_eq!(it.on(Event::Ended { killed: true }), [Step::Remove]);
}

#[test]
fn without_a_process_it_leaves_at_once() {
    let mut it = Trial::new(|_| {});
    let _ = (it.on(Event::Start), it.on(READY), it.crash());
    assert_eq!(it.on(LEAVE), [Step::Withdraw, Step::Remove]);
}

#[test]
fn a_queue_that_is_not_taken_is_handed_over_before_its_time() {
    let mut it = Trial::new(|policy| policy.stall_timeout = Some(Duration::from_millis(300)));
    let _ = (it.on(Event::Start), it.on(READY), it.on(LEAVE));
    let begun = it.now;
    let handed = (0..100).map(|_| look(&mut it, 5)).find(|steps| !steps.is_empty());
    assert_eq!(handed, Some(vec![Step::Terminate, Step::HandOver]));
    assert!((300..350).contains(&(it.now - begun).as_millis()), "{:?}", it.now - begun);
}

#[test]
fn one_that_ends_by_itself_comes_back() {
    let mut it = Trial::new(|_| {});
    let _ = (it.on(Event::Start), it.on(READY));
    it.now += PROVEN;
    assert_eq!(it.on(Event::SaidStopping), [Step::Withdraw]);
    assert_eq!(it.life.state(), State::Draining);
    // The process does not accept any more.
    let handed = (0..100).map(|_| look(&mut it, 1)).find(|steps| !steps.is_empty());
    assert_eq!(handed, Some(vec![Step::HandOver]));
    assert_eq!(it.crash(), []);
    assert_eq!(it.wait(), (Duration::ZERO, vec![Step::Spawn]));
    assert_eq!(it.on(READY), [Step::Admit]);
}

#[test]
fn one_that_ends_by_itself_and_is_asked_to_leave_does_not() {
    let mut it = Trial::new(|_| {});
    let _ = (it.on(Event::Start), it.on(READY), it.on(Event::SaidStopping));
    assert_eq!(it.on(LEAVE), []);
    assert_eq!(it.crash(), [Step::Remove]);
}

#[test]
fn one_that_joined_leaves_with_its_process_or_before_it() {
    let mut it = Trial::new(|_| {});
    it.life = Life::new(Origin::Joined);
    assert_eq!(it.on(Event::Start), []);
    assert_eq!(it.on(READY), [Step::Admit]);
    assert_eq!(it.crash(), [Step::Withdraw, Step::Remove]);
    it.life = Life::new(Origin::Joined);
    let _ = (it.on(Event::Start), it.on(READY));
    assert_eq!(it.on(Event::SaidStopping), [Step::Withdraw]);
    let parted = (0..100).map(|_| look(&mut it, 0)).find(|steps| !steps.is_empty());
    assert_eq!(parted, Some(vec![Step::Remove]), "its process may go on without us");
}

#[test]
fn one_that_joined_and_says_that_it_stops_is_not_left_listening() {
    let mut it = Trial::new(|_| {});
    it.life = Life::new(Origin::Joined);
    let _ = (it.on(Event::Start), it.on(READY), it.on(LEAVE));
    while look(&mut it, 0).is_empty() {}
    assert!((0..100).all(|_| look(&mut it, 0).is_empty()), "it may just end");
    assert_eq!(it.on(Event::SaidStopping), []);
    assert_eq!(look(&mut it, 0), [Step::HandOver]);
    assert_eq!(it.crash(), [Step::Withdraw, Step::Remove]);
}

#[test]
fn what_an_earlier_daemon_left_goes_on() {
    let mut it = Trial::new(|_| {});
    let ready = Left {
        origin: Origin::Started,
        state: State::Ready,
        admitted: true,
        running: true,
        restarts: 3,
        kills: 1,
        told: false,
        returns: false,
        opens: false,
    };
    it.life = Life::taken_over(&ready, it.now, &it.policy);
    assert_eq!((it.life.state(), it.life.restarts(), it.life.deadline()), (State::Ready, 3, None));
    assert_eq!(it.life.left(), ready);
    assert_eq!(it.crash(), [], "its buckets are held");
    let held = Left { state: State::Held, running: false, ..ready };
    it.life = Life::taken_over(&held, it.now, &it.policy);
    assert_eq!(it.on(Event::Tick), [Step::Spawn]);
    assert_eq!(it.wait(), (it.policy.hold_timeout, vec![Step::Withdraw, Step::HandOn]), "not for ever");
    let told = Left { state: State::Draining, admitted: false, told: true, ..ready };
    it.life = Life::taken_over(&told, it.now, &it.policy);
    assert_eq!(look(&mut it, 0), [], "it is not told again");
    assert_eq!(it.crash(), [Step::Remove]);
    let recycling = Left { returns: true, ..told };
    it.life = Life::taken_over(&recycling, it.now, &it.policy);
    assert_eq!(it.crash(), []);
    assert_eq!(it.wait().1, [Step::Spawn]);
}
