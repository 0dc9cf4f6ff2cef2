//! Processes that join by `exec --sockets bind`, and open their sockets themselves.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use reuseport_lb_client::api::{ServiceStatus, WorkerStatus};
use testkit::background::beside;
use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, is_alive, settled, signal, until};
use testkit::guests::{Guests, USER};
use testkit::patience::fewer;
use testkit::said::assert_said;
use testkit::world::{World, program};

use crate::family::{freeze, kill};
use crate::programs::{acceptors, nginx, rebinds};
use crate::protocol::Asked;
use crate::protocol::Protocol::{Greeting, Http};
use crate::protocol::ask_all;
use crate::rebinding::{asking, others};

/// Whose processes get their sockets passed, but for these.
fn config() -> Config {
    Config::web().workers(0).set("user", "nobody").set("stall_timeout", "off")
}

/// A process that has joined; killed on drop.
pub(crate) struct Joined(Child);

impl Joined {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }

    /// Its members of the table.
    fn members<'a>(&self, service: &'a ServiceStatus) -> Vec<&'a WorkerStatus> {
        service.workers.iter().filter(|worker| worker.pid == Some(self.pid())).collect()
    }

    /// Waits until it has so many, which all serve.
    pub(crate) fn serves(&self, daemon: &Daemon, count: usize) -> ServiceStatus {
        until(&format!("{count} members of {}", self.pid()), || {
            Some(daemon.service()).filter(|it| self.members(it).len() == count && settled(it))
        })
    }

    fn end(mut self) -> bool {
        until("it to end", || self.0.try_wait().unwrap()).success()
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        // One that has ended is fine as well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `exec --sockets bind` of a command, by this user.
fn joining(guests: &Guests, uid: u32, command: &[String]) -> Command {
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    guests.command(uid, &[&["exec", "web", "--sockets", "bind", "--"], &*command].concat())
}

/// `exec --sockets bind` of a command, by this user, with its output in a file.
pub(crate) fn joining_into(guests: &Guests, uid: u32, command: &[String], output: &Path) -> Command {
    let mut joining = joining(guests, uid, command);
    joining.stdout(File::create(output).unwrap());
    joining
}

/// Waits until so many workers are there, which all serve.
fn remain(daemon: &Daemon, count: usize) {
    until(&format!("{count} workers"), || {
        let service = daemon.service();
        (service.workers.len() == count && (count == 0 || settled(&service))).then_some(())
    });
}

/// Three threads of an ordinary user's process, as the seeds had them, beside a worker that gets its socket passed.
#[test]
fn three_threads_that_join_are_three_members_and_leave_with_their_process() {
    let world = World::new();
    let guests = Guests::new(&world);
    let daemon = Daemon::with(&world, &config());
    let command = acceptors(&world, "plain");
    let joined = Joined::start(&mut joining(&guests, USER, &command));
    let service = joined.serves(&daemon, 3);
    let named: Vec<&str> = joined.members(&service).iter().map(|it| it.name.as_str()).collect();
    assert_eq!(named, ["web/0", "web/0.1", "web/0.2"]);
    assert!(service.workers[0].joined, "{service:?}");
    assert_eq!(service.groups[0].strangers, Some(0));
    let status = fs::read_to_string(format!("/proc/{}/status", joined.pid())).unwrap();
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");

    let clients = fewer(600);
    assert_eq!(ask_all(&[Greeting], clients), Vec::<String>::new());
    let after = daemon.service();
    assert_eq!(Counters::difference(&service, &after), Counters::all_taken(clients as u64));
    let (count, part) = (clients as f64, 1.0 / 3.0);
    let most = 6.0 * (count * part * (1.0 - part)).sqrt();
    let got: Vec<u64> = after.workers.iter().map(|worker| worker.sockets[0].selected).collect();
    println!("selected {got:?}");
    assert_eq!(got.iter().sum::<u64>(), clients as u64);
    assert!(got.iter().all(|it| (*it as f64 - count * part).abs() <= most), "{got:?}");

    // One that gets its socket passed joins as ever, by a request without a word about sockets.
    let mut passed = guests.command(USER, &["exec", "web", "--"]);
    passed.args(guests.server(testkit::guests::Manner::Abrupt));
    let passed = Joined::start(&mut passed);
    passed.serves(&daemon, 1);

    daemon.run(&["drain", "web/0.1"]);
    let before = daemon.service();
    assert_eq!((joined.members(&before).len(), is_alive(joined.pid())), (2, true));
    drop(passed);
    remain(&daemon, 2);
    assert_eq!(ask_all(&[Greeting], 60), Vec::<String>::new());
    let pid = joined.pid();
    kill(&[pid]);
    drop(joined);
    remain(&daemon, 0);
    daemon.stop();
}

#[test]
fn one_that_is_killed_with_a_full_queue_loses_nothing_while_another_serves() {
    let world = World::new();
    let guests = Guests::new(&world);
    let daemon = Daemon::with(&world, &config());
    let command = acceptors(&world, "reuseport");
    let [first, other] = [0, 1].map(|_| {
        let joined = Joined::start(&mut joining(&guests, USER, &command));
        joined.serves(&daemon, 3);
        joined
    });
    let all = freeze(first.pid());
    let sent: Vec<Asked> = (0..200).map(|_| Greeting.send().unwrap()).collect();
    let service = daemon.service();
    let queued: u64 = first.members(&service).into_iter().map(WorkerStatus::queue).sum();
    assert!(queued > 20, "{queued} wait for it");
    kill(&all);
    let failed: Vec<String> = sent.into_iter().filter_map(|asked| asked.answer().err()).collect();
    println!("killed with {queued} in its queues: {} lost", failed.len());
    assert!(failed.is_empty(), "{failed:?}\n{}", daemon.log());
    drop(first);
    remain(&daemon, 3);
    assert_eq!(other.members(&daemon.service()).len(), 3);
    assert_eq!(ask_all(&[Greeting], 60), Vec::<String>::new());
    daemon.stop();
}

/// The keeper of a process that has joined outlives the daemon as others do.
#[test]
fn what_a_joined_process_binds_while_no_daemon_runs_waits_for_the_next_and_nothing_else_does() {
    let world = World::new();
    let guests = Guests::new(&world);
    let daemon = Daemon::with(&world, &config());
    let (file, output) = (world.path("others"), world.path("output"));
    let joined = Joined::start(&mut joining_into(&guests, 0, &rebinds(&world, &file), &output));
    joined.serves(&daemon, 1);
    let beside_it = Joined::start(&mut joining(&guests, 0, &rebinds(&world, &world.path("beside"))));
    beside_it.serves(&daemon, 1);
    let again = || fs::read_to_string(&output).unwrap().matches("opened again").count();
    daemon.kill();
    signal(joined.pid(), Signal::SIGUSR1);
    let before = others(&file);
    let ((), failed) = beside(asking, || {
        until("others beside it", || (others(&file) > before + 50).then_some(()));
    });
    assert!(failed.is_empty(), "without a daemon: {failed:?}");
    assert_eq!(again(), 0, "nobody has let it");
    let daemon = Daemon::with(&world, &config());
    until("it to open its socket again", || (again() == 1).then_some(()));
    joined.serves(&daemon, 1);
    // A process that takes the keeper's place answers as well.
    kill(&keepers_of(&joined.members(&daemon.service())[0].name));
    daemon.says("the process that answered its calls of bind and listen is gone");
    signal(joined.pid(), Signal::SIGUSR1);
    until("it to open its socket again", || (again() == 2).then_some(()));
    let service = joined.serves(&daemon, 1);
    assert_eq!(ask_all(&[Http], 100), Vec::<String>::new());
    assert!(service.workers.iter().all(|it| it.restarts == 0));
    daemon.stop();
}

/// Keepers of the worker of this name.
pub(crate) fn keepers_of(name: &str) -> Vec<i32> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let keeps = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.get(1) == Some(&&b"keep"[..]) && words.get(2) == Some(&name.as_bytes()) && is_here(*pid)
    };
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(keeps).collect()
}

/// Whether a process is in the network of this test, and so of its daemon.
fn is_here(pid: i32) -> bool {
    let network = |of: &str| fs::read_link(format!("/proc/{of}/ns/net")).ok();
    network(&pid.to_string()) == network("thread-self")
}

#[test]
fn nginx_joins_with_a_socket_for_each_process_and_is_drained() {
    let world = World::new();
    let guests = Guests::new(&world);
    let config = config().set("stop_signal", "QUIT").set("drain_timeout", "10s");
    let daemon = Daemon::with(&world, &config);
    let command = nginx(&world, " reuseport", 2);
    let [first, other] = [0, 1].map(|_| {
        let joined = Joined::start(&mut joining(&guests, 0, &command));
        joined.serves(&daemon, 2);
        joined
    });
    let ((), failed) = beside(asking, || {
        daemon.run(&["drain", "web/0"]);
        assert!(first.end(), "nginx ends in order");
    });
    println!("nginx is drained: {} failed: {failed:?}", failed.len());
    assert!(failed.is_empty(), "{failed:?}\n{}", daemon.log());
    remain(&daemon, 2);
    assert_eq!(other.members(&daemon.service()).len(), 2);
    daemon.stop();
}

/// As in a container with a network of its own: sockets there cannot serve here, so the process gets those of the service.
#[test]
fn a_process_in_another_network_and_pid_namespace_gets_sockets_of_the_service() {
    let world = World::new();
    let guests = Guests::new(&world);
    let daemon = Daemon::with(&world, &config());
    let joining = joining(&guests, 0, &acceptors(&world, "plain"));
    let mut command = Command::new(program("unshare"));
    command.args(["--net", "--pid", "--fork", "--kill-child", "--"]).arg(joining.get_program());
    let container = Joined::start(command.args(joining.get_args()).stdin(Stdio::null()).current_dir("/"));
    remain(&daemon, 3);
    assert_eq!(ask_all(&[Greeting], 100), Vec::<String>::new());
    let service = daemon.service();
    assert!(service.workers.iter().all(|it| it.sockets[0].selected > 0), "{service:?}");
    drop(container);
    remain(&daemon, 0);
    daemon.stop();
}

#[test]
fn who_may_not_join_is_refused_and_so_is_what_is_no_filter() {
    const OTHER: u32 = 4321;
    let world = World::new();
    let guests = Guests::new(&world);
    let daemon = Daemon::with(&world, &config());
    let mut other = joining(&guests, OTHER, &acceptors(&world, "plain"));
    let says = format!("user id {OTHER} may not join service web: only root and user nobody may");
    assert_said(&other.output().unwrap(), 1, &[&says]);
    let nginx = guests.command(0, &["exec", "web", "--sockets", "nginx", "--", "true"]).output().unwrap();
    assert_said(&nginx, 2, &["\"bind\" does for nginx, too"]);
    assert_eq!(daemon.service().workers.len(), 0);
    assert_eq!(keepers_of("web/0"), [0; 0]);
    daemon.stop();
}

/// A process that leaves, and goes on, binds as it likes from then on.
#[test]
fn a_process_that_leaves_goes_on_without_the_service() {
    let world = World::new();
    let guests = Guests::new(&world);
    let daemon = Daemon::with(&world, &config());
    let (file, output) = (world.path("others"), world.path("output"));
    let rebinds = rebinds(&world, &file);
    let says = "import os, socket\ns = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
                s.sendto(b'STOPPING=1', os.environ['NOTIFY_SOCKET'])\n";
    let script = format!(
        "trap 'python3 {}' USR2; {} {} & child=$!; trap \"kill $child\" EXIT; while :; do wait; done",
        world.file("leaves.py", says).display(),
        rebinds[0],
        rebinds[1]
    );
    let command = ["/bin/bash".to_owned(), "-c".into(), script];
    let mut joining = joining_into(&guests, 0, &command, &output);
    joining.stdin(Stdio::null());
    let joined = Joined::start(&mut joining);
    joined.serves(&daemon, 1);
    // Its child has the socket.
    assert_eq!(ask_all(&[Http], 20), Vec::<String>::new());
    let child = crate::family::family(joined.pid()).pop().unwrap();
    signal(joined.pid(), Signal::SIGUSR2);
    remain(&daemon, 0);
    signal(child, Signal::SIGUSR1);
    until("it to open its socket for itself", || {
        fs::read_to_string(&output).unwrap().contains("opened again").then_some(())
    });
    assert!(is_alive(joined.pid()));
    let before = others(&file);
    until("others", || (others(&file) > before + 5).then_some(()));
    signal(joined.pid(), Signal::SIGTERM);
    kill(&[child]);
    daemon.stop();
}
