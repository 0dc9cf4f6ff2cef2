//! What each page has to show: a service under load is replaced, loses and gets a worker, is reloaded, and has one killed.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reuseport_lb_client::api::ServiceStatus;
use testkit::background::beside;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, is_alive, selected, settled, signal, until};
use testkit::requests::steadily;

use crate::page::{Page, SERVICES};

/// How a server of a page is asked.
pub(crate) trait Client: Sync {
    /// One question, which takes its server long or not; the answer, or what went wrong.
    fn ask(&self, long: bool, number: usize) -> Result<String, String>;

    /// The worker that has answered so, if answers say that.
    fn who<'a>(&self, service: &'a ServiceStatus, answer: &str) -> Option<&'a str> {
        let _ = (service, answer);
        None
    }

    /// Whether they do.
    fn says_who(&self) -> bool;

    /// Whether there are questions that take long.
    fn has_long_ones(&self) -> bool;

    /// Whether the service is reloaded as well, which ends workers as a restart does and takes longer.
    fn reloads(&self) -> bool {
        false
    }
}

/// A question and what became of it.
struct Asked {
    long: bool,
    begun: Instant,
    ended: Instant,
    result: Result<String, String>,
}

/// When something was done.
struct Phase {
    what: &'static str,
    begun: Instant,
    ended: Instant,
}

/// How many questions have come to all listeners.
fn asked(service: &ServiceStatus) -> u64 {
    service.groups.iter().map(|group| Counters::of_group(group).get("arrival_packet").cast_unsigned()).sum()
}

/// Proves a page whose server is asked so.
pub(crate) fn prove(page: &Page, client: &dyn Client) {
    let daemon = page.start();
    quietly(&daemon, client);
    let before = daemon.service();
    let ask = |long, number| {
        let begun = Instant::now();
        let result = client.ask(long, number);
        Asked { long, begun, ended: Instant::now(), result }
    };
    let short_ones =
        |over: &AtomicBool| steadily(over, Duration::from_millis(20), |number| ask(false, number));
    let long_ones = |over: &AtomicBool| {
        if !client.has_long_ones() {
            return Vec::new();
        }
        steadily(over, Duration::from_millis(50), |number| ask(true, number))
    };
    let act = || changes(&daemon, &before, client.reloads());
    let ((phases, long), mut all) = beside(short_ones, || beside(long_ones, act));
    all.extend(long);
    let kill = phases.last().unwrap();
    for phase in &phases {
        let test = std::thread::current();
        let name = test.name().unwrap_or_default();
        println!("{name}: {} in {:?}: {:?}", phase.what, phase.ended - phase.begun, figures(phase, &all));
    }
    let failed = |figures: &String| figures.rsplit(' ').next().map(str::to_owned);
    let (seen, said) = (figures(&phases[0], &all), &page.row[1..3]);
    assert!(said.iter().map(failed).eq(seen.iter().map(failed)), "{seen:?}, the document says {said:?}");
    for one in &all {
        let Err(error) = &one.result else { continue };
        // What the killed worker had accepted goes with it, also what its other processes accept until they are gone.
        let lost = one.begun <= kill.ended && one.ended >= kill.begun && !error.starts_with("connect: ");
        let when = phases.iter().rfind(|phase| phase.begun <= one.ended).map_or("before", |it| it.what);
        assert!(lost, "long: {}, {when}: {error}\n{}", one.long, daemon.log());
    }
    let service = daemon.service();
    let mut counters = Counters::difference(&before, &service);
    println!("{counters:?}");
    counters.assert_sums();
    let _ = counters.take(&["arrival_migration", "owner_taken", "owner_kept"]);
    assert_eq!(counters, Counters::expected(&[("arrival_packet", all.len() as u64)]), "{service:?}");
    assert!(service.groups.iter().all(|group| group.strangers == Some(0)), "{service:?}");
    daemon.stop();
}

/// One question after the other: each is answered, counted, and every worker has answered some.
fn quietly(daemon: &Daemon, client: &dyn Client) {
    const QUESTIONS: u64 = 40;
    let before = daemon.service();
    let answers: Vec<String> = (0..QUESTIONS).map(|it| client.ask(false, it as usize).unwrap()).collect();
    let after = daemon.service();
    assert_eq!(Counters::difference(&before, &after), Counters::all_taken(QUESTIONS));
    let all: BTreeSet<&str> = after.workers.iter().map(|it| &*it.name).collect();
    if client.says_who() {
        let answered: BTreeSet<&str> = answers.iter().filter_map(|it| client.who(&after, it)).collect();
        assert_eq!(answered, all, "{answers:?}");
    }
    assert!(after.workers.iter().all(|worker| selected(worker) > 0), "{after:?}");
}

/// All that is done to the service while it is asked.
fn changes(daemon: &Daemon, before: &ServiceStatus, reloads: bool) -> Vec<Phase> {
    let name = &*before.name;
    let phases = RefCell::new(Vec::new());
    let pids = || daemon.workers();
    let phase = |what: &'static str, act: &dyn Fn()| {
        // Something is in flight at each worker: as many questions as 50 and 20 a second make in some time.
        let asked_before = asked(&daemon.service());
        until("questions", || (asked(&daemon.service()) >= asked_before + 20).then_some(()));
        let begun = Instant::now();
        act();
        phases.borrow_mut().push(Phase { what, begun, ended: Instant::now() });
    };
    let gone =
        |old: &[i32]| until("old processes to end", || old.iter().all(|pid| !is_alive(*pid)).then_some(()));
    phase("restart", &|| {
        let old = pids();
        daemon.run(&["restart", name, "--trial", "100ms"]);
        gone(&old);
        assert!(pids().iter().all(|pid| !old.contains(pid)));
    });
    phase("scale by one less", &|| {
        let last = pids().pop().unwrap();
        daemon.run(&["scale", name, "-1"]);
        gone(&[last]);
    });
    phase("scale by one more", &|| {
        daemon.run(&["scale", name, "+1"]);
    });
    let reload = || {
        let old = pids();
        let changed = fs::read_to_string(SERVICES).unwrap() + "umask = \"027\"\n";
        fs::write(SERVICES, changed).unwrap();
        daemon.run(&["reload"]);
        gone(&old);
        assert!(pids().iter().all(|pid| !old.contains(pid)) && settled(&daemon.service()));
    };
    if reloads {
        phase("reload", &reload);
    }
    let victim = pids()[0];
    let children = fs::read_to_string(format!("/proc/{victim}/task/{victim}/children")).unwrap();
    let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
    let all: Vec<i32> = [victim].into_iter().chain(children).collect();
    phase("kill -9", &|| {
        signal(victim, Signal::SIGKILL);
        gone(&all);
    });
    let service = daemon.settled_without(victim);
    assert_eq!((service.workers.len(), service.workers[0].restarts), (before.workers.len(), 1));
    phases.into_inner()
}

/// How many were answered and how many not, of those that were there during a phase, as the table of the document has it:
/// long ones and short ones.
fn figures(phase: &Phase, all: &[Asked]) -> [String; 2] {
    let there = |one: &&Asked| one.begun <= phase.ended && one.ended >= phase.begun;
    [true, false].map(|long| {
        let of_these: Vec<&Asked> = all.iter().filter(there).filter(|one| one.long == long).collect();
        let failed = of_these.iter().filter(|one| one.result.is_err()).count();
        format!("{} / {failed}", of_these.len() - failed)
    })
}
