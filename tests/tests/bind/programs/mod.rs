//! Servers that open their sockets themselves, as they are, on port 3000 of 127.0.0.1.

use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::world::{World, program};

/// A program of this machine, and what it is told.
fn words(name: &str, arguments: &[&str]) -> Vec<String> {
    let program = program(name).display().to_string();
    [program].into_iter().chain(arguments.iter().map(|it| (*it).to_owned())).collect()
}

/// A command that gets a configuration file of its own, in which `@pid@` is its process id and `@root@` the world's
/// folder: `@file@` in the arguments.
fn configured(world: &World, name: &str, configuration: &str, arguments: &str) -> Vec<String> {
    let root = world.path("").display().to_string();
    let file =
        world.file(&format!("{name}.in"), &configuration.replace("@root@", root.trim_end_matches('/')));
    let own = format!("{}$$.conf", world.path(&format!("{name}-")).display());
    let script = format!(
        "sed \"s/@pid@/$$/\" {} > {own}; exec {} {}",
        file.display(),
        program(name).display(),
        arguments.replace("@file@", &own)
    );
    words("sh", &["-c", &script])
}

fn compiled(compiler: &mut Command, program: &Path) -> String {
    let output = compiler.output().unwrap();
    assert!(output.status.success(), "{compiler:?}: {}", String::from_utf8_lossy(&output.stderr));
    program.display().to_string()
}

/// A program in C.
fn c(world: &World, name: &str, source: &str) -> String {
    let source = world.file(&format!("{name}.c"), source);
    let binary = world.path(name);
    let mut compiler = Command::new(program("cc"));
    compiler.args(["-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"]).args([&binary, &source]);
    compiled(&mut compiler, &binary)
}

/// Three threads with a socket each.
pub(crate) fn acceptors(world: &World, option: &str) -> Vec<String> {
    vec![c(world, "acceptors", include_str!("acceptors.c")), option.into()]
}

/// A server that gives its group a program of its own.
pub(crate) fn steers(world: &World, when: &str) -> Vec<String> {
    vec![c(world, "steers", include_str!("steers.c")), when.into()]
}

/// One of several servers that share an address.
pub(crate) fn shared(world: &World, options: &[&str]) -> Vec<String> {
    let script = world.file("shared.py", include_str!("shared.py"));
    let script = script.display().to_string();
    words("python3", &[&[&*script], options].concat())
}

pub(crate) fn epoll_first(world: &World) -> Vec<String> {
    vec![c(world, "epoll_first", include_str!("epoll_first.c"))]
}

/// A worker that tries to bind what is not its service's, and binds so often.
pub(crate) fn hostile(world: &World, binds: usize) -> Vec<String> {
    vec![c(world, "hostile", include_str!("hostile.c")), binds.to_string()]
}

pub(crate) fn options(world: &World) -> Vec<String> {
    vec![c(world, "options", include_str!("options.c"))]
}

/// A server that opens its socket again at SIGUSR1, and writes into this file how many others it has opened.
pub(crate) fn rebinds(world: &World, others: &Path) -> Vec<String> {
    vec![c(world, "rebinds", include_str!("rebinds.c")), others.display().to_string()]
}

fn python() -> String {
    let python = Some(PathBuf::from("/usr/bin/python3")).filter(|it| it.exists());
    python.unwrap_or_else(|| program("python3")).display().to_string()
}

/// Python's own server of files, at a port and what else it is told.
pub(crate) fn file_server(world: &World, arguments: &[&str]) -> Vec<String> {
    let root = world.path("").display().to_string();
    let _ = world.file("index.html", "ok");
    let words = [&["-m", "http.server", "--directory", &root], arguments].concat();
    [python()].into_iter().chain(words.into_iter().map(str::to_owned)).collect()
}

/// A server that binds its address and closes it again before it listens.
pub(crate) fn tries(world: &World) -> Vec<String> {
    vec![python(), world.file("tries.py", include_str!("tries.py")).display().to_string()]
}

/// A server that binds two sockets to this host and listens on one of them; at SIGUSR1 on the other one, too.
pub(crate) fn keeps(world: &World, host: &str) -> Vec<String> {
    let script = world.file("keeps.py", include_str!("keeps.py")).display().to_string();
    vec![python(), script, host.into()]
}

/// Streams of Python's asyncio.
pub(crate) fn asyncio(world: &World) -> Vec<String> {
    vec![python(), world.file("stream.py", include_str!("stream.py")).display().to_string()]
}

/// granian with so many processes, and what of its application answers: `asgi`, `wsgi` or `slow`.
pub(crate) fn granian(world: &World, what: &str, processes: usize) -> Vec<String> {
    let application = world.file("app.py", include_str!("app.py"));
    let folder = application.parent().unwrap().display().to_string();
    let (interface, processes) = (if what == "wsgi" { what } else { "asgi" }, processes.to_string());
    let of_server = ["--host", "127.0.0.1", "--port", "3000", "--workers", &processes];
    let of_application = ["--interface", interface, "--working-dir", &folder, &format!("app:{what}")];
    words("granian", &[of_server.as_slice(), &of_application].concat())
}

/// Node alone (`single`), or with two processes (`cluster`).
pub(crate) fn node(world: &World, mode: &str) -> Vec<String> {
    words("node", &[&*world.file("web.js", include_str!("web.js")).to_string_lossy(), mode])
}

/// A static program in Go: no library of C can be put in front of its calls.
pub(crate) fn go(world: &World) -> Vec<String> {
    let source = world.file("web.go", include_str!("web.go"));
    let binary = world.path("go-server");
    let mut compiler = Command::new(program("go"));
    compiler.args(["build", "-o"]).args([&binary, &source]).env("GOCACHE", world.path("go-cache"));
    vec![compiled(compiler.envs([("GO111MODULE", "off"), ("CGO_ENABLED", "0")]), &binary)]
}

pub(crate) fn redis(world: &World) -> Vec<String> {
    let root = world.path("").display().to_string();
    let words_of_redis =
        ["--bind", "127.0.0.1", "--port", "3000", "--save", "", "--appendonly", "no", "--dir", &root];
    words("redis-server", &words_of_redis)
}

/// Two listeners in Erlang.
pub(crate) fn erlang(_world: &World) -> Vec<String> {
    let text = include_str!("listeners.erl");
    let code: Vec<&str> = text.lines().filter(|line| !line.starts_with("%%")).collect();
    words("erl", &["-noshell", "-eval", &code.join(" ")])
}

/// nginx with so many processes, and `listen 127.0.0.1:3000` with this behind it.
pub(crate) fn nginx(world: &World, option: &str, processes: usize) -> Vec<String> {
    let text = "daemon off;\nworker_processes @processes@;\nuser root;\npid @root@/nginx-@pid@.pid;\nerror_log stderr;\n\
                worker_shutdown_timeout 10s;\nevents {}\nhttp {\n  access_log off;\n  client_body_temp_path @root@/b;\n  \
                proxy_temp_path @root@/p;\n  fastcgi_temp_path @root@/f;\n  uwsgi_temp_path @root@/u;\n  \
                scgi_temp_path @root@/s;\n  server {\n    listen 127.0.0.1:3000@option@;\n    \
                return 200 \"pid=$pid\\n\";\n  }\n}\n";
    let text = text.replace("@processes@", &processes.to_string()).replace("@option@", option);
    configured(world, "nginx", &text, "-e stderr -c @file@")
}

/// Knot, which is in charge of `test.`, with so many threads for UDP.
pub(crate) fn knot(world: &World, threads: usize) -> Vec<String> {
    let _ = world.file(
        "test.zone",
        "$ORIGIN test.\n$TTL 60\n@ SOA ns admin 1 60 60 60 60\n@ NS ns\nns A 192.0.2.2\nwww A 192.0.2.1\n",
    );
    let text = format!(
        "server:\n  rundir: \"@root@/knot-@pid@\"\n  listen: 127.0.0.1@3000\n  udp-workers: {threads}\n  \
         tcp-workers: 1\n  background-workers: 1\nlog:\n  - target: stderr\n    any: warning\ndatabase:\n  \
         storage: \"@root@/knot-@pid@\"\ntemplate:\n  - id: default\n    storage: \"@root@\"\n    \
         journal-content: none\nzone:\n  - domain: test.\n    file: test.zone\n"
    );
    let mut command = configured(world, "knotd", &text, "-c @file@");
    // Its folder has to be there.
    let folder = format!("mkdir -p {}$$; ", world.path("knot-").display());
    command[2].insert_str(0, &folder);
    command
}

/// dnsdist, which answers everything itself.
pub(crate) fn dnsdist(world: &World) -> Vec<String> {
    let file = world.file(
        "dnsdist.conf",
        "setSecurityPollSuffix('')\nsetLocal('127.0.0.1:3000', { reusePort = true })\n\
         addAction(AllRule(), SpoofAction('192.0.2.1'))\n",
    );
    words("dnsdist", &["--supervised", "--disable-syslog", "-C", &file.to_string_lossy()])
}

/// unbound, which asks the server at this address for every name.
pub(crate) fn unbound(world: &World, upstream: &str) -> Vec<String> {
    let text = format!(
        "server:\n  interface: 127.0.0.1@3000\n  do-tcp: no\n  num-threads: 1\n  so-reuseport: no\n  \
         username: \"\"\n  chroot: \"\"\n  directory: \"/\"\n  pidfile: \"\"\n  use-syslog: no\n  \
         module-config: \"iterator\"\n  do-not-query-localhost: no\n  local-zone: \"test.\" nodefault\n  outgoing-range: 4096\n  \
         num-queries-per-thread: 2048\nremote-control:\n  control-enable: no\n\
         forward-zone:\n  name: \".\"\n  forward-addr: {upstream}\n"
    );
    let file = world.file("unbound.conf", &text);
    words("unbound", &["-dp", "-c", &file.to_string_lossy()])
}
