//! `when_busy`: connections whose worker does something else go to one that waits for work.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use nix::sys::signal::Signal;
use reuseport_lb_client::api::ServiceStatus;
use testkit::client::{Answer, Connection, ask, ask_from, tally};
use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, selected, signal, state, until};
use testkit::fault::freeze;
use testkit::patience::fewer;
use testkit::world::World;

fn to() -> SocketAddr {
    "127.0.0.1:3000".parse().unwrap()
}

/// A service of workers that wait in this way. At SIGUSR1 they compute until there is a file `enough`.
struct Scene {
    daemon: Daemon,
    config: Config,
    place: std::path::PathBuf,
}

fn web(workers: usize, when_busy: &str) -> Config {
    Config::web().workers(workers).set("when_busy", when_busy)
}

impl Scene {
    fn start(world: &World, way: &str, config: Config) -> Self {
        let place = world.path(&format!("computing-{way}"));
        std::fs::create_dir(&place).unwrap();
        let flags = format!("--ready notify --wait {way} --compute {}", place.display());
        let config = config.listen("tcp://[::1]:3000").set("stall_timeout", "off").set("overload", "off");
        let config = config.server(world, &flags);
        Self { daemon: Daemon::with(world, &config), config, place }
    }

    /// Makes a worker compute; its name.
    fn occupy(&self, worker: usize) -> String {
        let name = format!("web/{worker}");
        let file = self.place.join(name.replace('/', "-"));
        signal(self.daemon.service().workers[worker].pid.unwrap(), Signal::SIGUSR1);
        until("a worker to compute", || file.exists().then_some(()));
        name
    }

    /// Lets all workers go on.
    fn release(&self) {
        std::fs::write(self.place.join("enough"), "").unwrap();
    }
}

/// One request when the workers `but` one wait, so that what is left to do of the one before does not count.
fn ask_when_others_wait(
    service: &ServiceStatus,
    but: usize,
    to: SocketAddr,
    from: Option<IpAddr>,
) -> std::io::Result<Answer> {
    let others = service.workers.iter().enumerate().filter(|(at, _)| *at != but);
    let pids: Vec<i32> = others.filter_map(|(_, worker)| worker.pid).collect();
    until("the others to sleep", || pids.iter().all(|pid| state(*pid) == Some('S')).then_some(()));
    ask_from(to, from)
}

/// How many of the decisions that were counted found their worker busy; the others all went to theirs.
#[track_caller]
fn busy_of(asked: u64, mut counted: Counters) -> u64 {
    let busy = counted.take(&["owner_busy"]);
    assert_eq!(counted.take(&["detour_candidate", "detour_owner", "detour_ready"]), busy);
    let others = [("arrival_packet", asked), ("owner_taken", asked - busy)];
    assert_eq!(counted, Counters::expected(&others));
    busy
}

fn chosen(service: &ServiceStatus) -> Vec<u64> {
    service.workers.iter().map(selected).collect()
}

#[test]
fn nobody_is_sent_to_a_worker_that_computes_however_it_waits() {
    for way in ["epoll", "accept", "poll", "select"] {
        let world = World::new();
        let scene = Scene::start(&world, way, web(4, "next"));
        let busy = scene.occupy(1);
        let service = scene.daemon.service();
        let asked = fewer(200) as u64;
        let answers = tally(asked as usize, || ask_when_others_wait(&service, 1, to(), None));
        let service = scene.daemon.service();
        assert!(!answers.contains_key(&busy) && answers.len() == 3, "{way}: {answers:?}");
        assert_eq!(chosen(&service)[1], 0, "{way}");
        // A quarter of the buckets is its own.
        let its = busy_of(asked, Counters::of(&service));
        assert!((asked / 20..=asked / 2).contains(&its), "{way}: {its}");
        scene.release();
        until("it to serve again", || (ask(to()).unwrap().worker == busy).then_some(()));
        scene.daemon.stop();
    }
}

#[test]
fn of_an_epoll_object_in_another_one_it_is_not_known_and_its_owner_gets_its_connections() {
    let world = World::new();
    let scene = Scene::start(&world, "epoll-in-epoll", web(2, "next"));
    let answers = tally(50, || ask(to()));
    assert_eq!(answers.len(), 2, "{answers:?}");
    let service = scene.daemon.service();
    // Only what still waits in its queue shows that a worker is busy.
    let busy = busy_of(50, Counters::of(&service));
    assert!(busy < 25, "{busy}");
    scene.daemon.stop();
}

#[test]
fn without_it_connections_wait_for_their_own_worker() {
    let world = World::new();
    let scene = Scene::start(&world, "epoll", web(4, "queue"));
    let busy = scene.occupy(1);
    let mut waiting: Vec<_> = (0..24).map(|_| Connection::open(to(), None).unwrap()).collect();
    waiting.iter_mut().for_each(|it| it.send().unwrap());
    let service = scene.daemon.service();
    let its = chosen(&service)[1];
    assert!(its > 0);
    assert_eq!(Counters::of(&service), Counters::all_taken(24));
    // A reload changes that, and what waits goes on to wait.
    scene.config.clone().set("when_busy", "next").write(&world);
    scene.daemon.run(&["reload"]);
    let later = tally(32, || ask_when_others_wait(&service, 1, to(), None));
    assert!(!later.contains_key(&busy), "{later:?}");
    let after = scene.daemon.service();
    assert_eq!(chosen(&after)[1], its);
    assert!(busy_of(32, Counters::difference(&service, &after)) > 0);
    scene.release();
    let answers = waiting.iter_mut().map(|it| it.answer().unwrap().worker);
    assert_eq!(answers.filter(|worker| *worker == busy).count() as u64, its);
    scene.daemon.stop();
}

#[test]
fn if_all_compute_the_shortest_queues_grow() {
    let world = World::new();
    let scene = Scene::start(&world, "epoll", web(3, "next"));
    (0..3).for_each(|worker| drop(scene.occupy(worker)));
    // So many that each was often enough found busy to be as bad as the others: then queues decide.
    let mut waiting: Vec<_> = (0..120).map(|_| Connection::open(to(), None).unwrap()).collect();
    let service = scene.daemon.service();
    let queues: Vec<_> = service.workers.iter().map(|worker| worker.sockets[0].queue).collect();
    assert_eq!(queues, [40, 40, 40]);
    let mut counted = Counters::of(&service);
    assert_eq!(counted.take(&["detour_candidate", "detour_owner", "detour_ready"]), 120);
    assert_eq!(counted, Counters::expected(&[("arrival_packet", 120), ("owner_busy", 120)]));
    scene.release();
    let answered: BTreeSet<_> = waiting.iter_mut().map(|it| it.ask().unwrap().worker).collect();
    assert_eq!(answered.len(), 3);
    scene.daemon.stop();
}

#[test]
fn a_stopped_worker_gets_nothing_from_the_first_moment() {
    let world = World::new();
    let config = web(4, "next").listen("tcp://[::1]:3000").set("stall_timeout", "off");
    let daemon = Daemon::with(&world, &config);
    let victim = daemon.service().workers[2].pid.unwrap();
    let _nothing = freeze(victim);
    let before = daemon.service();
    for to in ["127.0.0.1:3000", "[::1]:3000"].map(|to| to.parse().unwrap()) {
        let answers = tally(fewer(200), || ask_when_others_wait(&before, 2, to, None));
        assert!(!answers.contains_key("web/2") && answers.len() == 3, "{answers:?}");
        // Now that it has been found busy many times it is worse than those that are so for a moment.
        let asking: Vec<_> =
            (0..4).map(|_| std::thread::spawn(move || tally(fewer(100), || ask(to)))).collect();
        for asked in asking {
            assert!(!asked.join().unwrap().contains_key("web/2"));
        }
    }
    let service = daemon.service();
    assert_eq!(chosen(&service)[2], 0);
    let asked = 2 * (fewer(200) + 4 * fewer(100)) as u64;
    assert!(busy_of(asked, Counters::difference(&before, &service)) > 0);
    signal(victim, Signal::SIGCONT);
    until("it to serve again", || (ask(to()).unwrap().pid == victim).then_some(()));
    daemon.stop();
}

// vm: short
#[test]
fn a_client_comes_back_to_its_worker_when_that_waits_again() {
    let world = World::new();
    let scene = Scene::start(&world, "epoll", web(4, "next").set("affinity", "source"));
    let clients: Vec<IpAddr> = (1..=64).map(|host| IpAddr::from([127, 0, 1, host])).collect();
    let v6: SocketAddr = "[::1]:3000".parse().unwrap();
    let service = scene.daemon.service();
    let ask_all = |but: usize| -> Vec<String> {
        let ask_from =
            |client: &IpAddr| ask_when_others_wait(&service, but, to(), Some(*client)).unwrap().worker;
        clients.iter().map(ask_from).collect()
    };
    let home = ask_all(4);
    let v6_home = ask_when_others_wait(&service, 4, v6, None).unwrap().worker;
    assert_eq!(v6_home, ask_when_others_wait(&service, 4, v6, None).unwrap().worker);
    let its_home = v6_home.trim_start_matches("web/").parse().unwrap();
    let busy = scene.occupy(its_home);
    let meanwhile = ask_all(its_home);
    let moved = home.iter().zip(&meanwhile).filter(|(home, now)| home != now).count();
    let its = home.iter().filter(|worker| **worker == busy).count();
    assert!(!meanwhile.contains(&busy));
    assert_eq!(moved, its, "only the busy worker's clients went elsewhere");
    assert!(its > 0);
    assert_ne!(ask_when_others_wait(&service, its_home, v6, None).unwrap().worker, busy);
    scene.release();
    until("it to serve again", || (ask_all(4) == home).then_some(()));
    scene.daemon.stop();
}
