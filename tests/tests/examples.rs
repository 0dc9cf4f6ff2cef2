//! Examples of the documents, as they stand there.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use testkit::config::Config;
use testkit::daemon::{Daemon, Paths, binary, until};
use testkit::documents::Document;
use testkit::world::World;

#[test]
fn the_server_of_the_readme_serves() {
    let world = World::new();
    let at = world.path("bin");
    fs::create_dir(&at).unwrap();
    let own = Paths::of(&world).command(&[]);
    let own: Vec<&str> = own.get_args().map(|it| it.to_str().unwrap()).collect();
    let wrapper = format!("#!/bin/sh\nexec {} {} \"$@\"\n", binary().display(), own.join(" "));
    let path = at.join("reuseport-lb");
    fs::write(&path, wrapper).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec {}", Document::read("README.md").block("http.server 8080").text)]);
    command.env("PATH", format!("{}:{}", at.display(), std::env::var("PATH").unwrap()));
    let daemon = Daemon::start_as(&world, command);
    assert_eq!(daemon.workers().len(), 2);
    let mut stream = TcpStream::connect("127.0.0.1:8080").unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 OK") && answer.contains("Directory listing"), "{answer}");
    daemon.stop();
}

#[test]
fn the_python_of_the_page_on_joining_joins() {
    let world = World::new();
    let daemon = Daemon::with(&world, &Config::web().workers(0));
    let document = Document::read("docs/JOIN.md");
    let program = document
        .block("recv_fds")
        .text
        .replace("/run/reuseport-lb", &world.path("run").display().to_string());
    let program = format!("{program}\nlisteners[0].accept()\n");
    let mut joined = Command::new("python3").args(["-c", &program]).spawn().unwrap();
    let worker = until("it to be ready", || {
        daemon.service().workers.pop().filter(|worker| worker.state == "ready" && worker.buckets == 65_536)
    });
    assert_eq!((worker.joined, worker.pid), (true, i32::try_from(joined.id()).ok()));
    TcpStream::connect("127.0.0.1:3000").unwrap();
    assert!(joined.wait().unwrap().success(), "it accepts");
    until("it to be gone", || daemon.service().workers.is_empty().then_some(()));
    daemon.stop();
}
