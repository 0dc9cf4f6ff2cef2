//! What a worker's process is started with besides its command: seen from within it, at its first start and at each later
//! one.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sys::signal::Signal;
use testkit::config::Config;
use testkit::cpus::cpus_of;
use testkit::daemon::{Daemon, Paths, settled, signal, until};
use testkit::load::Load;
use testkit::rights::{ORDINARY, command, needed};
use testkit::said::assert_said;
use testkit::server;
use testkit::world::World;

fn to() -> SocketAddr {
    ([127, 0, 0, 1], 3000).into()
}

/// A line of `/proc/PID/status`.
fn status(pid: i32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The parts of a file in `/proc/PID` that ends each with a zero byte.
fn parts(pid: i32, file: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    text.split_terminator('\0').map(str::to_owned).collect()
}

fn variable(pid: i32, name: &str) -> Option<String> {
    let all = parts(pid, "environ");
    let mut found = all.iter().filter_map(|it| it.strip_prefix(name)?.strip_prefix('='));
    let value = found.next().map(str::to_owned);
    assert_eq!(found.next(), None, "{name} is there once");
    value
}

fn nice(pid: i32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The 19th field of all, and the 17th behind the name, which may have spaces.
    stat.rsplit_once(") ").unwrap().1.split(' ').nth(16).unwrap().to_owned()
}

/// Soft and hard.
fn open_files(pid: i32) -> Vec<String> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    line.split_whitespace().take(2).map(str::to_owned).collect()
}

/// A service with all keys.
fn whole(world: &World) -> Config {
    for worker in ["web/0", "web/1", "web/2"] {
        fs::create_dir_all(world.path(worker)).unwrap();
    }
    let file = world.file("web.env", "# of the file\nOF_FILE='{index}'\nBOTH=file\nPORT=1\n");
    Config::web()
        .workers(3)
        .server(world, "--name {service}:{index}:{pid}:{{index}}")
        .toml("user", "12345".into())
        .set("group", "54321")
        .toml("env", "{ BOTH = \"{worker} {pid}\", PORT = \"808{index}\", HOME = \"/x\" }".into())
        .set("env_file", &file.to_string_lossy())
        .set("cwd", &world.path("{worker}").to_string_lossy())
        .set("umask", "027")
        .toml("nice", "5".into())
        .toml("open_files", "777".into())
        .set("cpus", "each")
}

/// Each worker of [`whole`] has what is its own.
fn assert_whole(daemon: &Daemon, world: &World) {
    let may = cpus_of(0);
    let service = daemon.service();
    assert_eq!(service.workers.len(), 3);
    for (number, worker) in service.workers.iter().enumerate() {
        let pid = worker.pid.unwrap();
        let own = [
            ("REUSEPORT_LB_WORKER", format!("web/{number}")),
            ("REUSEPORT_LB_SERVICE", "web".into()),
            ("REUSEPORT_LB_INDEX", number.to_string()),
            ("OF_FILE", "{index}".into()),
            ("BOTH", format!("web/{number} {pid}")),
            ("PORT", format!("808{number}")),
            ("HOME", "/x".into()),
        ];
        for (name, value) in own {
            assert_eq!(variable(pid, name), Some(value), "{name} of {}", worker.name);
        }
        assert_eq!(variable(pid, "USER"), None, "12345 has no name");
        let others = parts(pid, "environ").into_iter().filter(|it| it.starts_with("REUSEPORT_LB_")).count();
        assert_eq!(others, 3, "{:?}", parts(pid, "environ"));
        assert_eq!(parts(pid, "cmdline").last(), Some(&format!("web:{number}:{pid}:{{index}}")));
        assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), world.path(&worker.name));
        assert_eq!(status(pid, "Umask"), "0027");
        assert_eq!(status(pid, "Uid"), "12345 12345 12345 12345");
        assert_eq!(status(pid, "Gid"), "54321 54321 54321 54321");
        assert_eq!(status(pid, "Groups"), "");
        assert_eq!(status(pid, "CapPrm"), "0000000000000000");
        assert_eq!((nice(pid), open_files(pid)), ("5".into(), vec!["777".into(), "777".into()]));
        assert_eq!(cpus_of(pid), [may[number % may.len()]], "{}", worker.name);
    }
}

#[test]
fn every_process_of_a_worker_is_started_with_what_the_file_says() {
    let world = World::new();
    let daemon = Daemon::with(&world, &whole(&world));
    assert_whole(&daemon, &world);
    let first = daemon.workers()[0];
    signal(first, Signal::SIGKILL);
    daemon.settled_without(first);
    assert_whole(&daemon, &world);
    daemon.run(&["restart", "web"]);
    assert_whole(&daemon, &world);
    // What is in the file now counts with the next reload only; the next daemon reads it as well.
    let before = daemon.workers();
    daemon.kill();
    let daemon = Daemon::with(&world, &whole(&world));
    assert_eq!(daemon.workers(), before, "the next daemon has nothing to change");
    assert_whole(&daemon, &world);
    signal(before[1], Signal::SIGKILL);
    daemon.settled_without(before[1]);
    assert_whole(&daemon, &world);
    daemon.stop();
}

#[test]
fn a_change_replaces_workers_one_by_one_and_loses_nothing() {
    let world = World::new();
    let plain = Config::web().workers(2).server(&world, "");
    let daemon = Daemon::with(&world, &plain);
    let load = Load::to(to()).clients(8).kept(0).start();
    let file = world.path("web.env").to_string_lossy().into_owned();
    let steps: [(Config, &dyn Fn(i32) -> bool); 9] = [
        (plain.clone().set("umask", "077"), &|pid| status(pid, "Umask") == "0077"),
        (plain.clone().toml("nice", "3".into()), &|pid| nice(pid) == "3"),
        (plain.clone().toml("open_files", "500".into()), &|pid| open_files(pid) == ["500", "500"]),
        (plain.clone().set("cpus", "each"), &|pid| cpus_of(pid).len() == 1),
        (plain.clone().set("cwd", "/"), &|pid| {
            fs::read_link(format!("/proc/{pid}/cwd")).unwrap() == Path::new("/")
        }),
        (plain.clone().toml("env", "{ A = \"1\" }".into()), &|pid| {
            variable(pid, "A").as_deref() == Some("1")
        }),
        (plain.clone().set("env_file", &file), &|pid| variable(pid, "A").as_deref() == Some("2")),
        (plain.clone().toml("user", "12345".into()), &|pid| status(pid, "Gid").starts_with("12345 ")),
        (plain.clone().toml("user", "12345".into()).toml("group", "54321".into()), &|pid| {
            status(pid, "Gid").starts_with("54321 ")
        }),
    ];
    let _ = world.file("web.env", "A=2\n");
    let replaced = |config: &Config| {
        let before = daemon.workers();
        config.write(&world);
        let said = daemon.run(&["reload"]);
        assert!(said.contains("2 workers replaced"), "{config}: {said}");
        let after = daemon.workers();
        assert!(after.len() == 2 && after.iter().all(|pid| !before.contains(pid)), "{before:?} {after:?}");
        after
    };
    for (config, is_so) in &steps {
        let after = replaced(config);
        assert!(after.into_iter().all(is_so), "{config}");
    }
    // A file of variables is read again with the configuration.
    let with_file = &steps[6].0;
    replaced(with_file);
    let said = daemon.run(&["reload"]);
    assert!(said.contains("web: not changed"), "{said}");
    let _ = world.file("web.env", "A=3\n");
    assert!(replaced(with_file).into_iter().all(|pid| variable(pid, "A").as_deref() == Some("3")));
    let _ = world.file("web.env", "A=4\nB\n");
    let before = daemon.workers();
    assert_said(&daemon.paths().output(&["reload"]), 2, &["web.env: line 2: there is no '='"]);
    assert_eq!(daemon.workers(), before);
    let report = load.end();
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    daemon.stop();
}

#[test]
fn a_directory_that_is_closed_to_the_user_is_found_before_anything_is_started() {
    let world = World::new();
    let paths = Paths::of(&world);
    let closed = world.path("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let plain = Config::web().workers(2).server(&world, "").set("user", "nobody");
    let inside = plain.clone().set("cwd", &closed.to_string_lossy());
    let missing = plain.clone().set("cwd", &world.path("{worker}").to_string_lossy());
    fs::create_dir_all(world.path("web/0")).unwrap();
    let nobody = format!("nobody cannot enter {}: ", closed.display());
    let absent = format!("nobody cannot enter {}: No such file", world.path("web/1").display());
    let file = world.path("config.toml").to_string_lossy().into_owned();
    for (config, says) in [(&inside, &nobody), (&missing, &absent)] {
        config.write(&world);
        assert_said(&paths.output(&["check", &file]), 2, &[says, "`chmod o+x` it"]);
        assert_said(&paths.output(&["check", "--offline", &file]), 0, &["is valid"]);
        assert_said(&paths.output(&["doctor", "--config", &file]), 1, &["FAILURE  cwd", says]);
        assert_said(&paths.output(&["run", "--config", &file]), 1, &[says]);
    }
    let daemon = Daemon::with(&world, &plain);
    let before = daemon.workers();
    inside.write(&world);
    assert_said(&daemon.paths().output(&["reload"]), 1, &["nothing is changed", &nobody]);
    assert_eq!(daemon.workers(), before);
    // One that goes away later is a crash like any other, and its reason is in the log.
    fs::create_dir_all(world.path("web/1")).unwrap();
    missing.write(&world);
    daemon.run(&["reload"]);
    let last = daemon.workers()[1];
    fs::remove_dir(world.path("web/1")).unwrap();
    signal(last, Signal::SIGKILL);
    let log = || Some(daemon.log()).filter(|log| log.contains("cannot enter the working directory"));
    until("the reason", log);
    fs::create_dir(world.path("web/1")).unwrap();
    until("the worker to be back", || Some(daemon.service()).filter(settled));
    daemon.stop();
}

#[test]
fn the_command_line_has_options_for_a_command() {
    let world = World::new();
    let _ = server::words(&world, "");
    let place = world.path(".").canonicalize().unwrap();
    let line = [
        &["--listen", "tcp://127.0.0.1:3000", "--workers", "1", "--user", "12345", "--group", "54321"][..],
        &["--env", "A={worker}", "--env", "B=x=y", "--cwd", &place.to_string_lossy()],
        &["--", "./server", "--name", "{index}"],
    ];
    let daemon = Daemon::start(&world, &line.concat());
    let pid = daemon.workers()[0];
    assert_eq!(variable(pid, "A").as_deref(), Some("demo/0"));
    assert_eq!(variable(pid, "B").as_deref(), Some("x=y"));
    assert_eq!(parts(pid, "cmdline"), ["./server", "--name", "0"]);
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), place);
    assert_eq!(
        (status(pid, "Uid"), status(pid, "Groups")),
        ("12345 12345 12345 12345".into(), String::new())
    );
    assert!(status(pid, "Gid").starts_with("54321 "));
    daemon.stop();
    let paths = Paths::of(&world);
    let run = |arguments: &[&str]| {
        paths.output(&[&["run", "--workers", "1"], arguments, &["--", "sleep", "1"]].concat())
    };
    assert_said(&run(&["--env", "A"]), 2, &["write KEY=VALUE, like PORT=8080"]);
    assert_said(&run(&["--env", "LISTEN_FDS=1"]), 2, &["LISTEN_FDS of its own"]);
    assert_said(&run(&["--cwd", "/{pid}"]), 2, &["cannot have {pid}"]);
    assert_said(&run(&["--user", "4294967295"]), 2, &["--user: there is no user"]);
    assert_said(&run(&["--user", "root", "--group", "no-such"]), 2, &["--group: there is no group"]);
    assert_said(&run(&["--group", "root"]), 2, &["--user"]);
    assert_said(&paths.output(&["run", "--cwd", "/"]), 2, &["COMMAND"]);
}

#[test]
fn what_takes_a_right_that_the_daemon_lacks_is_named() {
    let world = World::new();
    let plain = Config::web().workers(1).server(&world, "");
    for (config, says) in [
        (plain.clone().toml("nice", "-5".into()), "cannot set nice = -5 (a negative one needs CAP_SYS_NICE)"),
        (plain.clone().toml("open_files", "2000000000".into()), "cannot set open_files = 2000000000"),
    ] {
        let file = config.write(&world);
        let mut start = command(&world, ORDINARY, needed(), &["run", "--config", &file.to_string_lossy()]);
        assert_said(&start.output().unwrap(), 1, &[says]);
    }
    // What takes none works for a daemon of any user.
    let file = plain.toml("nice", "5".into()).toml("user", "4711".into()).write(&world);
    let line = command(&world, ORDINARY, needed(), &["run", "--config", &file.to_string_lossy()]);
    let daemon = Daemon::start_as(&world, line);
    let pid = daemon.workers()[0];
    assert_eq!((nice(pid), status(pid, "Uid")), ("5".into(), "4711 4711 4711 4711".into()));
    assert_eq!((status(pid, "Groups"), status(pid, "CapPrm")), (String::new(), "0000000000000000".into()));
    daemon.stop();
}

#[test]
fn status_has_all_settings_in_force_and_no_value_of_a_variable() {
    let world = World::new();
    let config =
        Config::web().workers(1).toml("env", "{ TOKEN = \"271828\" }".into()).set("drain_timeout", "7s");
    let daemon = Daemon::with(&world, &config.server(&world, ""));
    daemon.run(&["scale", "web", "2"]);
    let settings = daemon.service().settings;
    let text = |key: &str| settings[key].to_string();
    assert_eq!(
        ["drain_timeout", "hold_timeout", "stop_signal", "replace", "workers", "env", "user"].map(text),
        ["\"7s\"", "\"2s\"", "\"TERM\"", "\"start-first\"", "2", "[\"TOKEN\"]", "null"]
    );
    assert!(!daemon.run(&["status", "--json"]).contains("271828"));
    let file = world.path("config.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("\"7s\"", "\"8s\"")).unwrap();
    daemon.run(&["reload"]);
    assert_eq!(daemon.service().settings["drain_timeout"], "8s");
    daemon.stop();
}
