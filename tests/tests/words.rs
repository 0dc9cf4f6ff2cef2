//! What people write by mistake on the command line, and around it: each is told what was wrong and what to
//! write, before anything is started.

use std::path::Path;

use tests::client::ask;
use tests::daemon::{Daemon, Paths};
use tests::said::assert_said;
use tests::world::World;

#[test]
fn an_address_below_all_addresses_is_said_aloud() {
    let world = World::new();
    let text = "[[service]]\nname = \"all\"\nlisten = [\"tcp://0.0.0.0:3000\"]\nworkers = 1\n\
                [[service]]\nname = \"one\"\nlisten = [\"tcp://127.0.0.1:3000\"]\nworkers = 1\n";
    let file = world.file("config.toml", text);
    let file = file.to_string_lossy();
    let says = "what is sent to 127.0.0.1:3000 goes to one, and only the rest to all";
    let paths = Paths::of(&world);
    assert_said(&paths.output(&["check", &file]), 0, &["warning: ", says]);
    assert_said(&paths.output(&["check", "--json", &file]), 0, &["\"warnings\"", says]);
    assert_said(&paths.output(&["doctor", "--config", &file]), 0, &["WARNING", says]);
    let daemon = Daemon::configured(&world, text);
    assert!(daemon.log().contains(says), "{}", daemon.log());
    // It is so.
    assert!(ask("127.0.0.1:3000".parse().unwrap()).unwrap().worker.starts_with("one/"));
    assert!(ask("127.0.0.2:3000".parse().unwrap()).unwrap().worker.starts_with("all/"));
    daemon.stop();
}

#[test]
fn a_file_for_another_machine_is_checked_without_it() {
    let world = World::new();
    let text = "[[service]]\nname = \"web\"\nlisten = [\"tcp://192.0.2.1:80\"]\ncommand = [\"/srv/no-such-server\"]\n\
                user = \"no-such-user\"\n";
    let file = world.file("other.toml", text);
    let paths = Paths::of(&world);
    let check = |file: &Path, offline: bool| {
        let line = if offline { vec!["check", "--offline"] } else { vec!["check"] };
        paths.command(&line).arg(file).output().unwrap()
    };
    assert_said(&check(&file, true), 0, &["is valid", "/srv/no-such-server"]);
    assert_said(&check(&file, false), 2, &["line 5: there is no user \"no-such-user\""]);
    for (wrong, says) in [
        (text.replace("tcp://192.0.2.1:80", "tcp://host:80"), "names are not looked up"),
        (text.replace("user", "usr"), "did you mean `user`?"),
        (text.replace("[[service]]", "[service]"), "write [[service]]"),
        (
            format!("{text}workers = \"4\"\n"),
            "line 6: `workers` cannot be \"4\": write a whole number from 0 to 1024",
        ),
        (format!("{text}command = []\n"), "duplicate key"),
    ] {
        assert_said(&check(&world.file("wrong.toml", &wrong), true), 2, &[says]);
    }
}
