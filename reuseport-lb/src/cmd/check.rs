//! `check`: whether a configuration file is valid, and what it means.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::print::{print, print_json};
use crate::cli;
use crate::config::process::{EnvFile, LogFile, LogTo, ProcessConfig};
use crate::config::{self, Flows, Invalid, Machine, Overload, ServiceConfig, SocketOwner, WhenBusy};
use crate::daemon::{HERE, startable};
use crate::printable::{self, inline};

pub(super) fn run(arguments: &cli::CheckArgs) -> Result<()> {
    let services = match arguments.offline {
        true => config::read(&arguments.file, Machine::ANOTHER)?,
        false => config::read(&arguments.file, HERE)?,
    };
    if !arguments.offline {
        services
            .iter()
            .try_for_each(startable::require_command)
            .map_err(|error| Invalid(inline(&error).into()))?;
    }
    let warnings = config::warnings(&services);
    if arguments.json {
        let described: Vec<_> = services.iter().map(as_json).collect();
        let all = json!({ "services": described, "warnings": warnings });
        return print_json(&serde_json::to_string_pretty(&all)?);
    }
    let described: String = services.iter().map(as_text).collect();
    let warned: String = warnings.iter().map(|line| format!("warning: {line}\n")).collect();
    print(&format!("{} is valid\n{described}{warned}", printable::path(&arguments.file)))
}

fn as_json(service: &ServiceConfig) -> serde_json::Value {
    json!({
        "name": service.name,
        "listen": service.listen,
        "workers": service.workers,
        "affinity": service.affinity,
        "when_busy": service.when_busy,
        "flows": service.flows,
        "command": service.command,
        "user": service.user,
        "group": service.process.group,
        "socket_owner": service.socket_owner,
        "join": service.join,
        "env": service.process.env,
        "env_file": service.process.env_file.as_ref().map(|file| &file.path),
        "env_file_variables": names(service.process.env_file.as_ref()),
        "cwd": service.process.cwd,
        "umask": service.process.umask.map(umask),
        "nice": service.process.nice,
        "open_files": service.process.open_files,
        "cpus": service.process.cpus,
        "log": log(&service.process.log),
        "ready": service.ready,
        "start_timeout": time(Some(service.start_timeout)),
        "stall_timeout": time(service.stall_timeout),
        "on_stall": service.on_stall,
        "replace": service.replace,
        "overload": service.overload.map_or_else(|| json!("off"), |overload| json!(overload)),
        "watchdog": time(service.watchdog),
        "drain_timeout": time(Some(service.drain_timeout)),
        "stop_signal": service.stop.signal,
        "stop_mode": service.stop.mode,
        "lame_duck": time(Some(service.lame_duck)),
        "idle_timeout": time(Some(service.idle_timeout)),
    })
}

fn as_text(service: &ServiceConfig) -> String {
    let workers = match (service.workers, service.command.is_empty()) {
        (0, true) => "workers come by themselves (`reuseport-lb exec`)".into(),
        (workers, true) => format!("{workers} x the embedded worker"),
        (workers, false) => format!("{workers} x {}", inline(&service.command.join(" "))),
    };
    let mut text = format!("  service {}: {workers}, affinity {}", service.name, service.affinity);
    if service.when_busy == WhenBusy::Next {
        text += ", connections go to workers that wait for work";
    }
    if service.flows == Flows::None {
        text += ", UDP flows are not tracked";
    }
    text += "\n";
    for it in &service.listen {
        text += &format!("    {}{}\n", it.listener, it.options());
    }
    if service.socket_owner == SocketOwner::User {
        text += &format!("    sockets belong to {}\n", service.user.as_deref().unwrap_or_default());
    }
    if let Some(join) = &service.join {
        let users: Vec<&str> = ["root"].into_iter().chain(join.iter().map(String::as_str)).collect();
        text += &format!("    may join: {}\n", inline(&users.join(", ")));
    }
    if !service.command.is_empty() {
        text += &process(service);
    }
    if !service.command.is_empty() || service.embedded {
        text += &match &service.process.log {
            LogTo::Inherit => "    log inherit\n".into(),
            LogTo::File(LogFile { path, max, keep }) => {
                format!("    log {}, max {}, keep {keep}\n", inline(path), config::size(*max))
            }
        };
    }
    let overload = service.overload.as_ref().map_or_else(|| "off".into(), Overload::to_string);
    text += &format!(
        "    ready {}, start_timeout {}, stall_timeout {}, on_stall {}\n    overload {overload}, watchdog {}, \
         idle_timeout {}\n    drain_timeout {}, stop_signal {}, stop_mode {}, replace {}, lame_duck {}\n",
        service.ready,
        time(Some(service.start_timeout)),
        time(service.stall_timeout),
        service.on_stall,
        time(service.watchdog),
        time(Some(service.idle_timeout)),
        time(Some(service.drain_timeout)),
        service.stop.signal,
        service.stop.mode,
        service.replace,
        time(Some(service.lame_duck))
    );
    text
}

/// What workers of a command are started with.
fn process(service: &ServiceConfig) -> String {
    let daemons = || "the daemon's".to_owned();
    let ProcessConfig { env, env_file, cwd, umask: mask, nice, open_files, cpus, group, log: _ } =
        &service.process;
    let user = service.user.clone().unwrap_or_else(daemons);
    let group = match (group, &service.user) {
        (Some(group), _) => group.clone(),
        (None, Some(_)) => "the user's".into(),
        (None, None) => daemons(),
    };
    let mut text =
        format!("    user {user}, group {group}, cwd {}\n", cwd.as_deref().unwrap_or("the daemon's"));
    text += &format!(
        "    umask {}, nice {}, open_files {}, cpus {cpus}\n",
        mask.map_or_else(daemons, umask),
        nice.map_or_else(daemons, |nice| nice.to_string()),
        open_files.map_or_else(daemons, |files| files.to_string()),
    );
    if let Some(file) = env_file {
        let names = names(Some(file)).join(", ");
        text += &format!("    env_file {}: {names}\n", file.path.display());
    }
    for (name, value) in env {
        text += &format!("    env {name}={value}\n");
    }
    text.lines().map(|line| format!("{}\n", inline(line))).collect()
}

fn log(log: &LogTo) -> serde_json::Value {
    match log {
        LogTo::Inherit => json!("inherit"),
        LogTo::File(LogFile { path, max, keep }) => {
            json!({ "file": path, "max": config::size(*max), "keep": keep })
        }
    }
}

/// The names alone: values in a file may be secrets.
fn names(file: Option<&EnvFile>) -> Vec<&str> {
    file.iter().flat_map(|file| file.variables.keys()).map(String::as_str).collect()
}

fn umask(mask: u32) -> String {
    format!("{mask:03o}")
}

fn time(time: Option<Duration>) -> String {
    time.map_or_else(|| "off".into(), |time| humantime::format_duration(time).to_string())
}
