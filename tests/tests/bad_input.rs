//! Bad input gets a clear message and the right exit code, and leaves nothing behind.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use reuseport_lb_client::api::{Drain, Refusal, Restart, Weight};
use reuseport_lb_client::control::{ControlClient, ControlError};
use testkit::client::ask;
use testkit::config::Config;
use testkit::daemon::{Daemon, Paths, binary};
use testkit::said::assert_said;
use testkit::world::World;

#[track_caller]
fn refused(world: &World, arguments: &[&str], code: i32, says: &[&str]) {
    let paths = Paths::of(world);
    assert_said(&paths.output(&[&["run"], arguments].concat()), code, says);
    assert_eq!(paths.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn wrong_configuration_names_the_line() {
    let world = World::new();
    let minimal = "[[service]]\nname = \"web\"\nlisten = [\"tcp://127.0.0.1:3000\"]\n";
    for (added, says) in [
        ("wrokers = 4", ["line 4", "did you mean `workers`?"]),
        ("workers = \"4\"", ["line 4", "a whole number from 0 to 1024"]),
        ("workers = 1025", ["line 4", "at most 1024"]),
        ("idle_timeout = \"1ms\"", ["line 4", "the least is 100ms"]),
        ("user = \"no-such-user\"", ["line 4", "there is no user \"no-such-user\""]),
        ("overload = { factor = 0.5 }", ["line 4", "from 1.0 on"]),
        ("stall_timeout = \"1ms\"", ["line 4", "the least is 10ms"]),
        (
            "[[service]]\nname = \"b\"\nlisten = [\"tcp://127.0.0.1:3000\"]",
            ["line 6", "belongs to service \"web\""],
        ),
        ("[[service]]\nname = \"b\"\nlisten = [\"tpc://127.0.0.1:3001\"]", ["line 6", "neither tcp nor udp"]),
    ] {
        let file = world.file("bad.toml", &format!("{minimal}{added}\n"));
        let file = file.to_string_lossy();
        refused(&world, &["--config", &file], 2, &says);
        let paths = Paths::of(&world);
        assert_said(&paths.output(&["check", &file]), 2, &says);
        let doctor = paths.output(&["doctor", "--config", &file]);
        assert_said(&doctor, 2, &says);
        assert_eq!(doctor.stdout, b"");
    }
    refused(&world, &["--config", "/no/such/file"], 2, &["cannot read /no/such/file"]);
}

#[test]
fn a_right_configuration_is_explained() {
    let world = World::new();
    let file = Config::web().workers(3).write(&world);
    let output = Paths::of(&world).output(&["check", &file.to_string_lossy()]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && said.contains("is valid") && said.contains("3 x the embedded worker"),
        "{said}"
    );
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    let world = World::new();
    refused(&world, &["--listen", "127.0.0.1:3000"], 2, &["no tcp:// or udp://"]);
    refused(&world, &["--listen", "tcp://localhost:3000"], 2, &["names are not looked up"]);
    refused(&world, &["--workers", "1025"], 2, &["at most 1024"]);
    refused(&world, &["--workers", "many"], 2, &["a whole number from 0 to 1024"]);
    refused(&world, &["--name", "a/b"], 2, &["is not a name"]);
    refused(
        &world,
        &["--listen", "tcp://127.0.0.1:1", "--listen", "tcp://127.0.0.1:1"],
        2,
        &["listed twice"],
    );
    refused(&world, &["--config", "x", "--workers", "2"], 2, &["cannot be used with"]);
}

// vm: short
#[test]
fn an_address_in_use_is_explained() {
    let world = World::new();
    let taken = TcpListener::bind("127.0.0.1:3000").unwrap();
    let says =
        ["cannot listen on tcp://127.0.0.1:3000", "in use by a socket without SO_REUSEPORT", "ss -ltunp"];
    refused(&world, &["--listen", "tcp://127.0.0.1:3001", "--listen", "tcp://127.0.0.1:3000"], 1, &says);
    drop(taken);
    refused(
        &world,
        &["--listen", "tcp://192.0.2.1:3000"],
        1,
        &["no interface of this machine has that address"],
    );
}

#[test]
fn a_command_that_cannot_serve_ends_the_start() {
    let world = World::new();
    let listen = ["--listen", "tcp://127.0.0.1:3000", "--"];
    let with = |command: &[&'static str]| [&listen, command].concat();
    refused(&world, &with(&["no-such-command"]), 1, &["command not found", "no-such-command", "PATH"]);
    refused(&world, &with(&["./no-such-file"]), 1, &["command not found", "there is no executable file"]);
    let says = ["service demo does not start", "exited with status 0 while the service was being started"];
    refused(&world, &with(&["true"]), 1, &says);
    refused(&world, &with(&["sh", "-c", "exit 9"]), 1, &["exited with status 9"]);
    let immediate = ["--ready", "immediate", "--listen", "tcp://127.0.0.1:3000", "--", "false"];
    refused(&world, &immediate, 1, &["exited with status 1"]);
}

#[test]
fn without_root_it_says_so() {
    let world = World::new();
    // The binary may lie where others cannot look.
    let output = Command::new(world.program(&binary(), "reuseport-lb"))
        .arg("run")
        .arg("--runtime-dir")
        .arg(world.path("run"))
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    assert_said(&output, 1, &["not root", "sudo"]);
    assert_eq!(Paths::of(&world).leftovers(), Vec::<PathBuf>::new());
}

/// Runs the daemon with a kernel that answers every bpf(2) with `errno`.
#[expect(unsafe_code, reason = "a seccomp filter is applied between fork and exec")]
fn without_bpf(world: &World, errno: i32) -> Output {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
    let arch: TargetArch = std::env::consts::ARCH.try_into().unwrap();
    let rules = [(libc::SYS_bpf, vec![])].into_iter().collect();
    let errno = SeccompAction::Errno(u32::try_from(errno).unwrap());
    let filter: BpfProgram =
        SeccompFilter::new(rules, SeccompAction::Allow, errno, arch).unwrap().try_into().unwrap();
    let mut command = Paths::of(world).command(&["run", "--listen", "tcp://127.0.0.1:3000"]);
    // SAFETY: the filter was made before the fork; applying it is two system calls.
    unsafe { command.pre_exec(move || seccompiler::apply_filter(&filter).map_err(std::io::Error::other)) };
    command.output().unwrap()
}

#[test]
fn a_kernel_without_the_program_type_is_explained() {
    let world = World::new();
    for (errno, says) in [
        (libc::EINVAL, "needs Linux 5.14 or later"),
        (libc::ENOSYS, "no bpf system call"),
        (libc::EPERM, "CAP_BPF"),
    ] {
        assert_said(&without_bpf(&world, errno), 1, &["service demo", says]);
        assert_eq!(Paths::of(&world).leftovers(), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let world = World::new();
    let daemon = Daemon::start(&world, &["--listen", "tcp://127.0.0.1:3000"]);
    let output = daemon.paths().output(&["run", "--listen", "tcp://127.0.0.1:3001"]);
    assert_said(&output, 1, &["another reuseport-lb", &daemon.pid().to_string(), "--runtime-dir"]);
    ask("127.0.0.1:3000".parse().unwrap()).unwrap();
    daemon.stop();
}

#[test]
fn commands_explain_what_they_cannot_do() {
    let world = World::new();
    let paths = Paths::of(&world);
    assert_said(&paths.output(&["status"]), 1, &["no daemon runs there", "reuseport-lb run"]);
    let daemon = Daemon::start(&world, &["--listen", "tcp://127.0.0.1:3000"]);
    let moved = daemon.service().moved;
    assert_said(&paths.output(&["status", "web"]), 1, &["no service \"web\"", "there is demo"]);
    assert_said(&paths.output(&["trace", "web"]), 1, &["no service \"web\""]);
    assert_said(&paths.output(&["scale", "web", "2"]), 1, &["no service \"web\""]);
    assert_said(&paths.output(&["scale", "demo", "1025"]), 2, &["at most 1024"]);
    assert_said(&paths.output(&["weight", "demo/9", "2"]), 1, &["no worker demo/9"]);
    assert_said(&paths.output(&["weight", "demo/0", "1000001"]), 1, &["the most is 1000000"]);
    assert_said(&paths.output(&["weight", "demo", "1"]), 2, &["not a worker", "like web/2"]);
    assert_eq!(daemon.service().moved, moved);
    daemon.stop();
}

/// Sends bytes to the control socket; returns what comes back before it closes.
fn talk(daemon: &Daemon, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(daemon.paths().control()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    // The daemon may close in the middle.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

#[test]
fn what_there_is_not_is_404_and_what_cannot_be_done_is_422() {
    let world = World::new();
    let daemon = Daemon::start(&world, &["--listen", "tcp://127.0.0.1:3000", "--workers", "2"]);
    let client = ControlClient::new(daemon.paths().control());
    let weight = Weight { weight: 1 };
    let refusals = [
        client.weight("demo/9", weight).map(drop),
        client.drain("demo/9", &Drain::default()).map(drop),
        client.drain_and_wait("demo/9", &Drain::default()).map(drop),
        client.restart("demo/9", &Restart::default()).map(drop),
    ];
    for refusal in refusals {
        let Err(ControlError::Refused(Refusal::Unknown(text))) = refusal else { panic!("{refusal:?}") };
        assert!(text.contains("there is no worker demo/9"), "{text}");
    }
    let text = client.weight("web/0", weight).unwrap_err().to_string();
    assert_eq!(text, "there is no service \"web\"; there is demo");
    for (path, body, code, says) in [
        (
            "/v1/workers/demo/9/weight",
            "{\"weight\":1}",
            "404",
            "there is no worker demo/9; there is demo/0, demo/1",
        ),
        ("/v1/workers/demo/9/drain", "", "404", "there is no worker demo/9; there is demo/0, demo/1"),
        ("/v1/workers/demo/x/drain", "", "404", "there is no worker demo/x"),
        ("/v1/workers/web/0/drain", "", "404", "there is no service"),
        ("/v1/workers/demo/0/weight", "{\"weight\":1000001}", "422", "the most is 1000000"),
    ] {
        let answer = talk(&daemon, &post(path, body.as_bytes()));
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")) && answer.contains(says), "{path}: {answer}");
        assert!(answer.contains("\r\n\r\n{\"error\":\""), "{answer}");
    }
    assert_eq!(daemon.service().workers.len(), 2);
    daemon.stop();
}

#[test]
fn garbage_on_the_control_socket_disturbs_nobody() {
    let world = World::new();
    let daemon = Daemon::start(&world, &["--listen", "tcp://127.0.0.1:3000"]);
    let much = vec![b'x'; 10 << 20];
    let moved = daemon.service().moved;
    assert!(talk(&daemon, b"\0\xff garbage \r\n\r\n").contains("400 Bad Request"));
    assert!(!talk(&daemon, &much).contains("200 OK"));
    let answer = talk(&daemon, &post("/v1/services/demo/scale", &much));
    assert!(answer.contains("400 Bad Request") && answer.contains("at most 65536 bytes"), "{answer}");
    for (request, says) in [
        (post("/v1/services/demo/scale", b"{}"), "missing field `workers`"),
        (post("/v1/services/demo/scale", b"{\"workers\": -1}"), "the JSON that is expected"),
        (post("/v1/services/demo/scale", b"{\"workers\": 2, \"x\": 1}"), "unknown field"),
        (post("/v1/services/demo/scale", b"{\"workers\": 5000}"), "at most 1024"),
        (post("/v1/status", b""), "takes GET"),
        (b"GET /v1/stop HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(), "takes POST"),
        (b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(), "docs/CONTROL.md"),
    ] {
        let answer = talk(&daemon, &request);
        assert!(answer.contains(says) && answer.contains("HTTP/1.1 4"), "{says:?} is not in: {answer}");
    }
    // Held open without a word, while others are served.
    let silent: Vec<UnixStream> =
        (0..30).map(|_| UnixStream::connect(daemon.paths().control()).unwrap()).collect();
    assert_eq!(daemon.service().workers.len(), 4);
    drop(silent);
    assert_eq!(daemon.service().moved, moved);
    ask("127.0.0.1:3000".parse().unwrap()).unwrap();
    daemon.stop();
}

#[test]
fn the_control_socket_is_for_root_only() {
    use std::os::unix::fs::MetadataExt;
    let world = World::new();
    let daemon = Daemon::start(&world, &["--listen", "tcp://127.0.0.1:3000"]);
    let mode = std::fs::metadata(daemon.paths().control()).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
    daemon.stop();
}
