//! `health`: says whether new traffic should be sent to this machine, for those who decide about that. Not: the judgement
//! (`domain/judgement.rs`).

use std::io;
use std::process::exit;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use reuseport_lb_client::api::HostHealth;
use reuseport_lb_client::control::{ControlClient, ControlError};

use super::client::client;
use super::names;
use super::print::{Reported, print, print_object};
use crate::cli;
use crate::daemon::{Paths, leaves_services};
use crate::printable::inline;

/// Time between two looks of `--watch`.
const LOOK: Duration = Duration::from_millis(250);

/// Added to the weight to make an exit code of it, as MISC_CHECK of keepalived takes it with misc_dynamic: 0 and 1 mean
/// something else (keepalived.conf(5)).
const WEIGHT_FROM: i32 = 2;

pub(super) fn run(arguments: &cli::HealthArgs, paths: &Paths) -> Result<()> {
    let service = arguments.service.as_deref().map(|name| names::service(name, "health")).transpose()?;
    let client = client(paths);
    if arguments.watch {
        return watch(arguments, service, &client, paths);
    }
    let health = client.health(service)?;
    if arguments.weight {
        print(&format!("{}\n", health.weight))?;
        exit(exit_code(&health));
    }
    if arguments.json {
        print_object(&health)?;
    }
    match (is_up(&health), arguments.json) {
        (true, true) => Ok(()),
        (true, false) => print(&format!("{}\n", line(&health))),
        (false, true) => bail!(Reported(line(&health))),
        (false, false) => bail!("{}", line(&health)),
    }
}

/// A judgement in words, with its weight or its reasons.
pub(super) fn line(health: &HostHealth) -> String {
    match is_up(health) {
        true => format!("{}, weight {}", health.state, health.weight),
        false => format!("{}: {}", inline(&health.state), inline(&health.reasons.join("; "))),
    }
}

fn is_up(health: &HostHealth) -> bool {
    health.state == "up"
}

/// The exit code of `--weight`.
fn exit_code(health: &HostHealth) -> i32 {
    if health.state == "down" { 1 } else { WEIGHT_FROM + health.weight as i32 }
}

/// Prints each change, without end.
fn watch(
    arguments: &cli::HealthArgs,
    service: Option<&str>,
    client: &ControlClient,
    paths: &Paths,
) -> Result<()> {
    if !arguments.exabgp.is_empty() {
        // exabgp answers each line; what nobody reads would hold it up.
        thread::spawn(|| io::copy(&mut io::stdin(), &mut io::sink()));
    }
    let mut watched = Watched { hold: arguments.hold, heard: None };
    let mut said = None;
    loop {
        let left = || leaves_services(&paths.runtime_dir);
        let health = watched.look(client.health(service), Instant::now(), left)?;
        if said.as_ref() != Some(&health) {
            say(arguments, said.as_ref(), &health)?;
            said = Some(health);
        }
        sleep(LOOK);
    }
}

fn say(arguments: &cli::HealthArgs, before: Option<&HostHealth>, health: &HostHealth) -> Result<()> {
    if arguments.json {
        return print_object(health);
    }
    if arguments.exabgp.is_empty() {
        return print(&format!("{}\n", line(health)));
    }
    let now = route(health, arguments.graceful);
    if before.map(|before| route(before, arguments.graceful)) == Some(now) {
        return Ok(());
    }
    let (verb, attributes) = now;
    let line = |prefix: &String| format!("{verb} route {prefix} next-hop self{attributes}\n");
    print(&arguments.exabgp.iter().map(line).collect::<String>())
}

/// What exabgp is told to do with a route, and the route's attributes. `graceful`: a drained machine announces
/// GRACEFUL_SHUTDOWN (RFC 8326).
fn route(health: &HostHealth, graceful: bool) -> (&'static str, &'static str) {
    match &*health.state {
        "up" => ("announce", ""),
        "drained" if graceful => ("announce", " community [65535:0]"),
        _ => ("withdraw", ""),
    }
}

/// What is known of a daemon, also while it is away.
struct Watched {
    hold: Duration,
    /// The last answer, and when it came.
    heard: Option<(HostHealth, Instant)>,
}

impl Watched {
    /// What is to be said after this answer; `left`: whether a daemon that is away has left services, whose workers serve on.
    /// Fails if asking again is of no use.
    fn look(
        &mut self,
        answer: Result<HostHealth, ControlError>,
        now: Instant,
        left: impl FnOnce() -> bool,
    ) -> Result<HostHealth> {
        match answer {
            Ok(health) => {
                self.heard = Some((health.clone(), now));
                Ok(health)
            }
            Err(error @ ControlError::NotPermitted { .. }) => bail!(error),
            // A service may be new in a file that is still to be read.
            Err(ControlError::Refused(refusal)) => Ok(down(refusal.to_string())),
            Err(error) => match &self.heard {
                Some((health, heard)) if now.duration_since(*heard) < self.hold && left() => {
                    Ok(health.clone())
                }
                _ => Ok(down(error.to_string())),
            },
        }
    }
}

fn down(why: String) -> HostHealth {
    HostHealth { state: "down".into(), weight: 0, reasons: vec![why] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(state: &str, weight: u32, reasons: &[&str]) -> HostHealth {
        let reasons = reasons.iter().map(|it| (*it).to_owned()).collect();
        HostHealth { state: state.into(), weight, reasons }
    }

    #[test]
    fn a_judgement_in_words_and_as_an_exit_code() {
        for (health, words, code) in [
            (health("up", 100, &[]), "up, weight 100", 102),
            (health("up", 1, &[]), "up, weight 1", 3),
            (
                health("drained", 0, &["the host is drained", "web is ending"]),
                "drained: the host is drained; web is ending",
                2,
            ),
            (
                health("down", 0, &["web has no worker that is ready"]),
                "down: web has no worker that is ready",
                1,
            ),
        ] {
            assert_eq!((line(&health).as_str(), exit_code(&health)), (words, code));
        }
    }

    #[test]
    fn a_route_by_judgement() {
        for (state, graceful, wanted) in [
            ("up", false, ("announce", "")),
            ("up", true, ("announce", "")),
            ("drained", false, ("withdraw", "")),
            ("drained", true, ("announce", " community [65535:0]")),
            ("down", true, ("withdraw", "")),
        ] {
            assert_eq!(route(&health(state, 0, &[]), graceful), wanted, "{state} {graceful}");
        }
    }

    #[test]
    fn a_daemon_that_is_away_leaves_what_was_said_for_a_while() {
        let gone = || Err(ControlError::Gone(io::ErrorKind::UnexpectedEof.into()));
        let (begun, up) = (Instant::now(), health("up", 50, &[]));
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut watched = Watched { hold: Duration::from_secs(60), heard: None };
        assert_eq!(watched.look(gone(), begun, || true).unwrap().state, "down", "nothing was ever heard");
        assert_eq!(watched.look(Ok(up.clone()), at(1), || true).unwrap(), up);
        assert_eq!(watched.look(gone(), at(60), || true).unwrap(), up);
        assert_eq!(
            watched.look(gone(), at(61), || true).unwrap(),
            health("down", 0, &["the daemon went away"])
        );
        assert_eq!(watched.look(Ok(up.clone()), at(70), || true).unwrap(), up);
        assert_eq!(watched.look(gone(), at(71), || false).unwrap().state, "down", "it has ended in order");
    }
}
