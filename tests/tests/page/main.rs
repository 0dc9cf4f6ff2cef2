//! The page at `/`, in a real browser: what it shows, and that everybody can read it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod browser;

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use testkit::client::{ask, http};
use testkit::config::Config;
use testkit::daemon::{Daemon, signal, throughout, until, until_within};
use testkit::patience::slow;
use testkit::world::{World, target};

use browser::Browser;

const AT: &str = "127.0.0.1:9465";
const PAGE: &str = "http://127.0.0.1:9465/";

/// Where the pictures of the page go, which docs/page has a copy of.
fn pictures() -> PathBuf {
    let folder = target().join("page");
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn to() -> SocketAddr {
    "127.0.0.1:3000".parse().unwrap()
}

fn served(world: &World) -> Daemon {
    let web = Config::web().workers(4).set("stall_timeout", "300ms").set("on_crash", "migrate");
    Daemon::with(world, &web.http(AT, ""))
}

#[test]
fn the_page_shows_what_happens_to_a_worker_within_two_seconds() {
    let world = World::new();
    let daemon = served(&world);
    let browser = Browser::open(&world, PAGE, (1200, 900));
    let state = "return document.querySelector('tbody tr:nth-child(2) .state').textContent";
    until("the page to be live", || {
        browser
            .text("return document.getElementById('connection').textContent")
            .starts_with("live")
            .then_some(())
    });
    // One that was not seen to accept for a moment is loading.
    throughout(Duration::from_millis(1500), || drop(ask(to()).unwrap()));
    until("rates", || {
        browser
            .text("return document.querySelector('.summary').textContent")
            .contains("4 ready of 4")
            .then_some(())
    });
    until("buckets", || {
        (browser.value("return document.querySelector('.buckets').hidden") == false).then_some(())
    });
    assert_eq!(browser.text(state), "ready");
    fs::write(pictures().join("before.png"), browser.picture()).unwrap();

    signal(daemon.workers()[1], Signal::SIGSTOP);
    let mut waiting = Vec::new();
    until("the daemon to see it", || {
        waiting.push(TcpStream::connect(to()).unwrap());
        (daemon.service().workers[1].state == "stalled").then_some(())
    });
    until_within(Duration::from_secs(2) * slow(), "the page to show a stalled worker", || {
        (browser.text(state).starts_with("stalled")).then_some(())
    });
    let killed = daemon.workers()[1];
    signal(killed, Signal::SIGKILL);
    let told =
        "return [...document.querySelectorAll('#events li')].map(line => line.textContent).join('\\n')";
    until_within(Duration::from_secs(2) * slow(), "the page to tell of its end", || {
        let told = browser.text(told);
        (told.contains("web/1: ended") && told.contains("was killed by SIGKILL")).then_some(())
    });
    fs::write(pictures().join("after.png"), browser.picture()).unwrap();
    until("another process", || {
        let pid = browser
            .text("return document.querySelector('tbody tr:nth-child(2) td:nth-child(3)').textContent");
        (pid != killed.to_string() && browser.text(state) == "ready").then_some(())
    });
    daemon.run(&["scale", "web", "2"]);
    until("two rows less", || {
        (browser.value("return document.querySelectorAll('tbody tr').length") == 2).then_some(())
    });

    // Nothing comes from elsewhere, and nothing failed.
    let fetched = browser.value("return performance.getEntriesByType('resource').map(entry => entry.name)");
    let fetched: Vec<&str> = fetched.as_array().unwrap().iter().filter_map(|it| it.as_str()).collect();
    assert!(fetched.len() >= 4 && fetched.iter().all(|it| it.starts_with(PAGE)), "{fetched:?}");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn the_page_is_for_everybody() {
    let world = World::new();
    let daemon = served(&world);
    // One that was not seen to accept for a moment is loading.
    throughout(Duration::from_millis(1500), || drop(ask(to()).unwrap()));
    signal(daemon.workers()[0], Signal::SIGSTOP);
    let mut waiting = Vec::new();
    until("a worker to stall", || {
        waiting.push(TcpStream::connect(to()).unwrap());
        (daemon.service().workers[0].state == "stalled").then_some(())
    });
    for (name, size, scheme) in
        [("wide", (1200, 900), "light"), ("dark", (1200, 900), "dark"), ("phone", (390, 840), "dark")]
    {
        let browser = Browser::open(&world, PAGE, size);
        browser.prefer(scheme);
        until("the page to show a stalled worker", || {
            browser
                .text("return document.querySelector('.state').textContent")
                .starts_with("stalled")
                .then_some(())
        });
        until("events", || {
            (browser.value("return document.querySelectorAll('#events li').length > 3") == true).then_some(())
        });
        let faults = browser.value(include_str!("readable.js"));
        assert_eq!(faults.to_string(), "[]", "{name}");
        fs::write(pictures().join(format!("{name}.png")), browser.picture()).unwrap();
    }
    signal(daemon.workers()[0], Signal::SIGCONT);
}

#[test]
fn the_table_needs_no_script() {
    let world = World::new();
    let daemon = served(&world);
    let answer = http(TcpStream::connect(AT).unwrap(), "GET", "/").unwrap();
    assert!(answer.head.contains("content-security-policy: default-src 'self'\r\n"), "{}", answer.head);
    for (worker, pid) in (0..).zip(daemon.workers()) {
        let row = format!(
            "<th scope=\"row\">web/{worker}</th><td class=\"state\" data-state=\"ready\">ready</td><td>{pid}</td><td>25.0 %</td>"
        );
        assert!(answer.body.contains(&row), "{row} is not in {}", answer.body);
    }
    assert!(!answer.body.contains("style=") && !answer.body.contains("<script>"), "the policy forbids both");
}
