//! Completions for shells: what the command line knows, and the names of services and workers, which the daemon knows.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Result;
use clap::{Command, CommandFactory as _};
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use reuseport_lb_client::api::ServiceStatus;
use reuseport_lb_client::control::ControlClient;

use crate::cli::Cli;
use crate::daemon::Paths;

/// A shell that wants to know how a line may go on names itself in this variable.
pub const COMPLETE: &str = "REUSEPORT_LB_COMPLETE";

/// A daemon that does not answer within this time has no names: somebody has pressed a key, and waits.
const PATIENCE: Duration = Duration::from_secs(1);

type Names = fn() -> Vec<CompletionCandidate>;

/// What may stand where: command, argument, names.
const ARGUMENTS: [(&str, &str, Names); 15] = [
    ("adopt", "service", services),
    ("connect", "worker", workers),
    ("drain", "worker", workers),
    ("events", "what", both),
    ("exec", "service", services),
    ("health", "service", services),
    ("policy", "service", services),
    ("release", "service", services),
    ("restart", "what", both),
    ("scale", "service", services),
    ("status", "what", both),
    ("top", "service", services),
    ("trace", "service", services),
    ("weight", "worker", workers),
    ("exec", "name", workers),
];

/// Prints how the line of a shell may go on, if that is what this process is for; returns whether it is.
pub fn complete(line: impl Iterator<Item = OsString>) -> Result<bool> {
    let directory = std::env::current_dir().ok();
    let asked = CompleteEnv::with_factory(command).var(COMPLETE);
    Ok(asked.try_complete(line, directory.as_deref())?)
}

/// The command line with names. Each argument stays where it is: clap's `mut_arg` would move it behind the others.
fn command() -> Command {
    Cli::command().mut_subcommands(|verb| {
        let of_verb: Vec<_> = ARGUMENTS.into_iter().filter(|row| row.0 == verb.get_name()).collect();
        verb.mut_args(|argument| match of_verb.iter().find(|row| row.1 == argument.get_id().as_str()) {
            Some((_, _, names)) => argument.add(ArgValueCandidates::new(*names)),
            None => argument,
        })
    })
}

fn services() -> Vec<CompletionCandidate> {
    let candidate = |service: ServiceStatus| CompletionCandidate::new(service.name);
    known().into_iter().map(candidate).collect()
}

fn workers() -> Vec<CompletionCandidate> {
    let workers = known().into_iter().flat_map(|service| service.workers);
    let workers = workers.filter(|worker| !worker.successor);
    workers.map(|worker| CompletionCandidate::new(worker.name).help(Some(worker.state.into()))).collect()
}

fn both() -> Vec<CompletionCandidate> {
    services().into_iter().chain(workers()).collect()
}

/// All services; none if there is no daemon, or for somebody whom it does not answer.
fn known() -> Vec<ServiceStatus> {
    let (tell, told) = mpsc::channel();
    let paths = Paths { runtime_dir: runtime_dir(std::env::args_os()), bpffs: PathBuf::new() };
    std::thread::spawn(move || {
        let services = ControlClient::new(paths.control()).status().map(|status| status.services);
        tell.send(services.unwrap_or_default())
    });
    told.recv_timeout(PATIENCE).unwrap_or_default()
}

/// The directory that the line names, which may not be complete yet.
fn runtime_dir(line: impl Iterator<Item = OsString>) -> PathBuf {
    const OPTION: &str = "--runtime-dir";
    let words: Vec<String> = line.map(|word| word.to_string_lossy().into_owned()).collect();
    let apart = words.windows(2).find(|pair| pair[0] == OPTION).map(|pair| pair[1].as_str());
    let joined = || words.iter().find_map(|word| word.strip_prefix(OPTION)?.strip_prefix('='));
    let default = || {
        let option = Cli::command().get_arguments().find(|it| it.get_long() == Some("runtime-dir")).cloned();
        option.and_then(|it| it.get_default_values().first().cloned()).unwrap_or_default()
    };
    apart.or_else(joined).map_or_else(|| default().into(), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_argument_is_there_and_where_it_was() {
        let (with, without) = (command(), Cli::command());
        for (verb, argument, _) in ARGUMENTS {
            let of = |command: &Command| {
                let verb = command.find_subcommand(verb).unwrap();
                verb.get_arguments().map(|it| it.get_id().to_string()).collect::<Vec<_>>()
            };
            assert_eq!(of(&with), of(&without), "{verb}");
            let verb = with.find_subcommand(verb).unwrap();
            let argument = verb.get_arguments().find(|it| it.get_id() == argument).unwrap();
            assert!(argument.get::<ArgValueCandidates>().is_some(), "{argument}");
        }
    }

    #[test]
    fn the_line_may_name_another_daemon() {
        let of = |line: &str| runtime_dir(line.split(' ').map(OsString::from));
        assert_eq!(of("x -- x drain "), PathBuf::from("/run/reuseport-lb"));
        assert_eq!(of("x -- x --runtime-dir /run/other drain "), PathBuf::from("/run/other"));
        assert_eq!(of("x -- x drain --runtime-dir=/run/third "), PathBuf::from("/run/third"));
    }
}
