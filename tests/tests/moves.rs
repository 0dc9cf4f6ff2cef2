//! Services are renamed, and listeners go from one service to another, while a daemon runs and while none does.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::net::SocketAddr;

use reuseport_lb_client::api::{ServiceStatus, Status};
use testkit::client::ask;
use testkit::config::Config;
use testkit::daemon::{Daemon, is_alive, settled, until};
use testkit::load::{Ending, Load, Report};
use testkit::world::World;

fn to(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn service(name: &str, ports: &[u16]) -> Config {
    let config = Config::service(name).workers(2).set("drain_timeout", "5s");
    ports.iter().fold(config, |config, port| config.listen(&format!("tcp://127.0.0.1:{port}")))
}

/// Who listens where, of services that are as they should be.
fn listeners(status: &Status) -> Option<Vec<(String, Vec<String>)>> {
    let of = |service: &ServiceStatus| {
        let whole = settled(service) && service.workers.len() == 2;
        let listen = service.groups.iter().map(|group| group.listen.clone()).collect();
        whole.then(|| (service.name.clone(), listen))
    };
    let mut all = status.services.iter().map(of).collect::<Option<Vec<_>>>()?;
    all.sort();
    Some(all)
}

fn wait_for(daemon: &Daemon, wanted: &[(&str, &[u16])]) {
    let listen = |ports: &[u16]| ports.iter().map(|port| format!("tcp://127.0.0.1:{port}")).collect();
    let wanted: Vec<(String, Vec<String>)> =
        wanted.iter().map(|(name, ports)| ((*name).to_owned(), listen(ports))).collect();
    until("the services of the file", || (listeners(&daemon.status())? == wanted).then_some(()));
}

fn nothing_lost(report: &Report) {
    println!("{report}");
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert!(report.ended.iter().all(|ended| ended.how != Ending::Reset), "{:?}", report.ended);
}

/// From one file to the other under load on port 3000: by `reload`, and by another daemon.
fn change(first: &Config, second: &Config, after: &[(&str, &[u16])]) {
    for without_daemon in [false, true] {
        let world = World::new();
        let mut daemon = Daemon::with(&world, first);
        let old = daemon.workers();
        let load = Load::to(to(3000)).clients(8).kept(20).start();
        if without_daemon {
            daemon.kill();
            daemon = Daemon::with(&world, second);
        } else {
            second.write(&world);
            daemon.run(&["reload"]);
        }
        wait_for(&daemon, after);
        nothing_lost(&load.end());
        for (name, ports) in after {
            for port in *ports {
                let answer = ask(to(*port)).unwrap();
                assert!(answer.worker.starts_with(&format!("{name}/")), "{port}: {answer:?}");
            }
        }
        let status = daemon.status();
        let groups = || status.services.iter().flat_map(|service| &service.groups);
        assert!(groups().all(|group| group.strangers == Some(0) && group.decided_by.is_none()), "{status:?}");
        if after.len() == 1 {
            until("the old workers to be gone", || (!old.iter().any(|pid| is_alive(*pid))).then_some(()));
        }
        daemon.stop();
    }
}

#[test]
fn a_service_that_is_renamed_serves_all_the_time() {
    change(&service("web", &[3000, 3001]), &service("site", &[3000, 3001]), &[("site", &[3000, 3001])]);
}

#[test]
fn a_listener_goes_to_another_service_in_one_step() {
    let first = service("web", &[3000, 3001]).and(service("api", &[3002]));
    let second = service("web", &[3001]).and(service("api", &[3002, 3000]));
    change(&first, &second, &[("api", &[3002, 3000]), ("web", &[3001])]);
}

#[test]
fn two_services_swap_their_listeners() {
    let first = service("web", &[3000]).and(service("api", &[3002]));
    let second = service("web", &[3002]).and(service("api", &[3000]));
    change(&first, &second, &[("api", &[3000]), ("web", &[3002])]);
}

#[test]
fn a_listener_goes_to_a_new_service_and_a_service_ends() {
    let first = service("web", &[3000, 3001]).and(service("api", &[3002]));
    let second = service("new", &[3000]).and(service("web", &[3001, 3002]));
    change(&first, &second, &[("new", &[3000]), ("web", &[3001, 3002])]);
}
