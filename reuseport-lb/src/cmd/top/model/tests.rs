//! Tests of what two looks give.

use super::super::samples::{look, service, status, worker};
use super::*;

fn arrivals(each_second: f64, share: Option<f64>) -> Arrivals {
    Arrivals { each_second: Some(each_second), share }
}

#[test]
fn rates_are_differences_of_two_looks_by_the_time_between_them() {
    let before = status(vec![service("web", vec![worker(0), worker(1), worker(2), worker(3)])]);
    let mut now = before.clone();
    let workers = &mut now.services[0].workers;
    workers[0].sockets[0].selected = 300;
    workers[1].sockets[0].selected = 100;
    workers[0].usage = Some(Usage { start_time: 100.0, cpu_seconds: 3.0, resident_bytes: 9 << 20 });
    // Another process: what it has used so far is of an unknown time.
    (workers[1].pid, workers[1].usage) =
        (Some(7), Some(Usage { start_time: 101.0, cpu_seconds: 3.0, resident_bytes: 1 }));
    workers[2].usage = None;
    let sections = sections(Some(&look(before, 100)), &look(now, 102));
    let [web] = sections.as_slice() else { panic!("{sections:?}") };
    assert_eq!(web.title, "service web: 4 of 4 workers ready, affinity flow, 200 new/s");
    let seen: Vec<Arrivals> = web.rows.iter().map(|row| row.arrivals).collect();
    let wanted = [
        arrivals(150.0, Some(0.75)),
        arrivals(50.0, Some(0.25)),
        arrivals(0.0, Some(0.0)),
        arrivals(0.0, Some(0.0)),
    ];
    assert_eq!(seen, wanted);
    let cpu: Vec<Option<f64>> = web.rows.iter().map(|row| row.used.cpu).collect();
    assert_eq!(cpu, [Some(1.5), None, None, Some(0.0)]);
    let memory: Vec<Option<u64>> = web.rows.iter().map(|row| row.used.resident_bytes).collect();
    assert_eq!(memory, [Some(9 << 20), Some(1), None, Some(8 << 20)]);
    assert_eq!(
        web.rows.iter().map(|row| row.age).collect::<Vec<_>>(),
        [Some(2.0), Some(1.0), None, Some(2.0)]
    );
}

#[test]
fn the_first_look_has_no_rates() {
    let sections = sections(None, &look(status(vec![service("web", vec![worker(0)])]), 1));
    assert_eq!(sections[0].title, "service web: 1 of 1 workers ready, affinity flow");
    let row = &sections[0].rows[0];
    assert_eq!((row.arrivals, row.used.cpu), (Arrivals::default(), None));
}

#[test]
fn a_slot_goes_on_counting_whoever_is_in_it_and_begins_anew_with_less() {
    let mut before = status(vec![service("web", vec![worker(0), worker(1)])]);
    before.services[0].workers[0].sockets[0].selected = 1000;
    before.services[0].workers[1].sockets[0].selected = 1000;
    let mut now = before.clone();
    let workers = &mut now.services[0].workers;
    // A successor in the slot of web/0, a new worker in the slot of web/1, and one in a new slot.
    (workers[0].pid, workers[0].sockets[0].selected) = (Some(7), 1010);
    (workers[1].pid, workers[1].sockets[0].selected) = (Some(8), 20);
    let mut third = worker(2);
    third.sockets[0].selected = 30;
    workers.push(third);
    let sections = sections(Some(&look(before, 1)), &look(now, 2));
    let seen: Vec<Option<f64>> = sections[0].rows.iter().map(|row| row.arrivals.each_second).collect();
    assert_eq!(seen, [Some(10.0), Some(20.0), Some(30.0)]);
}

#[test]
fn a_queue_is_that_of_the_fullest_socket_and_the_sum_of_what_waits() {
    let mut it = worker(0);
    let tcp = it.sockets[0].clone();
    let of =
        |listen: &str, queue, backlog| SocketStatus { listen: listen.into(), queue, backlog, ..tcp.clone() };
    it.sockets = vec![of("tcp://a:1", 5, 100), of("tcp://a:2", 80, 100), of("udp://a:1", 1024, 4096)];
    assert_eq!(queue(&it.sockets), Queue { connections: 85, bytes: 1024, fullest: 0.8 });
    // The kernel takes one connection more than the backlog; some sockets have no limit.
    assert_eq!(queue(&[of("tcp://a:1", 101, 100), of("tcp://a:2", 1, 0)]).fullest, 1.0);
}

#[test]
fn names_and_texts_of_others_control_no_terminal() {
    let mut nasty = service("w\u{1b}b", vec![worker(0)]);
    nasty.pending = Some("a\nb".into());
    nasty.ending = true;
    nasty.groups[0].counters.insert("refused".into(), 3);
    nasty.workers[0].name = "w\u{1b}b/0".into();
    nasty.workers[0].state = "re\u{9b}dy".into();
    nasty.workers[0].lacks = Some("\u{202e}x".into());
    let sections = sections(None, &look(status(vec![nasty]), 1));
    assert_eq!(
        sections[0].title,
        "service w\\u{1b}b: 0 of 1 workers ready, affinity flow, 3 refused, it is to end, a\\nb"
    );
    let row = &sections[0].rows[0];
    assert_eq!((&*row.id.name, &*row.state), ("w\\u{1b}b/0", "re\\u{9b}dy"));
    assert_eq!(row.lacks.as_deref(), Some("\\u{202e}x"));
}
