//! What workers write: all of it arrives with the worker's name, or is counted, whoever stands still or is gone meanwhile.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::HashMap;
use std::fs;
use std::io::{PipeReader, Read};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::config::Config;
use testkit::daemon::{Daemon, Paths, is_alive, settled, signal, throughout, until};
use testkit::patience::{at_most, slow};
use testkit::told::{Told, lines, up};
use testkit::world::World;

/// What arrived of a worker's output, and what the log says is dropped of it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Account {
    arrived: u64,
    dropped: u64,
    dropped_bytes: u64,
}

impl Account {
    /// Counts the lines of [`lines`] and of [`small`]: each is whole, and after those before it.
    fn of(log: &str) -> Self {
        let mut account = Self::default();
        let mut last: HashMap<&str, usize> = HashMap::new();
        for line in log.lines().filter_map(|line| line.strip_prefix("web/0: ")) {
            if let Some((lines, rest)) = line.split_once(" lines (")
                && rest.ends_with(" dropped: standard error did not take them in time")
            {
                account.dropped += lines.parse::<u64>().unwrap();
                account.dropped_bytes += rest.split_once(' ').unwrap().0.parse::<u64>().unwrap();
                continue;
            }
            let words: Vec<&str> = line.split(' ').collect();
            assert!(words.len() == 2 || (words.len() == 3 && line.len() == 99), "torn: {line}");
            let number = words[1].parse().unwrap();
            let before = last.insert(words[0], number);
            assert!(before.is_none_or(|before| before < number), "out of order: {line}");
            account.arrived += 1;
        }
        account
    }

    fn is_of(&self, lines: usize) -> bool {
        self.arrived + self.dropped == lines as u64
    }
}

/// An order to write 200 lines with this mark and their numbers, each by the name of standard error.
fn small(mark: &str) -> String {
    format!("for i in $(seq 0 199); do echo \"{mark} $i\" > /dev/stderr; done")
}

/// A reader of the daemon's standard error that may stand still.
struct Reader {
    read: Arc<Mutex<String>>,
    stands: Arc<AtomicBool>,
}

impl Reader {
    fn of(mut pipe: PipeReader) -> Self {
        let (read, stands) = (Arc::<Mutex<String>>::default(), Arc::<AtomicBool>::default());
        let (all, waits) = (read.clone(), stands.clone());
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            loop {
                while waits.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(5)); // sleep: it stands still
                }
                let Ok(length @ 1..) = pipe.read(&mut buffer) else { break };
                all.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
        });
        Self { read, stands }
    }

    fn stand(&self, still: bool) {
        self.stands.store(still, Ordering::Relaxed);
    }

    fn text(&self) -> String {
        self.read.lock().unwrap().clone()
    }
}

fn link(pid: i32, fd: i32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap_or_default()
}

/// The process that keeps the output of a worker's process.
fn keeper(pid: i32) -> Option<i32> {
    let pipe = link(pid, 1);
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut keepers = pids.filter(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name == "reuseport-keep\n" && link(*pid, 0) == pipe
    });
    let keeper = keepers.next();
    assert_eq!(keepers.next(), None);
    keeper
}

/// Memory of a process alone, in KiB.
fn private(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    // Not what is the program's: that is shared as long as another process runs it.
    let lines = text.lines().filter(|line| line.starts_with("Private_Dirty:"));
    lines.filter_map(|line| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()).sum()
}

/// What `status` says is dropped of the first worker's output.
fn dropped(daemon: &Daemon) -> (u64, u64) {
    let worker = &daemon.service().workers[0];
    (worker.dropped_lines, worker.dropped_bytes)
}

#[test]
fn all_arrives_or_is_counted_whether_the_reader_stands_still_or_no_daemon_runs() {
    const MANY: usize = 250_000;
    let world = World::new();
    let told = Told::new(&world);
    let (reader, pipe) = std::io::pipe().unwrap();
    let reader = Reader::of(reader);
    told.config().write(&world);
    let run = || {
        let mut command = Paths::of(&world).run();
        command.stdout(Stdio::null()).stderr(pipe.try_clone().unwrap());
        Daemon::start_unheard(&world, command, settled)
    };
    let daemon = run();
    up(|| reader.text());
    let first = daemon.workers()[0];
    told.tell("kill -ABRT $$");
    let pid = daemon.settled_without(first).workers[0].pid.unwrap();
    testkit::daemon::executed(pid);
    // Answers take memory as well, once.
    let asked = || throughout(Duration::from_secs(1), || assert!(daemon.status().longest_step_ms >= 0.0));
    asked();
    let before = private(daemon.pid());

    // In bursts, with somebody who reads.
    for burst in ["a", "b", "c", "d", "e"] {
        told.does(&format!("{} >&2", lines(burst, MANY / 5)));
    }
    let account = |expected: usize| {
        let mut account = Account::default();
        until("all lines to be there, or counted", || {
            account = Account::of(&reader.text());
            account.is_of(expected).then_some(())
        });
        account
    };
    let seen = account(MANY);
    println!("with a reader: {seen:?}");
    assert_eq!(dropped(&daemon), (seen.dropped, seen.dropped_bytes));
    assert_eq!(seen.dropped_bytes, 100 * seen.dropped);
    // A reader that the machine holds up for a while is one that stands still.
    assert!(seen.arrived > MANY as u64 / 2, "{seen:?}");

    // The reader stands still for ten seconds: neither worker nor daemon waits for it.
    reader.stand(true);
    let begun = Instant::now();
    told.does(&lines("f", MANY));
    told.does(&small("g"));
    assert!(begun.elapsed() < at_most(Duration::from_secs(10)), "{:?}", begun.elapsed());
    let keeps = keeper(pid).unwrap();
    let mut most = 0;
    throughout(Duration::from_secs(10).saturating_sub(begun.elapsed()), || {
        most = most.max(private(keeps));
        assert!(daemon.status().longest_step_ms < 200.0 * f64::from(slow()));
    });
    println!("a keeper with a reader that stands still has {most} KiB of its own");
    assert!(most < 3 << 10, "{most} KiB");
    assert!(dropped(&daemon).0 > seen.dropped, "all fits into what waits");
    reader.stand(false);
    let seen = account(2 * MANY + 200);
    println!("with a reader that stood still: {seen:?}");
    assert_eq!(dropped(&daemon), (seen.dropped, seen.dropped_bytes));
    let after = private(daemon.pid());
    assert!(after < before + 2048, "the daemon has {after} KiB, {before} before");
    until("the keeper's memory to be free", || (private(keeps) < 1 << 10).then_some(()));

    // No daemon for ten seconds, half of them without a reader: all goes on.
    daemon.kill();
    let begun = Instant::now();
    reader.stand(true);
    told.does(&lines("h", MANY / 2));
    throughout(Duration::from_secs(5), || assert!(is_alive(keeps)));
    reader.stand(false);
    account(2 * MANY + 200 + MANY / 2);
    told.does(&lines("i", MANY / 2));
    told.does(&small("j"));
    throughout(Duration::from_secs(10).saturating_sub(begun.elapsed()), || assert!(is_alive(keeps)));
    let daemon = run();
    let now = account(3 * MANY + 400);
    println!("without a daemon: {now:?}");
    assert!(now.dropped > seen.dropped, "all fits into what waits");
    assert_eq!((daemon.workers(), keeper(pid)), (vec![pid], Some(keeps)));
    assert_eq!(dropped(&daemon), (now.dropped, now.dropped_bytes));
    daemon.stop();
    until("its keeper to end", || (!is_alive(keeps)).then_some(()));
}

#[test]
fn a_worker_of_another_user_writes_to_dev_stderr_and_long_lines_arrive_in_parts() {
    let world = World::new();
    let told = Told::new(&world);
    let daemon = Daemon::with(&world, &told.config().set("user", "nobody"));
    told.does("echo by name > /dev/stderr; echo by number >&2; echo out > /dev/stdout");
    told.does("head -c 10000 /dev/zero | tr '\\0' x; echo; printf 'no end'");
    for line in ["by name", "by number", "out"] {
        until(line, || daemon.log().contains(&format!("\nweb/0: {line}\n")).then_some(()));
    }
    until("a long line", || daemon.log().lines().any(|it| it.starts_with("web/0+: x")).then_some(()));
    let log = daemon.log();
    let parts = log.lines().filter(|it| it.starts_with("web/0: x") || it.starts_with("web/0+: x"));
    assert_eq!(parts.map(|part| part.matches('x').count()).sum::<usize>(), 10_000);
    assert!(!log.contains("no end"));
    let paths = daemon.paths().clone();
    daemon.stop();
    // What has no end when the worker ends is a line as well; the end of the daemon waits for that.
    assert!(fs::read_to_string(world.path("daemon.log")).unwrap().contains("web/0: no end\n"));
    assert!(paths.leftovers().is_empty());
}

#[test]
fn the_last_lines_of_a_worker_that_fails_are_in_status_from_its_first_end_on() {
    let world = World::new();
    let script = "i=0; while [ $i -lt 20 ]; do echo \"line $i\"; i=$((i+1)); done; printf 'a \\033[1mb'; until [ -e ENDS ]; do sleep 0.01; done; exit 3";
    let ends = world.path("ends");
    let script = script.replace("ENDS", ends.to_str().unwrap());
    let config = Config::web().workers(1).set("ready", "immediate").command(&["sh", "-c", &script]);
    let daemon = Daemon::with(&world, &config);
    up(|| daemon.log());
    fs::write(&ends, "").unwrap();
    let words = until("its last words", || {
        Some(daemon.service().workers.remove(0).last_words).filter(|words| !words.is_empty())
    });
    let expected: Vec<String> = (11..20).map(|n| format!("line {n}")).chain(["a  [1mb".into()]).collect();
    assert_eq!(words, expected);
    until("the same in the log", || {
        daemon.log().contains("web/0: line 19\nweb/0: a \u{1b}[1mb\n").then_some(())
    });
}

#[test]
fn a_keeper_that_is_killed_is_replaced_and_its_worker_goes_on() {
    let world = World::new();
    let told = Told::new(&world);
    let config = told.config();
    let daemon = Daemon::with(&world, &config);
    let pid = daemon.workers()[0];
    told.does("echo before");
    daemon.says("web/0: before\n");
    let first = keeper(pid).unwrap();
    for ends in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGPIPE] {
        signal(first, ends);
    }
    told.does("echo still");
    daemon.says("web/0: still\n");
    signal(first, Signal::SIGKILL);
    told.does("echo between");
    daemon.says("web/0: between\n");
    let second = keeper(pid).unwrap();
    assert_ne!(first, second);
    daemon.says("the process that kept its output is gone: 0 lines");

    // The next daemon finds the second one.
    until("that to be saved", || {
        fs::read_to_string(world.path("run/state/web.state"))
            .ok()?
            .contains(&format!(":{second},"))
            .then_some(())
    });
    daemon.kill();
    told.does("echo alone");
    let daemon = Daemon::with(&world, &config);
    assert_eq!((daemon.workers(), keeper(pid)), (vec![pid], Some(second)));
    daemon.says("web/0: alone\n");

    // Without both, writes fail; the next daemon has the output kept again.
    daemon.kill();
    signal(second, Signal::SIGKILL);
    until("it to be gone", || (!is_alive(second)).then_some(()));
    let daemon = Daemon::with(&world, &config);
    daemon.says("nobody kept its output while no daemon ran");
    assert_eq!(daemon.workers(), [pid]);
    told.does("echo again");
    daemon.says("web/0: again\n");
    daemon.stop();
}

#[test]
fn what_holds_the_output_of_a_worker_that_has_ended_keeps_nobody_waiting() {
    let world = World::new();
    let told = Told::new(&world);
    let daemon = Daemon::with(&world, &told.config());
    let pid = daemon.workers()[0];
    // Without the worker's environment, session and cgroup nothing tells whose it is.
    let pidfile = world.path("done/stray");
    told.does(&format!(
        "env -i setsid sh -c 'echo 0 > /sys/fs/cgroup/cgroup.procs; echo $$ > {}; exec sleep 1000' & wait_for=1",
        pidfile.display()
    ));
    let stray: i32 = until("its process", || fs::read_to_string(&pidfile).ok()?.trim().parse().ok());
    let keeps = keeper(pid).unwrap();
    up(|| daemon.log());
    let begun = Instant::now();
    signal(pid, Signal::SIGABRT);
    daemon.settled_without(pid);
    assert!(begun.elapsed() < at_most(Duration::from_secs(3)), "{:?}", begun.elapsed());
    if !is_alive(stray) {
        println!("left out: without a cgroup of its own the process was found by its parents");
        return;
    }
    assert!(is_alive(keeps));
    let begun = Instant::now();
    daemon.stop();
    assert!(begun.elapsed() < at_most(Duration::from_secs(3)), "{:?}", begun.elapsed());
    assert!(is_alive(keeps));
    signal(stray, Signal::SIGKILL);
    until("the keeper to end with it", || (!is_alive(keeps)).then_some(()));
}
