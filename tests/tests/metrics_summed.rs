//! `metrics = { per_listener = false }`: series of listeners are sums over those of a service.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};

use testkit::client::{ask, http};
use testkit::config::Config;
use testkit::daemon::{Daemon, settled, until};
use testkit::world::World;

const AT: &str = "127.0.0.1:9465";

/// Values by series, but for those that change by themselves or with a reload.
fn series() -> BTreeMap<String, f64> {
    let answer = http(TcpStream::connect(AT).unwrap(), "GET", "/metrics").unwrap();
    assert_eq!(answer.status, 200);
    let lines = answer.body.lines().filter(|line| !line.starts_with('#'));
    let all = lines.map(|line| line.rsplit_once(' ').unwrap());
    let moves = ["longest_step", "last_reload", "start_time", "cpu_seconds", "resident_bytes"];
    all.filter(|(name, _)| !moves.iter().any(|it| name.contains(it)))
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

/// These series without their label `listener`, and their sums.
fn summed(series: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for (name, value) in series {
        let name = match name.split_once("listener=\"") {
            Some((before, rest)) => {
                let rest = rest.split_once('"').unwrap().1;
                (before.to_owned() + rest.trim_start_matches(',')).replace(",}", "}")
            }
            None => name.clone(),
        };
        *sums.entry(name).or_default() += value;
    }
    sums
}

#[test]
fn sums_over_listeners_are_those_of_the_series_of_each() {
    let world = World::new();
    let config = Config::web().listen("tcp://127.0.0.1:3001").listen("udp://127.0.0.1:3000").workers(2);
    let api = || Config::service("api").listen("tcp://127.0.0.1:3002").workers(1);
    let with = |more: &str| config.clone().and(api()).http(AT, more);
    let daemon = Daemon::with(&world, &with(""));
    until("all to be ready", || daemon.status().services.iter().all(settled).then_some(()));
    let to = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    for (port, times) in [(3000, 7), (3001, 5), (3002, 3)] {
        (0..times).for_each(|_| drop(ask(to(port)).unwrap()));
    }
    let each = until("what was asked to be counted", || {
        let series = series();
        let selected: f64 =
            series.iter().filter(|(name, _)| name.contains("selected_total")).map(|(_, value)| value).sum();
        (selected == 15.0).then_some(series)
    });
    assert!(each.keys().any(|name| name.contains("listener=\"tcp://127.0.0.1:3001\"")), "{each:?}");

    with("metrics = { per_listener = false }").write(&world);
    daemon.run(&["reload"]);
    let sums = series();
    assert!(!sums.keys().any(|name| name.contains("listener")), "{sums:?}");
    let wanted = summed(&each);
    let wrong: Vec<_> = sums.iter().filter(|(name, value)| wanted.get(*name) != Some(value)).collect();
    assert!(wrong.is_empty() && sums.len() == wanted.len(), "{wrong:?}");
    let web: f64 = ["web/0", "web/1"]
        .iter()
        .map(|worker| sums[&format!("reuseport_lb_selected_total{{service=\"web\",worker=\"{worker}\"}}")])
        .sum();
    assert_eq!((web, sums.len() < each.len()), (12.0, true));

    with("").write(&world);
    daemon.run(&["reload"]);
    assert_eq!(series(), each, "and back");
    daemon.stop();
}
