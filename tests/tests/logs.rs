//! Where the output of workers goes: into the journal, and into files.

use std::fs;

use nix::sys::signal::Signal;
use testkit::daemon::{Daemon, Paths, signal, until};
use testkit::said::{assert_said, said};
use testkit::told::{Told, lines, up};
use testkit::world::World;

#[test]
fn in_the_journal_lines_have_priorities() {
    let world = World::new();
    let told = Told::new(&world);
    told.config().write(&world);
    let daemon = Daemon::in_journal(&world);
    told.does("echo plain; echo '<3>bad'; echo \"journal ${JOURNAL_STREAM:-none}\"");
    for line in ["<6>web/0: plain\n", "<3>web/0: bad\n", "<6>web/0: journal none\n"] {
        until(line, || daemon.log().contains(line).then_some(()));
    }
    up(|| daemon.log());
    signal(daemon.workers()[0], Signal::SIGABRT);
    until("a warning", || {
        daemon
            .log()
            .lines()
            .any(|it| it.starts_with("<4>") && it.contains("was killed by SIGABRT"))
            .then_some(())
    });
    let log = daemon.log();
    assert!(log.lines().all(|line| line.starts_with('<')), "{log}");
    daemon.stop();
}

/// The lines of log files, the oldest first, without the zeros at their ends.
fn in_files(world: &World) -> Vec<String> {
    let paths = (1..9)
        .rev()
        .map(|n| world.path(&format!("logs/web-0.log.{n}")))
        .chain([world.path("logs/web-0.log")]);
    let text: String = paths.filter_map(|path| fs::read_to_string(path).ok()).collect();
    text.lines().map(|line| line.trim_end_matches([' ', '0']).to_owned()).collect()
}

#[test]
fn a_log_file_is_renamed_when_it_is_full_and_goes_on_after_everything() {
    let world = World::new();
    let told = Told::new(&world);
    let log = world.path("logs/web-{index}.log");
    let log = |max: &str, keep: u32| format!("{{ file = {log:?}, max = {max:?}, keep = {keep} }}");
    let config = told.config().toml("log", log("4KiB", 2));
    // Without the folder nothing is started, or changed.
    let file = config.write(&world);
    let paths = Paths::of(&world);
    let missing = "service web: log files cannot be made in ";
    let checked = paths.output(&["check", file.to_str().unwrap()]);
    assert_said(&checked, 2, &[missing, "/logs: No such file or directory", "`mkdir -p`"]);
    assert_said(&paths.output(&["run", "--config", file.to_str().unwrap()]), 1, &[missing]);
    let doctor = paths.output(&["doctor", "--config", file.to_str().unwrap()]);
    assert_said(&doctor, 1, &["log files cannot be made in "]);
    fs::create_dir(world.path("logs")).unwrap();
    let checked = said(&paths.output(&["check", file.to_str().unwrap()]));
    assert!(checked.contains("/logs/web-{index}.log (max 4KiB, keep 2)\n"), "{checked}");

    let daemon = Daemon::with(&world, &config);
    let shown = daemon.service().workers[0].log.clone();
    assert_eq!(shown, Some(world.path("logs/web-0.log").to_str().unwrap().into()));
    told.does(&lines("a", 100));
    until("its last line", || in_files(&world).last()?.contains("a 00000099").then_some(()));
    let sizes: Vec<u64> = ["", ".1", ".2", ".3"]
        .iter()
        .filter_map(|end| Some(fs::metadata(world.path(&format!("logs/web-0.log{end}"))).ok()?.len()))
        .collect();
    // 40 lines fit into 4 KiB.
    assert_eq!(sizes, [2000, 4000, 4000]);
    assert_eq!(in_files(&world).len(), 100);
    assert!(!daemon.log().contains("a 0000"), "it is in the file alone");

    // Another daemon, and another process of the worker, go on with it.
    daemon.kill();
    told.does("echo without a daemon");
    let daemon = Daemon::with(&world, &config);
    let first = daemon.workers()[0];
    signal(first, Signal::SIGABRT);
    daemon.settled_without(first);
    told.does("echo of the next process");
    let last = |line: &str| until(line, || (in_files(&world).last()? == line).then_some(()));
    last("of the next process");
    assert_eq!(in_files(&world)[100..], ["without a daemon", "of the next process"]);

    // logrotate renames it; somebody removes it; the folder is gone for a while.
    fs::rename(world.path("logs/web-0.log"), world.path("moved")).unwrap();
    told.does("echo after logrotate");
    last("after logrotate");
    assert!(fs::read_to_string(world.path("moved")).unwrap().ends_with("of the next process\n"));
    fs::rename(world.path("logs"), world.path("away")).unwrap();
    told.does("echo nowhere");
    daemon.says("\nweb/0: nowhere\n");
    daemon.says("web/0: cannot write its log ");
    fs::create_dir(world.path("logs")).unwrap();
    until("the file again", || {
        told.does("echo here");
        in_files(&world).last().is_some_and(|line| line == "here").then_some(())
    });
    daemon.says("is written again\n");

    // Another `log` comes with other processes.
    let before = daemon.workers();
    told.config().toml("log", log("1MiB", 0)).write(&world);
    daemon.run(&["reload"]);
    assert_ne!(daemon.workers(), before);
    told.does(&lines("z", 100));
    until("its last line", || in_files(&world).last()?.contains("z 00000099").then_some(()));
    assert!(fs::metadata(world.path("logs/web-0.log")).unwrap().len() > 9000);
    daemon.stop();
}
