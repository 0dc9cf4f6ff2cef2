//! What workers write while nobody reads it: the next daemon is not held up by it, and says what it left out.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::config::Config;
use testkit::daemon::{Daemon, signal, until};
use testkit::patience::at_most;
use testkit::world::World;

const MIB: u64 = 1 << 20;

#[test]
fn of_far_too_much_output_the_next_daemon_passes_on_the_end_and_says_so() {
    let world = World::new();
    let (much, written) = (world.path("much"), world.path("much-done"));
    let flags = format!("--tick 20ms --write {}", much.display());
    let config = Config::web().workers(1).server(&world, &flags);
    let run = || Daemon::with(&world, &config);
    let write = |amount: u64| {
        fs::write(world.path("much.new"), amount.to_string()).unwrap();
        fs::rename(world.path("much.new"), &much).unwrap();
        until("it to be written", || {
            fs::read_to_string(&written).ok()?.eq(&amount.to_string()).then_some(())
        });
    };
    let daemon = run();
    let first = daemon.workers()[0];
    signal(first, Signal::SIGKILL);
    let pid = daemon.settled_without(first).workers[0].pid.unwrap();
    testkit::daemon::executed(pid);
    let kept = || fs::metadata(format!("/proc/{pid}/fd/1")).unwrap().blocks() * 512 / MIB;
    // A burst is passed on whole, also one that had to wait for the next daemon.
    daemon.kill();
    write(20);
    assert_eq!(kept(), 20);
    let daemon = run();
    until("all of it", || daemon.log().contains("the end of 20").then_some(()));
    assert!(!daemon.log().contains("bytes of its output were dropped"));
    daemon.kill();
    fs::write(world.path("daemon.log"), "").unwrap();
    write(300);
    assert!(kept() >= 300, "{}", kept());
    let begun = Instant::now();
    let daemon = run();
    until("the end of it", || daemon.log().contains("the end of 300").then_some(()));
    assert!(begun.elapsed() < at_most(Duration::from_secs(5)), "{:?}", begun.elapsed());
    let log = daemon.log();
    assert!((log.len() as u64) < 5 * MIB, "{}", log.len());
    assert!(log.contains("bytes of its output were dropped") && log.contains("worker=\"web/0\""));
    until("its memory to be free", || (kept() == 0).then_some(()));
    assert_eq!(daemon.workers(), [pid]);
    // One that stands still has the same bound.
    signal(daemon.pid(), Signal::SIGSTOP);
    write(100);
    signal(daemon.pid(), Signal::SIGCONT);
    until("the end of it", || daemon.log().contains("the end of 100").then_some(()));
    until("its memory to be free", || (kept() == 0).then_some(()));
    assert_eq!(daemon.workers(), [pid]);
    assert!((daemon.log().len() as u64) < 10 * MIB);
    assert!(daemon.status().longest_step_ms < 1000.0 * f64::from(testkit::patience::slow()));
    daemon.stop();
}
