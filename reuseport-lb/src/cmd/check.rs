//! `check`: whether a configuration file is valid, and what it means.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::print::{print, print_json};
use crate::cli;
use crate::config::{self, Flows, Invalid, Overload, ServiceConfig, WhenBusy};
use crate::daemon::startable;
use crate::kernel::host;
use crate::printable::{self, inline};

pub(super) fn run(arguments: &cli::CheckArgs) -> Result<()> {
    let services = match arguments.offline {
        true => config::read(&arguments.file, config::any_user)?,
        false => config::read(&arguments.file, host::find_user)?,
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
        "ready": service.ready,
        "start_timeout": time(Some(service.start_timeout)),
        "stall_timeout": time(service.stall_timeout),
        "on_stall": service.on_stall,
        "overload": service.overload.map_or_else(|| json!("off"), |overload| json!(overload)),
        "watchdog": time(service.watchdog),
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
    for listener in &service.listen {
        text += &format!("    {listener}\n");
    }
    let overload = service.overload.as_ref().map_or_else(|| "off".into(), Overload::to_string);
    text += &format!(
        "    ready {}, start_timeout {}, stall_timeout {}, on_stall {}\n    overload {overload}, watchdog {}, \
         idle_timeout {}\n",
        service.ready,
        time(Some(service.start_timeout)),
        time(service.stall_timeout),
        service.on_stall,
        time(service.watchdog),
        time(Some(service.idle_timeout))
    );
    text
}

fn time(time: Option<Duration>) -> String {
    time.map_or_else(|| "off".into(), |time| humantime::format_duration(time).to_string())
}
