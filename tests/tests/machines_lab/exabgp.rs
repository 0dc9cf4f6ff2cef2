//! exabgp in place of a host's BIRD, with the file as it stands: what the router's BIRD learns of it.

use std::path::Path;
use std::process::Command;

use testkit::config::Config;
use testkit::daemon::{Daemon, until};
use testkit::network::Node;
use testkit::world::{program, repository};

use crate::lab::{bird, put_on_path, start};

#[test]
fn exabgp_announces_a_host_that_is_up_and_says_when_it_leaves() {
    let [router, host] = [Node::new(), Node::new()];
    host.wire("eth0", &router, "host1");
    router.ip("address add 10.0.0.1/24 dev host1");
    host.ip("address add 10.0.0.11/24 dev eth0");
    let _bird = bird(&router, "router.conf");
    let config = Config::service("web").listen("tcp://0.0.0.0:3000").workers(2);
    let daemon = host.inside(|| Daemon::with(host.world(), &config));
    put_on_path(&host);
    let file = repository().join("examples/machines/exabgp/exabgp.conf");
    let mut exabgp = Command::new(program("exabgp"));
    let _exabgp =
        start(&host, "exabgp.log", exabgp.arg("server").arg(file).env("exabgp_daemon_user", "root"));

    until("BIRD", || router.inside(|| Path::new("/run/bird/bird.ctl").exists()).then_some(()));
    // Whether the route is there, and whether it is about to leave.
    let learns = |what: &str, wanted: (bool, bool)| {
        until(&format!("the router to learn that the host is {what}"), || {
            let said = router.run("birdc show route all");
            ((said.contains("10.9.9.9/32"), said.contains("(65535,0)")) == wanted).then_some(())
        });
    };
    learns("up", (true, false));
    for (change, what, wanted) in [
        (&["host", "drain"][..], "drained", (true, true)),
        (&["host", "undrain"], "up again", (true, false)),
        (&["scale", "web", "0"], "down", (false, false)),
        (&["scale", "web", "2"], "up at last", (true, false)),
    ] {
        daemon.run(change);
        learns(what, wanted);
    }
    host.inside(|| daemon.stop());
}
