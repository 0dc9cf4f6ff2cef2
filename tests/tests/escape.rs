//! Whoever is a worker's is reached wherever it has put itself, and nobody else is.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;
use tests::daemon::{Daemon, Paths, binary, is_alive, settled, signal, state, until};
use tests::world::World;

/// The init of a PID namespace. A worker of a daemon that is gone ends while the next daemon stands still,
/// and its process id goes to the leader of another group. Prints what becomes of that one.
const REUSE: &str = r#"
import json, os, signal, subprocess, sys, time
command, config = sys.argv[1:-1], sys.argv[-1]
log = open(config + ".log", "a")
def until(what, look):
    for _ in range(2000):
        found = look()
        if found: return found
        time.sleep(0.01)
    sys.exit("waited for " + what + "\n" + open(config + ".log").read())
def worker():
    said = subprocess.run(command + ["status", "--json"], capture_output=True)
    if said.returncode: return None
    worker = json.loads(said.stdout)["services"][0]["workers"][0]
    return worker["pid"] if worker["state"] == "ready" else None
def start(): return subprocess.Popen(command + ["run", "--config", config], stdout=log, stderr=log)
def state(pid): return open("/proc/%d/stat" % pid).read().rsplit(") ")[1][0]
daemon = start()
first = until("the worker", worker)
daemon.kill()
daemon.wait()
daemon = start()
assert until("the next daemon", worker) == first
daemon.send_signal(signal.SIGSTOP)
until("it to stand still", lambda: state(daemon.pid) == "T")
os.kill(first, signal.SIGKILL)
os.waitpid(first, 0)
open("/proc/sys/kernel/ns_last_pid", "w").write(str(first - 1))
other = os.fork()
if other == 0:
    os.setsid()
    if os.fork() == 0: time.sleep(1000)
    time.sleep(1000)
assert other == first, (other, first)
until("its group", lambda: os.getsid(other) == other)
daemon.send_signal(signal.SIGCONT)
second = until("a new process of the worker", lambda: (worker() or first) != first)
assert subprocess.run(command + ["stop"], stdout=log).returncode == 0
assert daemon.wait() == 0
print("ended" if os.waitpid(other, os.WNOHANG)[0] else "lives")
"#;

#[test]
fn a_process_id_that_is_somebody_elses_by_now_gets_no_signal() {
    let world = World::new();
    let config = world.file(
        "config.toml",
        "[[service]]\nname = \"web\"\nlisten = [\"tcp://127.0.0.1:3000\"]\nworkers = 1\nready = \"immediate\"\n\
         command = [\"sleep\", \"1000\"]\n",
    );
    let script = world.file("init.py", REUSE);
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "python3"]).arg(script).arg(binary());
    command.args(Paths::of(&world).command(&[]).get_args()).arg(config);
    let output = command.output().unwrap();
    let says = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(says, "lives\n", "{}", String::from_utf8_lossy(&output.stderr));
}

/// Says what it finds in a file, to the socket that is named there. After STOPPING=1 alone it ends.
const SAY: &str = r#"
import os, socket, sys, time
def say(words, to):
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(words, to)
if len(sys.argv) == 2:
    say(sys.argv[1].encode(), os.environ["NOTIFY_SOCKET"])
    sys.exit()
_, place, ready = sys.argv
if ready == "helper":
    os.spawnlp(os.P_WAIT, "python3", "python3", __file__, "READY=1")
else:
    say(b"READY=1", os.environ["NOTIFY_SOCKET"])
while True:
    while not os.path.exists(place + "/order"): time.sleep(0.01)
    to, *words = open(place + "/order").read().split()
    for word in words: say(word.encode(), to)
    os.rename(place + "/order", place + "/done")
    if words == ["STOPPING=1"]: sys.exit()
"#;

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
    let script = world.file("say.py", SAY);
    let place = |name: &str| {
        let place = world.path(name);
        fs::create_dir(&place).unwrap();
        nix::unistd::chown(&place, Some(65534.into()), Some(65534.into())).unwrap();
        place
    };
    let (of_a, of_b) = (place("a"), place("b"));
    let service = |name: &str, port: u16, ready: &str, command: String| {
        format!(
            "[[service]]\nname = \"{name}\"\nlisten = [\"tcp://127.0.0.1:{port}\"]\nworkers = 1\n\
             user = \"nobody\"\nready = {ready:?}\ncommand = [{command}]\n"
        )
    };
    // The second one says it by a helper that ends at once, as systemd-notify does.
    let says = |place: &PathBuf, how: &str| format!("\"python3\", {script:?}, {place:?}, {how:?}");
    let configuration = service("a", 3000, "notify", says(&of_a, "itself"))
        + &service("b", 3001, "notify", says(&of_b, "helper"))
        + &service("c", 3002, "notify", "\"sleep\", \"1000\"".into());
    let file = world.file("config.toml", &configuration);
    let command = Paths::of(&world).command(&["run", "--config", &file.to_string_lossy()]);
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
    // Whoever has ended before anybody looked is known by its user alone.
    signal(daemon.pid(), Signal::SIGSTOP);
    until("the daemon to stand still", || (state(daemon.pid()) == Some('T')).then_some(()));
    let mut stranger = Command::new("python3");
    stranger.arg(&script).arg("READY=1").env("NOTIFY_SOCKET", notify_socket(c)).uid(65534);
    assert!(stranger.status().unwrap().success());
    signal(daemon.pid(), Signal::SIGCONT);
    until("c to be ready", || (states(&daemon)[2] == "ready").then_some(()));
    daemon.stop();
    assert!(before.iter().all(|pid| !is_alive(*pid)));
}
