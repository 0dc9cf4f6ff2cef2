//! Servers that people run, unmodified: long requests are no stalls, and what loads is not sick.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reuseport_lb_client::api::ServiceStatus;
use testkit::config::Config;
use testkit::daemon::{Daemon, Paths, settled, signal, throughout, until};
use testkit::fault::times;
use testkit::patience::{at_most, lasts};
use testkit::server;
use testkit::world::{World, program};

fn to() -> SocketAddr {
    "127.0.0.1:3000".parse().unwrap()
}

/// How long a long request takes, and a slow start: well beyond `stall_timeout`; a whole run has more patience.
fn long() -> Duration {
    Duration::from_secs(times(5).clamp(5, 60) as u64)
}

/// A short request takes no longer than this, even if everything else does.
const PATIENCE: Duration = Duration::from_secs(30);

/// One request on a connection of its own; the answer, or what went wrong.
fn get(path: &str, patience: Duration) -> Result<String, String> {
    let mut stream = TcpStream::connect(to()).map_err(|error| format!("connect: {error}"))?;
    stream.set_read_timeout(Some(patience)).map_err(|error| error.to_string())?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|error| format!("send: {error}"))?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .map_err(|error| format!("{path}: {error} after {:?}", answer.len()))?;
    if answer.starts_with("HTTP/1.1 200") { Ok(answer) } else { Err(format!("{path}: {answer:?}")) }
}

/// Short requests, 50 a second, until `done`; how many were answered within their patience, and what became of the
/// others.
fn short_ones(done: &AtomicBool, patience: Duration) -> (usize, Vec<String>) {
    std::thread::scope(|scope| {
        let mut all = Vec::new();
        while !done.load(Ordering::Relaxed) {
            all.push(scope.spawn(|| get("/", patience)));
            lasts("the time between two of 50 requests a second", Duration::from_millis(20));
        }
        let (mut answered, mut failed) = (0, Vec::new());
        for one in all {
            match one.join().unwrap() {
                Ok(_) => answered += 1,
                Err(error) => failed.push(error),
            }
        }
        (answered, failed)
    })
}

fn pids(service: &ServiceStatus) -> Vec<i32> {
    service.workers.iter().filter_map(|worker| worker.pid).collect()
}

fn web(command: &[String]) -> Config {
    Config::web().workers(3).set("drain_timeout", "10s").command(command)
}

/// All defaults: one long request beside many short ones is answered, as they are, and nobody is replaced.
fn a_long_request_is_no_stall(command: impl FnOnce(&World) -> Vec<String>) {
    let world = World::new();
    let daemon = Daemon::with(&world, &web(&command(&world)));
    let before = daemon.service();
    let done = AtomicBool::new(false);
    let (slow, (answered, failed)) = std::thread::scope(|scope| {
        let short = scope.spawn(|| short_ones(&done, PATIENCE));
        let slow = get("/slow", long() * 3);
        done.store(true, Ordering::Relaxed);
        (slow, short.join().unwrap())
    });
    println!("{answered} short ones answered beside one of {:?}", long());
    assert!(slow.is_ok(), "{slow:?}\n{}", daemon.log());
    assert!(failed.is_empty(), "{failed:?}\n{}", daemon.log());
    assert!(answered > 100, "{answered}");
    let after = until("all to be ready", || Some(daemon.service()).filter(settled));
    assert_eq!(pids(&after), pids(&before));
    assert!(after.workers.iter().all(|worker| worker.restarts == 0));
    daemon.stop();
}

/// A program of this machine, and what it is told.
fn words(name: &str, arguments: &[&str]) -> Vec<String> {
    let program = program(name).display().to_string();
    [program].into_iter().chain(arguments.iter().map(|it| (*it).to_owned())).collect()
}

/// An application for WSGI and for ASGI.
fn application(world: &World) -> String {
    let seconds = long().as_secs();
    let _ = world.file(
        "app.py",
        &format!(
            "import asyncio, time\ndef wsgi(environ, start):\n    \
             if environ['PATH_INFO'] == '/slow': time.sleep({seconds})\n    \
             start('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', '2')])\n    return [b'ok']\n\
             async def asgi(scope, receive, send):\n    \
             if scope['type'] != 'http': return\n    \
             if scope['path'] == '/slow': await asyncio.sleep({seconds})\n    \
             await send({{'type': 'http.response.start', 'status': 200, 'headers': [(b'content-length', b'2')]}})\n    \
             await send({{'type': 'http.response.body', 'body': b'ok'}})\n"
        ),
    );
    world.path(".").display().to_string()
}

#[test]
fn gunicorn_answers_a_long_request_beside_short_ones() {
    a_long_request_is_no_stall(|world| {
        // Its own patience with a request is 30 s.
        words("gunicorn", &["-w", "1", "--timeout", "200", "--chdir", &application(world), "app:wsgi"])
    });
}

#[test]
fn uvicorn_answers_a_long_request_beside_short_ones() {
    a_long_request_is_no_stall(|world| {
        let application = application(world);
        words("uvicorn", &["--fd", "3", "--log-level", "warning", "--app-dir", &application, "app:asgi"])
    });
}

#[test]
fn haproxy_answers_a_long_request_beside_short_ones() {
    a_long_request_is_no_stall(|world| {
        let file = world.file(
            "haproxy.cfg",
            &format!(
                "defaults\n  mode http\n  timeout client 100s\n  timeout connect 5s\n  timeout server 5s\n  \
                 timeout tarpit {}s\nfrontend f\n  bind fd@3\n  \
                 http-request tarpit deny_status 200 if {{ path /slow }}\n  \
                 http-request return status 200 content-type text/plain string ok\n",
                long().as_secs()
            ),
        );
        words("haproxy", &["-db", "-f", &file.to_string_lossy()])
    });
}

/// nginx with a listener, and the descriptors that it is told of.
fn nginx(world: &World, listen: &str, descriptors: &str) -> Vec<String> {
    let root = world.path(".").display().to_string();
    let file = world.file(
        "nginx.conf",
        &format!(
            "daemon off;\nworker_processes 1;\nuser root;\npid {root}/nginx-$$.pid;\nerror_log stderr;\nevents {{}}\n\
             http {{\n  access_log off;\n  client_body_temp_path {root}/b;\n  proxy_temp_path {root}/p;\n  \
             fastcgi_temp_path {root}/f;\n  uwsgi_temp_path {root}/u;\n  scgi_temp_path {root}/s;\n  \
             server {{\n    listen {listen};\n    root {root};\n    location /slow {{ limit_rate 1k; }}\n  }}\n}}\n"
        ),
    );
    // Each master has a pid file of its own.
    let script = format!(
        "sed \"s/nginx-\\$\\$/nginx-$$/\" {} > {root}/$$.conf; export NGINX='{descriptors}'; \
         exec {} -e stderr -c {root}/$$.conf",
        file.display(),
        program("nginx").display()
    );
    words("sh", &["-c", &script])
}

#[test]
fn nginx_answers_a_long_request_beside_short_ones() {
    a_long_request_is_no_stall(|world| {
        // As much as a kilobyte a second takes so long.
        let _ = world.file("slow", &"x".repeat(1024 * long().as_secs() as usize));
        let _ = world.file("index.html", "ok");
        nginx(world, "127.0.0.1:3000", "3;")
    });
}

/// A service of one worker that opens a socket by itself: what is said of it.
fn opens_by_itself(config: impl FnOnce(&World) -> Config, process: &str, opened: &str, state: &str) {
    let world = World::new();
    config(&world).workers(1).write(&world);
    let named = |service: &ServiceStatus| {
        let lacks = service.workers[0].lacks.clone().unwrap_or_default();
        service.workers[0].state == state && lacks.contains("by itself")
    };
    let daemon = Daemon::start_until(&world, Paths::of(&world).run(), named);
    let worker = daemon.service().workers.remove(0);
    let lacks = worker.lacks.unwrap();
    let said = format!("({process}) opened {opened} by itself");
    assert!(
        lacks.starts_with("does not wait for work yet on tcp://127.0.0.1:3000: pid ")
            && lacks.ends_with(&said),
        "{lacks}"
    );
    let said =
        said + ", and does not wait for work on its own sockets: they are its descriptors 3 (LISTEN_FDS)";
    assert!(daemon.log().contains(&said), "{}", daemon.log());
    assert_eq!((worker.member, worker.restarts), (false, 0), "it is not ready, and nobody ends it");
    assert!(daemon.run(&["status"]).contains("by itself"));
    daemon.stop();
}

#[test]
fn who_opens_the_address_by_itself_is_named() {
    let same = |world: &World| web(&nginx(world, "127.0.0.1:3000 reuseport", ""));
    opens_by_itself(same, "nginx", "tcp://127.0.0.1:3000", "starting");
    let other = |world: &World| web(&nginx(world, "0.0.0.0:3080", ""));
    opens_by_itself(other, "nginx", "tcp://0.0.0.0:3080", "starting");
    // It says that it is ready, too.
    let says = |world: &World| {
        let config = Config::web().set("ready", "notify");
        config.server(world, "--open tcp://0.0.0.0:3000 --ready notify")
    };
    opens_by_itself(says, "server", "tcp://0.0.0.0:3000", "loading");
}

/// A server that needs some time before it waits for work: as long as it is told to before it starts.
fn loading(world: &World) -> (Config, impl Fn(Duration)) {
    let first = world.file("first", "");
    let config = web(&server::words(world, &format!("@{}", first.display())));
    (config, move |load: Duration| std::fs::write(&first, format!("--load {}ms", load.as_millis())).unwrap())
}

#[test]
fn a_release_that_loads_for_long_is_loading_and_takes_over_when_it_accepts() {
    for ready in [None, Some("500ms")] {
        let world = World::new();
        let (config, load_for) = loading(&world);
        let config = config.set("start_timeout", "2m");
        let config = if let Some(ready) = ready { config.set("ready", ready) } else { config };
        let daemon = Daemon::with(&world, &config);
        let before = daemon.service();
        load_for(long());
        let done = AtomicBool::new(false);
        let (answered, failed) = std::thread::scope(|scope| {
            let short = scope.spawn(|| short_ones(&done, PATIENCE));
            let mut restart = daemon.paths().command(&["restart", "web/1"]).spawn().unwrap();
            if ready.is_some() {
                let lacks = until("the successor to be loading", || {
                    daemon.service().workers.into_iter().find(|it| it.state == "loading")?.lacks
                });
                assert_eq!(lacks, "does not wait for work yet on tcp://127.0.0.1:3000");
            }
            assert!(restart.wait().unwrap().success(), "{}", daemon.log());
            done.store(true, Ordering::Relaxed);
            short.join().unwrap()
        });
        println!("{answered} answered while a worker was replaced by one that loads for {:?}", long());
        assert!(failed.is_empty(), "{failed:?}\n{}", daemon.log());
        let after = daemon.service();
        let replaced = |nth: usize| after.workers[nth].pid != before.workers[nth].pid;
        assert_eq!([0, 1, 2].map(replaced), [false, true, false]);
        daemon.stop();
    }
}

#[test]
fn a_worker_that_crashed_and_loads_for_long_comes_back() {
    let world = World::new();
    let (config, load_for) = loading(&world);
    let hold = at_most(Duration::from_millis(500));
    let config = config.set("ready", "500ms").set("hold_timeout", &format!("{}ms", hold.as_millis()));
    let daemon = Daemon::with(&world, &config);
    let victim = daemon.service().workers[0].pid.unwrap();
    load_for(long());
    let done = AtomicBool::new(false);
    let (answered, failed) = std::thread::scope(|scope| {
        let short = scope.spawn(|| short_ones(&done, hold * 6));
        signal(victim, Signal::SIGKILL);
        let begun = Instant::now();
        until("it to be loading", || (daemon.service().workers[0].state == "loading").then_some(()));
        let loading = daemon.service().workers[0].pid;
        let rest = (long() - Duration::from_secs(1)).saturating_sub(begun.elapsed());
        throughout(rest, || {
            let worker = daemon.service().workers.remove(0);
            assert_eq!((worker.pid, worker.restarts), (loading, 1), "{}", daemon.log());
        });
        until("it to be back", || Some(daemon.service()).filter(settled));
        assert_eq!(daemon.service().workers[0].pid, loading);
        done.store(true, Ordering::Relaxed);
        short.join().unwrap()
    });
    println!("{answered} answered while a worker loaded for {:?} after a crash", long());
    // What its predecessor had accepted went with it; what waited for it went to others when the hold was over.
    assert!(failed.len() <= 1, "{failed:?}\n{}", daemon.log());
    daemon.stop();
}

#[test]
fn a_worker_that_never_uses_one_of_its_sockets_is_shown_as_that() {
    let world = World::new();
    let config = Config::web().listen("tcp://127.0.0.1:3001").workers(1).set("start_timeout", "1s");
    config.server(&world, "--sockets 1").write(&world);
    let command = Paths::of(&world).run();
    let daemon = Daemon::start_until(&world, command, |service| service.workers[0].lacks.is_some());
    let worker = daemon.service().workers.remove(0);
    assert_eq!(worker.state, "starting");
    assert_eq!(worker.lacks.unwrap(), "does not wait for work yet on tcp://127.0.0.1:3001");
    assert!(daemon.run(&["status"]).contains("web/0 does not wait for work yet on tcp://127.0.0.1:3001"));
    until("the log to say it", || {
        daemon
            .log()
            .contains("does not wait for work yet on tcp://127.0.0.1:3001 (descriptor 4)")
            .then_some(())
    });
    let output = daemon.paths().output(&["scale", "web", "2"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("not ready within start_timeout (1s): web/1 (starting, does not wait"), "{said}");
    daemon.stop();
}
