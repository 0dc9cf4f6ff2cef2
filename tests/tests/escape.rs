//! Whoever is a worker's is reached wherever it has put itself, and nobody else is.

use std::process::Command;

use tests::daemon::{Paths, binary};
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
