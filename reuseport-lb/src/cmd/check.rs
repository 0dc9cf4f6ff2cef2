//! `check`: is this configuration file right, and what does it mean?

use anyhow::Result;
use serde_json::json;

use crate::cli;
use crate::config::{self, Invalid};
use crate::service::find_command;

pub(super) fn run(arguments: &cli::Check) -> Result<()> {
    let services = config::read(&arguments.file)?;
    for service in &services {
        find_command(service).map_err(Invalid)?;
    }
    let described = services.iter().map(|service| {
        json!({
            "name": service.name,
            "listen": service.listen.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "workers": service.workers,
            "affinity": service.affinity.to_string(),
            "command": service.command,
        })
    });
    if arguments.json {
        return super::print(
            &(serde_json::to_string_pretty(&json!({ "services": described.collect::<Vec<_>>() }))? + "\n"),
        );
    }
    let mut text = format!("{} is valid\n", arguments.file.display());
    for service in &services {
        let command =
            if service.command.is_empty() { "the embedded worker".into() } else { service.command.join(" ") };
        text += &format!(
            "  service {}: {} x {command}, affinity {}\n",
            service.name, service.workers, service.affinity
        );
        for listener in &service.listen {
            text += &format!("    {listener}\n");
        }
    }
    super::print(&text)
}
