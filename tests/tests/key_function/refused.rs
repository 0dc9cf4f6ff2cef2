//! A bad function is refused with what is wrong, and what served goes on.

use std::path::PathBuf;
use std::process::Output;

use testkit::counters::Counters;
use testkit::daemon::{Daemon, Paths};
use testkit::said::said;
use testkit::world::World;

use crate::bad::ALL;
use crate::compiled::object;
use crate::protocols::RTP;
use crate::{ask, keyed};

#[test]
fn a_bad_function_is_refused_and_what_served_goes_on() {
    let world = World::new();
    let good = keyed(&object(&world, "rtp"), 3);
    let daemon = Daemon::with(&world, &good);
    let sessions = || (0..20).map(|session| ask(session, &(RTP.packet)(session, 0))).collect::<Vec<_>>();
    let first = sessions();
    let workers = daemon.workers();
    for bad in ALL {
        let file = bad.file(&world);
        let path = file.display().to_string();
        let before = daemon.service();
        let config = keyed(&file, 3).write(&world);
        // What the file itself says, `check` says without the kernel.
        if bad.at_a_look {
            let output = daemon.paths().output(&["check", &config.to_string_lossy()]);
            assert_refused(&output, bad.name, &path, bad.says);
        }
        let output = daemon.paths().output(&["reload"]);
        assert_refused(&output, bad.name, &path, bad.says);
        assert_eq!((sessions(), daemon.workers()), (first.clone(), workers.clone()), "{}", bad.name);
        let after = daemon.service();
        assert_eq!(Counters::difference(&before, &after), Counters::all_taken(20), "{}", bad.name);
        assert_eq!(after.affinity, before.affinity, "{}", bad.name);
    }
    good.write(&world);
    daemon.run(&["reload"]);
    assert_eq!(sessions(), first);
    daemon.stop();
}

#[test]
fn no_daemon_starts_with_a_bad_function() {
    let world = World::new();
    for name in ["missing", "out_of_bounds"] {
        let bad = ALL.iter().find(|it| it.name == name).unwrap();
        let file = bad.file(&world);
        keyed(&file, 1).write(&world);
        let paths = Paths::of(&world);
        assert_refused(&paths.run().output().unwrap(), name, &file.display().to_string(), bad.says);
        assert_eq!(paths.leftovers(), Vec::<PathBuf>::new());
    }
}

#[track_caller]
fn assert_refused(output: &Output, name: &str, file: &str, says: &str) {
    let said = said(output);
    println!("{name}: {said}");
    assert!(!output.status.success(), "{name} is taken: {said}");
    for text in [file, says] {
        assert!(said.contains(text), "{name}: {text:?} is not in: {said}");
    }
    assert!(!said.contains("panicked"), "{name}: {said}");
}
