//! examples/machines/kubernetes: the manifest is one by the API's own schemas, and its configuration and probes do what it
//! says, as kubelet would ask, with the real daemon.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use testkit::client::{Connection, ask, http};
use testkit::daemon::{Daemon, Paths, is_alive, signal, until};
use testkit::world::{World, program, repository};

/// The newest that is known, and the oldest in which DaemonSets are as they are now.
const VERSIONS: [&str; 2] = ["1.25.0", "1.37.0"];

fn manifest() -> PathBuf {
    repository().join("examples/machines/kubernetes/daemonset.yaml")
}

fn validate(manifest: &Path, version: &str) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes/validate.py");
    Command::new(program("python3-with-wheels")).arg(script).arg(manifest).arg(version).output().unwrap()
}

/// The manifest's objects: its configuration, and the DaemonSet.
fn objects() -> [Value; 2] {
    let said = validate(&manifest(), VERSIONS[1]);
    assert!(said.status.success(), "{said:?}");
    serde_json::from_slice::<Vec<Value>>(&said.stdout).unwrap().try_into().unwrap()
}

#[test]
fn the_manifest_is_valid_and_a_misspelled_one_is_not() {
    let world = World::new();
    for version in VERSIONS {
        let said = validate(&manifest(), version);
        assert!(said.status.success(), "{version}: {}", String::from_utf8_lossy(&said.stderr));
        let wrong = world.path("wrong.yaml");
        fs::write(&wrong, fs::read_to_string(manifest()).unwrap().replace("periodSeconds", "periodSecond"))
            .unwrap();
        let said = validate(&wrong, version);
        let why = String::from_utf8_lossy(&said.stderr);
        assert!(!said.status.success() && why.contains("'periodSecond' was unexpected"), "{version}: {why}");
    }
}

/// Asks as kubelet does: it counts as passed from 200 to 399.
fn passes(container: &Value, probe: &str) -> bool {
    let get = &container[probe]["httpGet"];
    let to = format!("{}:{}", get["host"].as_str().unwrap(), get["port"]);
    let Ok(stream) = TcpStream::connect(to.parse::<SocketAddr>().unwrap()) else { return false };
    let answer = http(stream, "GET", get["path"].as_str().unwrap());
    answer.is_ok_and(|answer| (200..400).contains(&answer.status))
}

#[test]
fn its_probes_say_when_traffic_is_welcome_and_a_pod_ends_in_order() {
    let world = World::new();
    let [map, set] = objects();
    let pod = &set["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    // The configuration as the container finds it.
    let arguments: Vec<&str> =
        container["args"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    let [verb, "--config", file] = arguments[..] else { panic!("{arguments:?}") };
    let mounted = &container["volumeMounts"][0]["mountPath"];
    assert_eq!(Path::new(file).parent(), mounted.as_str().map(Path::new));
    let name = Path::new(file).file_name().unwrap().to_str().unwrap();
    let written = map["data"][name].as_str().unwrap();
    assert_eq!(pod["volumes"][0]["configMap"]["name"], map["metadata"]["name"]);
    let config = world.path(name);
    // The same, only sooner over.
    assert!(written.contains("lame_duck = \"10s\""));
    fs::write(&config, written.replace("lame_duck = \"10s\"", "lame_duck = \"2s\"")).unwrap();

    assert!(!passes(container, "startupProbe"), "nothing runs yet");
    let paths = Paths::of(&world);
    let daemon = Daemon::start_as(&world, paths.command(&[verb, "--config", config.to_str().unwrap()]));
    until("the startup probe", || passes(container, "startupProbe").then_some(()));
    assert!(passes(container, "readinessProbe") && passes(container, "livenessProbe"));
    let port = container["ports"][0]["hostPort"].as_u64().unwrap() as u16;
    let to = SocketAddr::from(([127, 0, 0, 1], port));
    let mut open = Connection::open(to, None).unwrap();
    open.ask().unwrap();

    // Nobody new is sent here from the first moment on, and whoever comes all the same is served.
    let begun = Instant::now();
    signal(daemon.pid(), Signal::SIGTERM);
    until("the readiness probe to fail", || (!passes(container, "readinessProbe")).then_some(()));
    assert!(passes(container, "livenessProbe"), "kubelet would kill what ends in order");
    ask(to).unwrap();
    open.ask().unwrap();
    drop(open);
    until("the daemon to end", || (!is_alive(daemon.pid())).then_some(()));
    daemon.says("stopped");
    assert_eq!(paths.leftovers(), Vec::<PathBuf>::new());
    let grace = Duration::from_secs(pod["terminationGracePeriodSeconds"].as_u64().unwrap());
    assert!(begun.elapsed() < grace, "{:?}", begun.elapsed());
}
