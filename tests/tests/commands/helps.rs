//! Each example of each `--help`.

use std::fs;
use std::path::Path;

use clap::CommandFactory;
use reuseport_lb::cli::Cli;
use testkit::daemon::{Daemon, until};
use testkit::documents::Document;
use testkit::server;
use testkit::shell::Typed;
use testkit::site::Site;
use testkit::world::{program, repository};

/// What is not run, and why.
const NOT_RUN: &[(&str, &str)] = &[
    ("systemctl reload reuseport-lb", "needs systemd as pid 1"),
    (
        "reuseport-lb adopt web --unit nginx.service --listen tcp://0.0.0.0:80 --listen tcp://[::]:80",
        "needs systemd as pid 1",
    ),
    (
        "reuseport-lb adopt dns --pid 4711 --listen udp://127.0.0.1:53 --listen tcp://127.0.0.1:53",
        "no process can be given that number",
    ),
];

/// The examples of a command and of those below it: lines below `Examples:`, each up to its explanation.
fn examples_of(command: &clap::Command) -> Vec<String> {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let lines =
        help.lines().skip_while(|line| *line != "Examples:").skip(1).take_while(|line| !line.is_empty());
    let examples = lines.map(|line| {
        let line = line.trim_start();
        line.split_once("  ").map_or(line, |(example, _)| example).to_owned()
    });
    let below = command.get_subcommands().filter(|it| !it.is_hide_set()).flat_map(examples_of);
    examples.chain(below).collect()
}

/// Those that are run, of which `which` are asked for, each once.
fn examples(which: impl Fn(&str) -> bool) -> Vec<String> {
    let mut all = examples_of(&Cli::command());
    let mut seen = std::collections::HashSet::new();
    all.retain(|it| {
        seen.insert(it.clone()) && NOT_RUN.iter().all(|(other, _)| it != other) && which(verb(it))
    });
    assert!(!all.is_empty());
    all
}

/// What an example is about: `run`, or the name of another program.
fn verb(example: &str) -> &str {
    let mut words = example.split(' ');
    match words.next() {
        Some("reuseport-lb") => words.next().unwrap_or_default(),
        other => other.unwrap_or_default(),
    }
}

fn command(text: &str) -> Typed {
    Typed { command: text.into(), shown: None }
}

/// The file of services that the examples name.
fn configured(site: &Site) {
    site.write(
        "/etc/reuseport-lb.toml",
        "[[service]]\nname = \"web\"\nlisten = [\"tcp://127.0.0.1:3000\", \"udp://[::]:53\"]\nworkers = 3\n\
         [[service]]\nname = \"media\"\nlisten = [\"udp://127.0.0.1:5004\"]\nworkers = 1\n",
    );
}

fn haproxy_is_configured(site: &Site) {
    let [.., file] = server::haproxy(site.world());
    fs::copy(file, site.home().join("haproxy.cfg")).unwrap();
}

fn nginx_is_configured(site: &Site, listen: &str) {
    let folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let folders = folders.map(|it| format!("{it}_temp_path /run/{it};")).join(" ");
    let text = format!(
        "worker_processes 2; user root; pid /run/nginx.pid; error_log stderr; events {{}}\n\
         http {{ access_log off; {folders} server {{ listen {listen}; return 200 ok; }} }}\n"
    );
    site.write("/etc/nginx/nginx.conf", &text);
}

#[test]
fn what_is_not_run_is_an_example() {
    let all = examples_of(&Cli::command());
    assert!(all.len() > 40, "{all:?}");
    for (example, _) in NOT_RUN {
        assert!(all.iter().any(|it| it == example), "{example}");
    }
}

#[test]
fn of_run_each_starts_a_daemon() {
    let mut site = Site::new();
    configured(&site);
    haproxy_is_configured(&site);
    for example in examples(|verb| verb == "run") {
        println!("{example}");
        site.type_in(&command(&example));
    }
    site.end();
}

#[test]
fn of_exec_each_joins() {
    let mut site = Site::new();
    let text = "[[service]]\nname = \"web\"\nlisten = [\"tcp://127.0.0.1:3000\"]\nworkers = 0\n";
    site.write("/etc/reuseport-lb.toml", text);
    site.type_in(&command("reuseport-lb run --config /etc/reuseport-lb.toml"));
    let _ = site.world().program(&server::binary(), "home/server");
    haproxy_is_configured(&site);
    nginx_is_configured(&site, "127.0.0.1:3000");
    for example in examples(|verb| verb == "exec") {
        println!("{example}");
        let joined = || site.daemon().service().workers.iter().any(|it| it.joined && it.buckets == 65_536);
        site.interrupt(&example, |_| joined());
        until("it to be gone", || site.daemon().service().workers.is_empty().then_some(()));
    }
    site.end();
}

#[test]
fn of_adopt_and_release_in_turn() {
    let mut site = Site::new();
    nginx_is_configured(&site, "80 reuseport");
    site.type_in(&command("reuseport-lb run"));
    site.type_in(&command("nginx -e stderr -g 'daemon off;' &"));
    until("nginx", || Path::new("/run/nginx.pid").exists().then_some(()));
    for example in examples(|verb| ["adopt", "release"].contains(&verb)) {
        println!("{example}");
        site.type_in(&command(&example));
    }
    site.type_in(&command("kill -KILL $!"));
    site.end();
}

/// Waits until services have just the workers that they want.
fn are_whole(daemon: &Daemon) {
    until("workers to have come and gone", || {
        let whole = daemon
            .status()
            .services
            .iter()
            .all(|it| it.ready() == it.wanted && it.workers.len() == it.wanted);
        whole.then_some(())
    });
}

/// Whether it goes on until Ctrl-C.
fn goes_on(example: &str) -> bool {
    let without = |options: &[&str]| options.iter().all(|option| !example.contains(option));
    match verb(example) {
        "trace" => without(&["--count", "--explain"]),
        "events" => without(&["--once"]),
        "health" | "status" => example.contains("--watch"),
        _ => false,
    }
}

#[test]
fn of_all_else_each_succeeds() {
    let mut site = Site::new();
    configured(&site);
    let readme = Document::read("README.md");
    fs::write(site.home().join("web.toml"), &readme.block("[[service]]").text).unwrap();
    let source = repository().join("examples/key");
    let clang = program("clang");
    let compile = format!("{} -O2 -g -target bpfel -c {}/rtp.c -o key.o", clang.display(), source.display());
    site.type_in(&command(&compile));
    let start = command("reuseport-lb run --config /etc/reuseport-lb.toml");
    let other = command(
        "setsid -f reuseport-lb run --runtime-dir /run/other >/dev/null 2>&1; \
         until reuseport-lb status --check --runtime-dir /run/other; do sleep 0.1; done",
    );
    site.type_in(&start);
    site.type_in(&command("while sleep 0.05; do curl -s http://127.0.0.1:3000/; done >/dev/null &"));
    for example in examples(|verb| !["run", "exec", "adopt", "release"].contains(&verb)) {
        println!("{example}");
        if verb(&example) == "stop" {
            site.type_in(if example.contains("/run/other") { &other } else { &start });
        } else {
            // As the file says, whatever the one before has changed: a new worker takes the lowest number that is free.
            are_whole(site.daemon());
            site.type_in(&command("until reuseport-lb reload; do sleep 0.1; done"));
            are_whole(site.daemon());
        }
        if goes_on(&example) {
            site.interrupt(&example, |said| !said.is_empty());
        } else if example.contains("health --weight") {
            // 2, and the whole weight.
            site.type_in(&command(&format!("{example}; [ $? = 102 ]")));
        } else {
            site.type_in(&command(&example));
        }
    }
    // It takes over what the last but one has left.
    site.type_in(&start);
    site.end();
}
