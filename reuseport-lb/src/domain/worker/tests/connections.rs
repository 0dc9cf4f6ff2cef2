//! Workers that leave and whose connections are waited for.

use std::time::Duration;

use super::super::events::{Event, Step};
use super::{LEAVE, READY, Trial, look};

fn look_at_connections(it: &mut Trial, queue: u64, connections: u64) -> Vec<Step> {
    it.now = it.life.deadline().unwrap();
    it.on(Event::Looked { queue, flows: 0, connections })
}

#[test]
fn it_stays_for_its_connections_up_to_the_deadline() {
    for late in [false, true] {
        let mut it = Trial::new(|policy| policy.drain_timeout = Duration::from_secs(3600));
        let _ = (it.on(Event::Start), it.on(READY), it.on(LEAVE));
        for (queue, connections) in [(0, 2), (1, 3), (0, 3)].repeat(100) {
            assert_eq!(look_at_connections(&mut it, queue, connections), []);
        }
        if late {
            it.now += it.policy.drain_timeout;
            assert_eq!(it.on(Event::Tick), [Step::Terminate, Step::HandOver]);
        } else {
            let ended = (0..100).map(|_| look(&mut it, 0)).find(|steps| !steps.is_empty());
            assert_eq!(ended, Some(vec![Step::Terminate]));
        }
    }
}

#[test]
fn others_get_the_queue_of_one_that_is_stuck_and_its_connections_are_waited_for() {
    let mut it = Trial::new(|policy| policy.drain_timeout = Duration::from_secs(3600));
    let _ = (it.on(Event::Start), it.on(READY), it.on(LEAVE));
    let stuck = (0..1000).map(|_| look_at_connections(&mut it, 3, 8)).find(|steps| !steps.is_empty());
    assert_eq!(stuck, Some(vec![Step::HandOver]));
    assert!((0..100).all(|_| look_at_connections(&mut it, 0, 5).is_empty()));
    let ended = (0..100).map(|_| look(&mut it, 0)).find(|steps| !steps.is_empty());
    assert_eq!(ended, Some(vec![Step::Terminate]));
}
