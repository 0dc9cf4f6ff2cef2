//! Tests of how stalled workers recover, and of relapses.

use super::super::record::FIRST_AWAY;
use super::*;

#[test]
fn each_sign_of_life_brings_it_back() {
    let sleeping = Signs { stopped: false, switches: 7, pinged: false, waits: None };
    let stopped = Signs { stopped: true, ..sleeping };
    for (at_stall, later, back) in [
        (sleeping, sleeping, false),
        (sleeping, Signs { switches: 8, ..sleeping }, true),
        // A thread has ended.
        (sleeping, Signs { switches: 3, ..sleeping }, true),
        (sleeping, Signs { pinged: true, ..sleeping }, true),
        (sleeping, Signs { stopped: true, switches: 8, pinged: true, waits: None }, false),
        (stopped, stopped, false),
        (stopped, sleeping, true),
        // A ping from before is no sign.
        (Signs { pinged: true, ..sleeping }, sleeping, false),
    ] {
        let mut it = Trial::new(2);
        it.signs[0] = Some(at_stall);
        assert_eq!(it.stall(), [Change::Stalled(0)]);
        it.signs[0] = Some(later);
        let expected = if back { vec![Change::Recovered(0)] } else { Vec::new() };
        assert_eq!(it.look(), expected, "{at_stall:?} {later:?}");
    }
}

#[test]
fn one_that_is_seen_to_wait_is_back_at_once_and_one_that_is_not_is_tried_later() {
    let busy = |switches, waits| Some(Signs { stopped: false, switches, pinged: false, waits: Some(waits) });
    let mut it = Trial::new(2);
    it.signs[0] = busy(7, false);
    assert_eq!(it.stall(), [Change::Stalled(0)]);
    // A long request, or another listener: the worker runs, and does not wait at this one.
    let mut switches = 7;
    let run = |it: &mut Trial, switches: &mut u64, waits| {
        *switches += 1;
        it.signs[0] = busy(*switches, waits);
    };
    assert_eq!(it.run(ms(4_900), |it| run(it, &mut switches, false)), []);
    // The worker may poll without ever sleeping.
    assert_eq!(it.run(ms(110), |it| run(it, &mut switches, false)), [(ms(100), Change::Recovered(0))]);

    let mut it = Trial::new(2);
    it.signs[0] = busy(7, false);
    assert_eq!(it.stall(), [Change::Stalled(0)]);
    it.signs[0] = busy(7, true);
    assert_eq!(it.look(), [Change::Recovered(0)], "although it has not run");
    it.signs[0] = busy(7, false);
    assert_eq!(it.stall(), [Change::Stalled(0)]);
    it.signs[0] = busy(8, true);
    assert_eq!(it.run(ms(300), |_| {}), [(FIRST_AWAY, Change::Recovered(0))], "a relapse has its price");
}

#[test]
fn a_sign_is_not_forgotten_while_it_is_stopped_or_away() {
    let mut it = Trial::new(2);
    assert_eq!(it.stall(), [Change::Stalled(0)]);
    it.signs[0] = Some(Signs { stopped: true, switches: 7, pinged: true, waits: None });
    assert_eq!(it.look(), []);
    it.signs[0] = Some(Signs { stopped: false, switches: 7, pinged: false, waits: None });
    assert_eq!(it.look(), [Change::Recovered(0)]);
}

#[test]
fn without_a_process_there_are_no_signs() {
    let mut it = Trial::new(2);
    it.signs[0] = None;
    assert_eq!(it.stall(), [Change::Stalled(0)]);
    assert_eq!(it.run(ms(5_000), |_| {}), []);
    it.signs[0] = Some(Signs { stopped: false, switches: 90, pinged: false, waits: None });
    assert_eq!(it.look(), []);
    it.switch();
    assert_eq!(it.look(), [Change::Recovered(0)]);
}

#[test]
fn relapses_take_longer_and_longer_and_end_with_a_replacement_where_that_is_wanted() {
    let mut it = Trial::new(2);
    it.policy.on_stall = OnStall::Restart;
    it.health.prove(0);
    assert_eq!(it.stall(), [Change::Stalled(0)]);
    assert_eq!(it.wake(), BUSY_PAUSE);
    for (relapse, away) in [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000].iter().enumerate() {
        let expected: &[_] =
            if relapse == 2 { &[Change::Stalled(0), Change::Replace(0)] } else { &[Change::Stalled(0)] };
        assert_eq!(it.stall(), expected, "{relapse}");
        assert_eq!(it.wake(), ms(*away), "{relapse}");
    }
    // A new process has a clean record.
    assert_eq!(it.health.forget(0), HealthStatus::Fit);
    assert_eq!(it.stall(), [Change::Stalled(0)]);
    assert_eq!(it.wake(), BUSY_PAUSE);
}

#[test]
fn no_worker_is_replaced_unless_that_is_wanted_or_before_it_has_accepted() {
    for (on_stall, proven) in [(OnStall::Avoid, true), (OnStall::Restart, false)] {
        let mut it = Trial::new(2);
        it.policy.on_stall = on_stall;
        if proven {
            it.health.prove(0);
        }
        for _ in 0..6 {
            assert_eq!(it.stall(), [Change::Stalled(0)], "{on_stall:?}");
            assert_eq!(it.health.is_loading(0), !proven);
            let _ = it.wake();
        }
    }
}

#[test]
fn a_stall_of_a_worker_that_accepted_is_no_relapse() {
    let mut it = Trial::new(2);
    for _ in 0..6 {
        assert_eq!(it.stall(), [Change::Stalled(0)]);
        assert_eq!(it.wake(), BUSY_PAUSE);
        // Seen in the queue and gone.
        it.samples[0] = (1, false, it.samples[0].2 + 1);
        assert_eq!(it.look(), []);
        it.samples[0].0 = 0;
        assert_eq!(it.look(), []);
    }
    // Accepted so fast that no look sees it in the queue.
    for _ in 0..6 {
        assert_eq!(it.stall(), [Change::Stalled(0)]);
        assert_eq!(it.wake(), BUSY_PAUSE);
        it.samples[0].2 += 1;
        assert_eq!(it.run(ms(1_100), |_| {}), []);
    }
    // But a handshake that is on its way is not yet a connection that was accepted.
    it.stall();
    it.wake();
    it.samples[0].2 += 1;
    assert_eq!(it.run(ms(200), |_| {}), []);
    it.stall();
    assert_eq!(it.wake(), ms(250));
}

#[test]
fn accepting_for_ten_seconds_makes_up_for_relapses() {
    for (time, away) in [(ms(9_000), ms(250)), (ms(10_100), BUSY_PAUSE)] {
        let mut it = Trial::new(2);
        for _ in 0..2 {
            it.stall();
            it.wake();
        }
        let mut looks = 0;
        let accept = |it: &mut Trial| {
            looks += 1;
            it.samples[0].2 += looks % 2;
            it.samples[0].0 = (looks % 2) as u32;
        };
        assert_eq!(it.run(time, accept), []);
        it.samples[0].0 = 0;
        it.look();
        it.stall();
        assert_eq!(it.wake(), away);
    }
}

#[test]
fn what_comes_to_a_stalled_worker_is_rescued_again() {
    let mut it = Trial::new(2);
    it.stall();
    it.samples[0].0 = 2;
    assert_eq!(it.run(ms(110), |_| {}), [(ms(110), Change::Rescue(0))]);
    assert_eq!(it.run(ms(1_000), |_| {}), []);
    // A worker that shows signs of life may accept it itself.
    it.wake();
    it.stall();
    it.switch();
    it.samples[0].0 = 1;
    assert_eq!(it.run(ms(240), |_| {}), []);
}
