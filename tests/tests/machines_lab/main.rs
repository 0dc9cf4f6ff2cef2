//! docs/MACHINES.md in namespaces: a router spreads clients over three hosts, and no connection breaks for what happens inside
//! a host, nor when one is drained and comes back.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod exabgp;
mod lab;
mod loads;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use nix::sys::signal::Signal;
use testkit::client::ask;
use testkit::daemon::{settled, signal, until};
use testkit::documents::hold_table;

use crate::lab::{BUCKETS, ECMP, HOSTS, Lab, RESILIENT, web};
use crate::loads::{Kind, Loads, Seen};

/// The lab under load, and the rows of the table so far.
struct Scene {
    lab: Lab,
    resilient: Loads,
    ecmp: Loads,
    rows: Vec<String>,
}

impl Scene {
    fn new() -> Self {
        let lab = Lab::new();
        let resilient = Loads::start(&lab, web(RESILIENT), 500, 100);
        let ecmp = Loads::start(&lab, web(ECMP), 150, 0);
        Self { lab, resilient, ecmp, rows: Vec::new() }
    }

    /// Does something on a host, and asserts that nothing broke but what processes of `victims` had. Returns how much broke
    /// behind plain ECMP.
    fn step(&mut self, what: &str, victims: &[i32], act: impl FnOnce(&mut Lab)) -> usize {
        let begun = Instant::now();
        let before = self.lab.processes();
        act(&mut self.lab);
        let after = self.lab.processes();
        let gone: BTreeSet<i32> = before.keys().copied().filter(|pid| !after.contains_key(pid)).collect();
        let (resilient, ecmp) = (self.resilient.look(), self.ecmp.look());
        let broke = |seen: &Seen| -> Seen {
            let broke = seen.iter().filter(|((kind, pid), _)| {
                let in_order = gone.contains(pid) && matches!(kind, Kind::Ended | Kind::Moved);
                !in_order && !victims.contains(pid)
            });
            broke.map(|(what, count)| (*what, *count)).collect()
        };
        let (broken, by_ecmp) = (broke(&resilient), broke(&ecmp).values().sum());
        println!("{what}: {:.1?}: {resilient:?}; behind plain ECMP {by_ecmp} broke", begun.elapsed());
        assert_eq!(broken, Seen::new(), "{what}: processes were {before:?}{}", self.lab.logs());
        let lost_theirs = resilient.keys().any(|(_, pid)| victims.contains(pid));
        assert_eq!(lost_theirs, !victims.is_empty(), "{what}: what {victims:?} had");
        self.rows.push(format!("| {what} | 0 | 0 | 0 |"));
        by_ecmp
    }
}

/// How many of so many new connections each host gets.
fn new_connections(lab: &Lab, count: usize) -> Vec<usize> {
    let of: BTreeMap<i32, usize> = lab.processes();
    let mut got = vec![0; HOSTS];
    lab.client.inside(|| (0..count).for_each(|_| got[of[&ask(web(RESILIENT)).unwrap().pid]] += 1));
    got
}

#[test]
fn nothing_breaks_for_what_happens_inside_a_host_nor_when_one_leaves_and_comes_back() {
    let mut scene = Scene::new();
    let victim = scene.lab.hosts[0].daemon().workers()[0];
    scene.step("a worker is killed: what others have", &[victim], |lab| {
        signal(victim, Signal::SIGKILL);
        lab.hosts[0].daemon().settled_without(victim);
    });
    scene.step("the daemon is killed, and started again", &[], |lab| lab.hosts[0].replace_daemon());
    for (what, arguments) in [
        ("`restart web`", ["restart", "web"].as_slice()),
        ("`scale web 2`, from 4", &["scale", "web", "2"]),
        ("`scale web 6`", &["scale", "web", "6"]),
    ] {
        scene.step(what, &[], |lab| {
            let daemon = lab.hosts[0].daemon();
            daemon.run(arguments);
            until("it to be done", || daemon.status().services.iter().all(settled).then_some(()));
        });
    }
    scene.lab.until_even();

    let mut kept = Vec::new();
    let ecmp = scene.step("`host drain`", &[], |lab| {
        lab.hosts[0].daemon().run(&["host", "drain"]);
        until("the router to send nothing new", || {
            kept = lab.buckets();
            (kept[0] < BUCKETS / 10).then_some(())
        });
    });
    let got = new_connections(&scene.lab, 300);
    println!("drained: buckets {kept:?}, of 300 new connections {got:?}");
    assert!(got[0] < 30, "{got:?}");
    assert!(ecmp > 0, "plain ECMP has become better");
    let ecmp = scene.step("`host undrain`", &[], |lab| {
        lab.hosts[0].daemon().run(&["host", "undrain"]);
        lab.until_even();
    });
    let got = new_connections(&scene.lab, 300);
    println!("back: of 300 new connections {got:?}");
    assert!(got.iter().all(|it| (60..140).contains(it)), "{got:?}");
    assert!(ecmp > 0, "plain ECMP has become better");

    // Who announces nothing is no member, and what it had goes elsewhere at once.
    let its: Vec<i32> = scene.lab.hosts[0].daemon().workers();
    scene.step("its BIRD is killed: what other hosts have", &its, |lab| {
        lab.hosts[0].kill_bird();
        until("the router to take it out", || (lab.buckets()[0] == 0).then_some(()));
    });

    let Scene { lab, resilient, ecmp, rows } = scene;
    resilient.end();
    ecmp.end();
    // By addresses only: for `affinity = "source"`.
    lab.hash_policy(0);
    let got = new_connections(&lab, 30);
    assert!(got.contains(&30), "all of a client's connections go to one host: {got:?}");
    lab.end();
    hold_table("docs/MACHINES.md", "What breaks", &rows);
}
