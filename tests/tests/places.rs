//! Places that are not what they shall be: for pins, for workers, for what they execute. Each is told
//! before anything is started, and nothing of anybody's is covered or left changed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use testkit::client::ask;
use testkit::config::Config;
use testkit::daemon::{Daemon, Paths, binary, signal, until};
use testkit::guests::USER;
use testkit::said::{assert_said, said};
use testkit::world::World;

const LISTEN: [&str; 2] = ["--listen", "tcp://127.0.0.1:3000"];

fn mounts() -> String {
    fs::read_to_string("/proc/thread-self/mounts").unwrap()
}

/// A directory with this mode, whatever the umask is.
fn directory(world: &World, name: &str, mode: u32) -> PathBuf {
    let path = world.path(name);
    fs::DirBuilder::new().mode(mode).create(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn script(world: &World, name: &str, text: &str) -> PathBuf {
    let path = world.file(name, text);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn nothing_is_mounted_over_what_somebody_has() {
    let world = World::new();
    let tmpfs = directory(&world, "tmpfs", 0o755);
    mount(Some("none"), &tmpfs, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
    let full = directory(&world, "full", 0o755);
    fs::write(full.join("file"), "").unwrap();
    let open = directory(&world, "open", 0o777);
    let file = world.file("file", "");
    let before = mounts();
    let with = |command: &str, place: &Path| {
        let mut command =
            Paths::of(&world).command(&[&[command], &LISTEN[..usize::from(command == "run") * 2]].concat());
        command.arg("--bpffs").arg(place).output().unwrap()
    };
    for (place, says) in [
        (Path::new("/tmp"), "is not empty"),
        (Path::new("/proc"), "is not empty"),
        (Path::new("/sys/kernel"), "is not empty"),
        (&full, "is not empty"),
        (&tmpfs, "is the root of another file system"),
        (&open, "may be written by others"),
        (&file, "is no directory"),
        (&world.path("none"), "does not exist"),
    ] {
        assert_said(&with("run", place), 1, &[says, "--bpffs"]);
        let says = if says == "is no directory" { "it is no directory" } else { says };
        assert_said(&with("doctor", place), 1, &["FAILURE  bpffs", says, "--bpffs"]);
        assert_eq!(mounts(), before, "{}", place.display());
        assert_eq!(Paths::of(&world).leftovers(), Vec::<PathBuf>::new());
    }
    umount2(&tmpfs, MntFlags::empty()).unwrap();
}

/// The daemon with another place for pins.
#[test]
fn pins_do_not_go_where_another_user_could_move_them() {
    let world = World::new();
    let all = world.bpffs().join("reuseport-lb");
    let starts = || Paths::of(&world).output(&[&["run"], &LISTEN[..], &["--workers", "1"]].concat());
    for (owner, mode) in [(USER, 0o700), (0, 0o777)] {
        fs::create_dir(&all).unwrap();
        fs::set_permissions(&all, fs::Permissions::from_mode(mode)).unwrap();
        chown(&all, Some(owner), None).unwrap();
        assert_said(&starts(), 1, &["others than the daemon's user may write", &all.to_string_lossy()]);
        assert_eq!(fs::read_dir(&all).unwrap().count(), 0);
        fs::remove_dir(&all).unwrap();
    }
    Daemon::start(&world, &[&LISTEN[..], &["--workers", "1"]].concat()).stop();
}

fn daemon_on(world: &World, bpffs: &Path) -> Daemon {
    let mut command = Paths::of(world).command(&[&["run", "--workers", "1"], &LISTEN[..]].concat());
    command.arg("--bpffs").arg(bpffs);
    Daemon::start_as(world, command)
}

#[test]
fn what_was_mounted_is_unmounted_by_whoever_ends_last() {
    let world = World::new();
    let place = directory(&world, "pins", 0o755);
    let is_mounted = || mounts().lines().any(|line| line.split(' ').nth(1) == place.to_str());
    let daemon = daemon_on(&world, &place);
    let note = format!("mounted a BPF file system on {}, until", place.display());
    assert!(daemon.log().contains(&note) && is_mounted(), "{}", daemon.log());
    daemon.stop();
    assert!(!is_mounted());

    // It outlives what does not end in order, and goes with the next daemon that does.
    daemon_on(&world, &place).kill();
    assert!(is_mounted());
    let daemon = daemon_on(&world, &place);
    assert!(daemon.run(&["stop", "--keep"]).contains("go on"));
    drop(daemon);
    assert!(is_mounted());
    // Another daemon has pins there: they stay, and so does the file system.
    let mut beside =
        Paths::of(&world).command(&["run", "--workers", "1", "--listen", "tcp://127.0.0.1:3001"]);
    beside.arg("--bpffs").arg(&place).arg("--runtime-dir").arg(world.path("beside"));
    let mut beside = beside.spawn().unwrap();
    let up = || fs::exists(world.path("beside/control.sock")).unwrap().then_some(());
    until("the other daemon to be there", up);
    until("the other daemon to be up", || ask("127.0.0.1:3001".parse().unwrap()).ok());
    let daemon = daemon_on(&world, &place);
    daemon.stop();
    assert!(is_mounted());
    signal(beside.id().cast_signed(), Signal::SIGTERM);
    assert!(beside.wait().unwrap().success());
    // What was there before a daemon stays.
    assert!(is_mounted());
    daemon_on(&world, &place).stop();
    assert!(is_mounted());
    umount2(&place, MntFlags::empty()).unwrap();

    // A start that fails takes it back as well.
    let mut fails = Paths::of(&world).command(&["run", "--listen", "tcp://192.0.2.1:3000"]);
    assert_said(&fails.arg("--bpffs").arg(&place).output().unwrap(), 1, &["no interface"]);
    assert!(!is_mounted());
}

#[test]
fn a_command_that_cannot_be_executed_is_found_before_anything_is_started() {
    let world = World::new();
    let closed = directory(&world, "closed", 0o700);
    let hidden = world.program(Path::new("/bin/sh"), "closed/sh");
    let cases = [
        (script(&world, "gone", "#!/no/such/python9\n"), "interpreter /no/such/python9, which is not there"),
        (script(&world, "env", "#!/usr/bin/env no-such-python\n"), "asks env for \"no-such-python\""),
        (script(&world, "windows", "#!/bin/sh\r\nsleep 9\r\n"), "carriage return"),
        (
            script(&world, "hidden", &format!("#!{}\nsleep 9\n", hidden.display())),
            "/closed: Permission denied",
        ),
        (closed.join("sh"), "/closed: Permission denied"),
    ];
    let private = script(&world, "private", "#!/bin/sh\nsleep 9\n");
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    let unread = script(&world, "unread", "#!/bin/sh\nsleep 9\n");
    fs::set_permissions(&unread, fs::Permissions::from_mode(0o711)).unwrap();
    let modes =
        [(&private, "/private: Permission denied"), (&unread, "reads a script as its user, who may not")];
    for (program, says) in cases.iter().map(|(program, says)| (program, *says)).chain(modes) {
        let file = running(program).write(&world);
        let file = file.to_string_lossy();
        let paths = Paths::of(&world);
        assert_said(&paths.output(&["check", &file]), 2, &["service web", says]);
        assert_said(&paths.output(&["doctor", "--config", &file]), 1, &["FAILURE  command", says]);
        let ran = paths.output(&["run", "--config", &file]);
        assert_said(&ran, 1, &["service web", says]);
        assert!(!said(&ran).contains("worker"), "{}", said(&ran));
        assert_eq!(paths.leftovers(), Vec::<PathBuf>::new());
        assert_said(&paths.output(&["check", "--offline", &file]), 0, &["is valid"]);
    }
    let daemon = Daemon::start(&world, &[&LISTEN[..], &["--workers", "1"]].concat());
    let gone = cases[0].0.to_string_lossy();
    assert_said(&daemon.paths().output(&["exec", "demo", "--", &gone]), 1, &["/no/such/python9"]);
    daemon.stop();
}

/// A service of nobody's workers that run this program.
fn running(program: &Path) -> Config {
    let config = Config::web().set("user", "nobody").set("ready", "immediate");
    config.command(&[program.to_string_lossy()])
}

#[test]
fn reload_finds_it_as_well() {
    let world = World::new();
    let good = script(&world, "good", "#!/bin/sh\nexec sleep 1000\n");
    let daemon = Daemon::with(&world, &running(&good));
    let before = daemon.workers();
    running(&script(&world, "bad", "#!/no/such/python9\n")).write(&world);
    let output = daemon.paths().output(&["reload"]);
    assert_said(&output, 1, &["nothing is changed", "/no/such/python9"]);
    assert_eq!(daemon.workers(), before);
    daemon.stop();
}

#[test]
fn a_directory_that_workers_cannot_enter_is_named_before_they_start() {
    let world = World::new();
    directory(&world, "private", 0o700);
    let with = |command: &str, more: &[&str]| {
        let mut line = Command::new(binary());
        line.arg("--runtime-dir").arg(world.path("private/run")).arg("--bpffs").arg(world.bpffs());
        line.arg(command).args(more).output().unwrap()
    };
    let mend = format!("chmod o+x {}", world.path("private").display());
    let says = ["service demo", "nobody cannot go through", "/private: Permission denied", &mend];
    let output = with("run", &LISTEN);
    assert_said(&output, 1, &says);
    assert_eq!(said(&output).lines().count(), 1, "{}", said(&output));
    assert!(!world.path("private/run").exists());
    let notify = ["--ready", "notify", "--user", "nobody", "--", "sleep", "9"];
    assert_said(
        &with("run", &[&LISTEN[..], &notify].concat()),
        1,
        &[&says[..], &["READY=1 does not arrive"]].concat(),
    );
    // The runtime directory itself, which somebody has made.
    let own = directory(&world, "own", 0o700);
    let mut line = Paths::of(&world).command(&[&["run"], &LISTEN[..]].concat());
    let output = line.arg("--runtime-dir").arg(&own).output().unwrap();
    assert_said(&output, 1, &["nobody cannot go through", &format!("chmod o+x {}", own.display())]);
    assert_eq!(fs::read_dir(&own).unwrap().count(), 0);
}
