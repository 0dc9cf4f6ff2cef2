//! Signals reach all processes of a worker, wherever these have put themselves, and no other process.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use testkit::config::Config;
use testkit::daemon::{Daemon, Paths, binary, is_alive, settled, signal, until};
use testkit::server::words;
use testkit::world::World;

#[test]
fn a_process_id_that_is_somebody_elses_by_now_gets_no_signal() {
    let world = World::new();
    let config = Config::web().workers(1).set("ready", "immediate").command(&["sleep", "1000"]).write(&world);
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--fork", "--kill-child", "--mount-proc", env!("CARGO_BIN_EXE_reuse")])
        .arg(binary());
    command.args(Paths::of(&world).command(&[]).get_args()).arg(config);
    let output = command.output().unwrap();
    let says = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(says, "lives\n", "{}", String::from_utf8_lossy(&output.stderr));
}

/// The socket that hears what process `pid` says.
fn notify_socket(pid: i32) -> PathBuf {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let mut variables = environment.split(|byte| *byte == 0);
    let found = variables.find_map(|variable| variable.strip_prefix(b"NOTIFY_SOCKET="));
    String::from_utf8(found.unwrap().to_vec()).unwrap().into()
}

#[test]
fn a_worker_cannot_speak_for_another_of_its_user() {
    let world = World::new();
    let place = |name: &str| {
        let place = world.path(name);
        fs::create_dir(&place).unwrap();
        nix::unistd::chown(&place, Some(65534.into()), Some(65534.into())).unwrap();
        place
    };
    let (of_a, of_b) = (place("a"), place("b"));
    let service = |name: &str, port: u16| {
        let config = Config::service(name).listen(&format!("tcp://127.0.0.1:{port}")).workers(1);
        config.set("user", "nobody").set("ready", "notify")
    };
    let says = |place: &PathBuf, how: &str| format!("--ready {how} --orders {}", place.display());
    // The second one says it by a helper that ends at once, as systemd-notify does.
    let configuration = service("a", 3000)
        .server(&world, &says(&of_a, "notify"))
        .and(service("b", 3001).server(&world, &says(&of_b, "helper")))
        .and(service("c", 3002).command(&["sleep", "1000"]));
    configuration.write(&world);
    let command = Paths::of(&world).run();
    let daemon = Daemon::start_until(&world, command, |service| service.name == "c" || settled(service));
    let before = daemon.workers();
    let [_, b, c] = before[..] else { panic!("{before:?}") };
    let order = |place: &PathBuf, text: String| {
        fs::write(place.join("new"), text).unwrap();
        fs::rename(place.join("new"), place.join("order")).unwrap();
        until("it to be said", || fs::remove_file(place.join("done")).ok());
    };
    order(&of_a, format!("{} STOPPING=1 READY=1", notify_socket(b).display()));
    order(&of_a, format!("{} READY=1", notify_socket(c).display()));
    for (worker, said) in [("b/0", "{Stopping}"), ("c/0", "{Ready}")] {
        let is_it = |line: &str| line.contains(worker) && line.contains(&format!("not heard: {said}"));
        let line =
            until("the log to say it", || daemon.log().lines().find(|line| is_it(line)).map(str::to_owned));
        assert!(line.contains(&format!("pid={} uid=65534", before[0])), "{line}");
    }
    // Once a minute.
    assert_eq!(daemon.log().matches("not heard").count(), 2);
    let states = |daemon: &Daemon| -> Vec<String> {
        daemon.status().services.iter().map(|service| service.workers[0].state.clone()).collect()
    };
    // Its own word is heard.
    order(&of_b, format!("{} STOPPING=1", notify_socket(b).display()));
    until("b to be replaced", || {
        let now = daemon.workers();
        (now.len() == 3 && now[1] != b && states(&daemon)[1] == "ready").then_some(())
    });
    assert_eq!((daemon.workers()[0], daemon.workers()[2]), (before[0], c));
    assert_eq!([&*states(&daemon)[0], &*states(&daemon)[2]], ["ready", "starting"]);
    // A process that ended before the daemon looked is known by its user alone.
    signal(daemon.pid(), Signal::SIGSTOP);
    let mut stranger = Command::new(&words(&world, "")[0]);
    stranger.args(["--say", "READY=1"]).env("NOTIFY_SOCKET", notify_socket(c)).uid(65534);
    assert!(stranger.status().unwrap().success());
    signal(daemon.pid(), Signal::SIGCONT);
    until("c to be ready", || (states(&daemon)[2] == "ready").then_some(()));
    daemon.stop();
    assert!(before.iter().all(|pid| !is_alive(*pid)));
}

/// All processes of a worker, by the one that leads it.
fn processes(place: &Path, leader: i32) -> Vec<i32> {
    let of = |kind: &str| {
        until("all processes of a worker", || {
            fs::read_to_string(place.join(format!("{leader}-{kind}"))).ok()?.parse().ok()
        })
    };
    ["child", "group", "session", "orphan"].map(of).into_iter().chain([leader]).collect()
}

fn assert_ended(processes: &[i32], by: &str) {
    for pid in processes {
        until(&format!("process {pid} of {processes:?} to end ({by})"), || (!is_alive(*pid)).then_some(()));
    }
}

/// The cgroup of a process, if a daemon has made it.
fn cgroup(pid: i32) -> Option<String> {
    let lines = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let own = lines.lines().find_map(|line| line.strip_prefix("0::"))?;
    own.contains("/reuseport-lb-").then(|| own.to_owned())
}

/// Where cgroups of version 2 are to be seen.
fn cgroup_mounts() -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<&str>>());
    fields.filter(|fields| fields[2] == "cgroup2").map(|fields| fields[1].to_owned()).collect()
}

/// What a daemon does to a worker reaches each of its processes.
fn reach_all(with_cgroups: bool) {
    let world = World::new();
    assert!(!cgroup_mounts().is_empty(), "this test needs cgroups: mount -t cgroup2 cgroup2 /sys/fs/cgroup");
    if !with_cgroups {
        for mount in cgroup_mounts() {
            nix::mount::umount2(&*mount, nix::mount::MntFlags::MNT_DETACH).unwrap();
        }
    }
    let place = world.path("place");
    fs::create_dir(&place).unwrap();
    nix::unistd::chown(&place, Some(65534.into()), Some(65534.into())).unwrap();
    let service = |name: &str, port: u16, workers: usize, how: &str| {
        let config = Config::service(name).listen(&format!("tcp://127.0.0.1:{port}")).workers(workers);
        let config = config.set("user", "nobody").set("ready", "notify");
        config.server(&world, &format!("--family {} --how {how}", place.display()))
    };
    // A process that has left everything else is known by its cgroup alone when it says something.
    let configuration = service("web", 3000, 4, if with_cgroups { "speaks" } else { "plain" })
        .and(service("dog", 3001, 1, "pings").set("watchdog", "1s"))
        .and(service("mule", 3002, 1, "stubborn"));
    let daemon = Daemon::with(&world, &configuration);
    assert_eq!(daemon.log().matches("workers get no cgroup").count(), usize::from(!with_cgroups));
    let service = |name: &str| {
        let services = Paths::of(&world).status().unwrap().services;
        services.into_iter().find(|service| service.name == name).unwrap()
    };
    let of =
        |name: &str| -> Vec<i32> { service(name).workers.iter().filter_map(|worker| worker.pid).collect() };
    let leaders = || of("web");
    let dog = of("dog")[0];
    let all = |leader: i32| processes(&place, leader);
    let of_dog = all(dog);
    fs::remove_file(place.join("alive")).unwrap();
    let web: Vec<Vec<i32>> = leaders().into_iter().map(all).collect();
    assert!(web.iter().flatten().all(|pid| is_alive(*pid) && cgroup(*pid).is_some() == with_cgroups));

    daemon.run(&["drain", "web/3"]);
    assert_ended(&web[3], "drain");
    assert_ended(&of_dog, "watchdog");
    let last = leaders()[2];
    signal(last, Signal::SIGKILL);
    assert_ended(&web[2], "the end of its first process");
    until("its successor", || {
        let service = service("web");
        (service.workers[2].pid != Some(last) && settled(&service)).then_some(())
    });
    let before: Vec<Vec<i32>> = leaders().into_iter().map(all).collect();
    daemon.run(&["restart", "web"]);
    before.iter().for_each(|worker| assert_ended(worker, "restart"));

    // The next daemon knows as much.
    let left: Vec<Vec<i32>> = leaders().into_iter().map(all).collect();
    daemon.kill();
    signal(left[2][4], Signal::SIGKILL);
    until("the first process of web/2 to end", || (!is_alive(left[2][4])).then_some(()));
    let daemon = Daemon::with(&world, &configuration);
    assert_eq!(leaders()[..2], [left[0][4], left[1][4]]);
    assert_ended(&left[2], "the next daemon");
    daemon.run(&["drain", "web/1"]);
    assert_ended(&left[1], "drain by the next daemon");
    signal(left[0][4], Signal::SIGKILL);
    assert_ended(&left[0], "the end of its first process under the next daemon");

    // Two signals: at the first one who ignores SIGTERM stays.
    let mule = of("mule")[0];
    let of_mule = all(mule);
    let everybody: Vec<i32> = fs::read_dir(&place)
        .unwrap()
        .filter_map(|file| fs::read_to_string(file.unwrap().path()).ok()?.parse().ok())
        .collect();
    let mut made = Vec::new();
    let groups: Vec<String> = daemon.workers().into_iter().filter_map(cgroup).collect();
    signal(daemon.pid(), Signal::SIGTERM);
    until("the first process to end", || (!is_alive(mule)).then_some(()));
    assert_eq!(of_mule.iter().filter(|pid| is_alive(**pid)).count(), 4);
    daemon.stop();
    assert_ended(&of_mule, "two signals");
    assert!(everybody.len() > 40);
    assert_ended(&everybody, "anything");
    for group in groups {
        let group = Path::new(&cgroup_mounts()[0]).join(group.trim_start_matches('/'));
        assert!(!group.exists(), "{} is left", group.display());
        made.push(group.parent().unwrap().to_owned());
    }
    // In the root cgroup a daemon cannot remove its directory when it ends, so the next one does.
    Daemon::start(&world, &["--listen", "tcp://127.0.0.1:3000", "--workers", "1"]).stop();
    assert!(made.iter().all(|directory| !directory.exists()), "{made:?}");
}

#[test]
fn wherever_a_worker_has_put_itself_it_is_reached() {
    reach_all(true);
}

#[test]
fn without_cgroups_it_is_found_by_other_means() {
    reach_all(false);
}
