//! What others have chosen (commands, paths, names, requests) steers no terminal, and is no line of its own in
//! what commands print or the daemon logs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};

use nix::sys::signal::Signal;
use reuseport_lb::printable;
use serde_json::Value;
use testkit::config::Config;
use testkit::daemon::{Daemon, Paths, binary, signal, until};
use testkit::world::World;

/// Erases the screen (as ESC, and as one C1 character), ends a line in two ways, turns the direction of writing.
const NASTY: &str = "a\u{1b}[2Jb\nFORGED c\rFORGED d\u{7f}e\u{9b}2Jf\u{202e}g\u{2028}FORGED\u{85}h";

/// In quotes, for TOML as well as for JSON.
fn quoted(text: &str) -> String {
    printable::json(&serde_json::to_string(text).unwrap()).into_owned()
}

/// Asserts that nothing of `said` can steer a terminal, that no line of it is forged, and that something was said.
#[track_caller]
fn assert_harmless(said: &[u8], about: &str) {
    let said = std::str::from_utf8(said).unwrap_or_else(|error| panic!("{about}: {error}: {said:?}"));
    let steers = |c: char| {
        (c.is_control() && c != '\n')
            || ('\u{202a}'..='\u{202e}').contains(&c)
            || ('\u{2066}'..='\u{2069}').contains(&c)
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{61c}')
    };
    assert!(!said.contains(steers), "{about}: {said:?}");
    assert!(!said.lines().any(|line| line.starts_with("FORGED")), "{about}: {said}");
    assert!(!said.is_empty() && !said.contains("panicked"), "{about}: {said}");
}

fn run(paths: &Paths, arguments: &[&OsStr]) -> Output {
    let output = paths.command(&[]).args(arguments).output().unwrap();
    assert_harmless(&[&*output.stdout, &output.stderr].concat(), &format!("{arguments:?}"));
    output
}

#[test]
fn what_is_on_the_command_line_is_repeated_without_what_steers() {
    let world = World::new();
    let paths = Paths::of(&world);
    let broken = OsString::from_vec(b"x\xff\xfe\x1b[2J".to_vec());
    let option = OsString::from(format!("--{NASTY}"));
    let listen = OsString::from(format!("--listen={NASTY}"));
    let directory = OsString::from(format!("--runtime-dir={NASTY}"));
    for nasty in [OsStr::new(NASTY), &broken] {
        for line in [
            vec![nasty],
            vec!["scale".as_ref(), nasty, "1".as_ref()],
            vec!["scale".as_ref(), "demo".as_ref(), nasty],
            vec!["weight".as_ref(), "demo/0".as_ref(), nasty],
            vec!["drain".as_ref(), nasty],
            vec!["restart".as_ref(), nasty],
            vec!["status".as_ref(), nasty],
            vec!["trace".as_ref(), nasty],
            vec!["exec".as_ref(), nasty, "--".as_ref(), "true".as_ref()],
            vec!["exec".as_ref(), "demo".as_ref(), "--".as_ref(), nasty],
            vec!["exec".as_ref(), "demo".as_ref(), "--name".as_ref(), nasty, "--".as_ref(), "true".as_ref()],
            vec!["check".as_ref(), nasty],
            vec!["check".as_ref(), "--json".as_ref(), nasty],
            vec!["doctor".as_ref(), "--config".as_ref(), nasty],
            vec!["run".as_ref(), "--config".as_ref(), nasty],
            vec!["run".as_ref(), "--listen".as_ref(), nasty],
            vec!["run".as_ref(), "--name".as_ref(), nasty],
            vec!["run".as_ref(), "--user".as_ref(), nasty],
            vec!["run".as_ref(), "--ready".as_ref(), nasty],
            vec!["run".as_ref(), "--".as_ref(), nasty],
            vec!["run".as_ref(), &listen],
            vec![&option, "status".as_ref()],
        ] {
            assert!(!run(&paths, &line).status.success(), "{line:?}");
        }
    }
    // What it is called is still to be seen.
    let said = Command::new(binary()).arg(directory).arg("status").output().unwrap();
    assert_harmless(&said.stderr, "--runtime-dir");
    assert!(String::from_utf8_lossy(&said.stderr).contains("a\\u{1b}[2Jb\\nFORGED"), "{said:?}");
}

#[test]
fn what_is_in_a_file_is_repeated_without_what_steers() {
    let world = World::new();
    let paths = Paths::of(&world);
    let nasty = quoted(NASTY);
    let web =
        |more: &str| format!("[[service]]\nname = \"web\"\nlisten = [\"tcp://127.0.0.1:3000\"]\n{more}\n");
    let wrong = [
        web(&format!("{nasty} = 1")),
        web(&format!("{nasty} = 1\n{nasty} = 2")),
        web(&format!("ready = {nasty}")),
        web(&format!("affinity = {nasty}")),
        web(&format!("workers = {nasty}")),
        web(&format!("watchdog = {nasty}")),
        web(&format!("overload = {{ {nasty} = 2 }}")),
        web(&format!("user = {nasty}")),
        web(&format!("command = [{nasty}]")),
        web(&format!("command = [\"./{}\"]", &nasty[1..nasty.len() - 1])),
        web("# \u{202e}\u{2028}FORGED\nworkers = \"\u{202e}\u{2028}FORGED\""),
        web("\u{202e} = 1"),
        web("x = \"\u{1b}[2J\r\""),
        format!("[[service]]\nname = {nasty}\nlisten = [\"tcp://127.0.0.1:3000\"]\n"),
        format!("[[service]]\nname = \"web\"\nlisten = [{nasty}]\n"),
        format!("[{nasty}]\n"),
    ];
    let file = world.path(NASTY);
    for text in wrong {
        fs::write(&file, &text).unwrap();
        for command in [&["check"][..], &["check", "--json"], &["doctor", "--config"], &["run", "--config"]] {
            let command = command.iter().map(OsStr::new).chain([file.as_os_str()]);
            let ended = run(&paths, &command.collect::<Vec<&OsStr>>());
            assert!(!ended.status.success(), "{text}: {ended:?}");
        }
    }
    fs::write(&file, b"# \xff\xfe\n").unwrap();
    assert_eq!(run(&paths, &["check".as_ref(), file.as_os_str()]).status.code(), Some(2));
    // A script whose interpreter has such a name, and a program that is called so.
    let script = world.path("script");
    fs::write(&script, "#!/no/such/\u{1b}[2J\u{202e}FORGED\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::write(&file, web(&format!("command = [{script:?}]"))).unwrap();
    assert_eq!(run(&paths, &["check".as_ref(), file.as_os_str()]).status.code(), Some(2));
    let program = world.program(Path::new("/bin/sleep"), &format!("bin{NASTY}"));
    let command = format!("command = [{}, {nasty}]", quoted(program.to_str().unwrap()));
    fs::write(&file, web(&command)).unwrap();
    let shown = run(&paths, &["check".as_ref(), file.as_os_str()]);
    assert!(shown.status.success(), "{shown:?}");
    let shown = run(&paths, &["check".as_ref(), "--json".as_ref(), file.as_os_str()]);
    let json: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(json["services"][0]["command"][1], NASTY);
    run(&paths, &["doctor".as_ref(), "--config".as_ref(), file.as_os_str()]);
    let shown = run(&paths, &["doctor".as_ref(), "--json".as_ref(), "--config".as_ref(), file.as_os_str()]);
    serde_json::from_slice::<Value>(&shown.stdout).unwrap();
}

/// What a socket of the daemon answers to `request`.
fn answer(socket: &Path, request: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    // It may hang up before it has read all.
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn what_is_asked_of_the_daemon_is_logged_and_answered_without_what_steers() {
    let world = World::new();
    let web = Config::web().workers(1);
    let daemon = Daemon::with(&world, &web);
    let paths = daemon.paths();
    let nasty = quoted(NASTY);
    for wrong in [format!("ready = {nasty}"), format!("{nasty} = 1"), format!("command = [{nasty}]")] {
        fs::write(world.path("config.toml"), format!("{web}{wrong}\n")).unwrap();
        assert!(!run(paths, &["reload".as_ref()]).status.success(), "{wrong}");
    }
    daemon.says("reload failed");
    let control = paths.control();
    let post = |path: &str, body: &str| {
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
        answer(&control, format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes())
    };
    for body in [format!("{{{nasty}: 1}}"), nasty.clone(), format!("{{\"workers\": {nasty}}}"), NASTY.into()]
    {
        for path in
            ["/v1/services/web/scale", "/v1/workers/web/0/drain", "/v1/workers/web/0/weight", "/v1/stop"]
        {
            let text = String::from_utf8(post(path, &body)).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(" 400 "), "{text}");
            assert_harmless(body.as_bytes(), path);
            assert!(serde_json::from_str::<Value>(body).unwrap()["error"].is_string(), "{body}");
        }
    }
    for path in
        ["/v1/\u{9b}2J\u{202e}", "/v1/status/\u{9b}2J\u{202e}", "/\u{1b}[2J", "/v1/services/\u{202e}/trace"]
    {
        let text = String::from_utf8(post(path, "")).unwrap();
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        assert_harmless(format!("{path:?} {body}").as_bytes(), path);
    }
    for ask in [
        format!("{{\"service\": {nasty}}}\n"),
        format!("{{\"service\": \"web\", \"worker\": {nasty}}}\n"),
        format!("{{\"service\": \"web\", {nasty}: 1}}\n"),
        format!("{NASTY}\n"),
    ] {
        let said = answer(&control.with_file_name("join.sock"), ask.as_bytes());
        assert_harmless(&said, &ask);
        assert!(serde_json::from_slice::<Value>(&said).unwrap()["error"].is_string());
    }
    let broken = control.with_file_name("state").join(format!("{NASTY}.state"));
    fs::write(&broken, "x").unwrap();
    daemon.kill();
    let daemon = Daemon::with(&world, &web);
    let log = daemon.log();
    assert!(log.contains("a state file cannot be used"), "{log}");
    until("what nobody goes on with to be removed", || (!broken.exists()).then_some(()));
    daemon.stop();
    assert_harmless(fs::read(world.path("daemon.log")).unwrap().as_slice(), "the log");
}

#[test]
fn what_workers_are_called_is_shown_without_what_steers() {
    let world = World::new();
    // It opens the address itself, so that it is named in the log and in `status`.
    let comm = r"\x1b[2J\x0a\x0d\x9b\xc2\x9b2J\x7f\xe2\x80\xae";
    let flags = format!("--answer never --open tcp://127.0.0.1:3000 --comm {comm}");
    Config::web().workers(1).server(&world, &flags).write(&world);
    let command = Paths::of(&world).run();
    let daemon = Daemon::start_until(&world, command, |service| {
        service.workers[0].lacks.as_ref().is_some_and(|lacks| lacks.contains("by itself"))
    });
    let shown = run(daemon.paths(), &["status".as_ref()]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.contains("(\\u{1b}[2J\\n\\r") && text.contains("by itself"), "{text}");
    let json = run(daemon.paths(), &["status".as_ref(), "--json".as_ref()]);
    serde_json::from_slice::<Value>(&json.stdout).unwrap();
    daemon.says("opened tcp://127.0.0.1:3000 by itself");
    assert_harmless(daemon.log().as_bytes(), "the log");
    daemon.stop();
}

#[test]
fn what_workers_wrote_is_shown_without_what_steers() {
    let world = World::new();
    let nasty: String = NASTY.bytes().map(|byte| format!("\\{byte:03o}")).collect();
    // Once it is known to crash its last lines are kept.
    let crash = world.path("crash").display().to_string();
    let script = format!("[ -e {crash} ] || exec sleep 1000; printf '{nasty}\\377\\n'; exit 1");
    let config = Config::web().workers(1).set("ready", "immediate").command(&["sh", "-c", &script]);
    let daemon = Daemon::with(&world, &config);
    daemon.says("is up");
    fs::write(world.path("crash"), "").unwrap();
    let first = daemon.service().workers[0].pid.unwrap();
    signal(first, Signal::SIGKILL);
    let worker = until("its last words", || {
        daemon.service().workers.into_iter().find(|worker| !worker.last_words.is_empty())
    });
    assert!(worker.last_words.iter().any(|line| line.contains("FORGED")), "{worker:?}");
    let shown = run(daemon.paths(), &["status".as_ref()]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("wrote before it ended"), "{shown:?}");
    let json = run(daemon.paths(), &["status".as_ref(), "--json".as_ref()]);
    serde_json::from_slice::<Value>(&json.stdout).unwrap();
    daemon.stop();
}
