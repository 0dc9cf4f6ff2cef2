//! `check`: whether a configuration file is valid, and what it means.

use anyhow::Result;
use serde_json::json;

use super::print::{print, print_json};
use crate::cli;
use crate::config::{self, Configuration, Invalid, Machine, ServiceConfig, settings};
use crate::daemon::{HERE, startable};
use crate::printable::{self, inline};

pub(super) fn run(arguments: &cli::CheckArgs) -> Result<()> {
    let Configuration { services, answers, log_format } = match arguments.offline {
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
        let http = answers.http.map(|address| address.to_string());
        let metrics = json!({ "per_listener": answers.metrics.per_listener });
        let all = json!({
            "services": described,
            "http": http,
            "metrics": metrics,
            "monitors": answers.monitors,
            "agent": answers.agent,
            "log_format": log_format,
            "warnings": warnings,
        });
        return print_json(&serde_json::to_string_pretty(&all)?);
    }
    let mut described: String = services.iter().map(as_text).collect();
    if let Some(address) = answers.http {
        let series = if answers.metrics.per_listener { "for each listener" } else { "summed over listeners" };
        described += &format!("  answers at {address}, with metrics {series}\n");
    }
    if let Some(address) = answers.agent {
        described += &format!("  answers agent checks at {address}\n");
    }
    if let Some(group) = answers.monitors {
        described += &format!("  group {group} may ask what changes nothing\n");
    }
    described += &format!("  log_format {log_format}\n");
    let warned: String = warnings.iter().map(|line| format!("warning: {line}\n")).collect();
    print(&format!("{} is valid\n{described}{warned}", printable::path(&arguments.file)))
}

fn as_json(service: &ServiceConfig) -> serde_json::Value {
    let mut object: serde_json::Map<_, _> =
        settings::of_all(service).map(|it| (it.key.to_owned(), it.json)).collect();
    object.insert("env_file_variables".into(), json!(settings::names(service.process.env_file.as_ref())));
    object.into()
}

fn as_text(service: &ServiceConfig) -> String {
    let workers = match (service.workers, service.command.is_empty()) {
        (0, true) => "workers come by themselves (`reuseport-lb exec`)".into(),
        (workers, true) => format!("{workers} x the embedded worker"),
        (workers, false) => format!("{workers} x {}", service.command.join(" ")),
    };
    let mut lines = vec![format!("  service {}: {workers}", service.name)];
    lines.extend(service.listen.iter().map(|it| format!("    {}{}", it.listener, it.options())));
    let defaults = ServiceConfig::new(&service.name, Vec::new(), service.workers);
    let (mut shown, mut usual) = (settings::of_service(service), settings::of_service(&defaults));
    if !service.command.is_empty() {
        shown.extend(settings::of_process(service));
        usual.extend(settings::of_process(&defaults));
    }
    let (mut set, mut default) = (Vec::new(), Vec::new());
    for (here, usual) in shown.into_iter().zip(usual) {
        if !ABOVE.contains(&here.key) {
            let list = if here.json == usual.json { &mut default } else { &mut set };
            list.push(format!("{} {}", here.key, here.text));
        }
    }
    lines.extend(wrapped("set here: ", &set));
    lines.extend(wrapped("by default: ", &default));
    if let Some(file) = &service.process.env_file {
        let names = settings::names(Some(file)).join(", ");
        lines.push(format!("    env_file {}: {names}", file.path.display()));
    }
    lines.extend(service.process.env.iter().map(|(name, value)| format!("    env {name}={value}")));
    lines.iter().map(|line| format!("{}\n", inline(line))).collect()
}

/// Keys that the first lines of a service show.
const ABOVE: [&str; 4] = ["name", "listen", "command", "workers"];

/// A list with a title, in lines of about 100 columns.
fn wrapped(title: &str, items: &[String]) -> Vec<String> {
    const COLUMNS: usize = 100;
    let mut lines: Vec<String> = Vec::new();
    for item in items {
        match lines.last_mut() {
            None => lines.push(format!("    {title}{item}")),
            Some(line) if line.chars().count() + item.chars().count() + 3 <= COLUMNS => {
                *line += &format!(", {item}")
            }
            Some(line) => {
                line.push(',');
                lines.push(format!("      {item}"));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_values_in_force_are_shown_and_the_defaults_as_that() {
        let listen = vec!["tcp://127.0.0.1:80".parse().unwrap()];
        let mut service = ServiceConfig::new("web", listen, 2);
        service.command = vec!["./server".into()];
        service.backlog = 16;
        service.process.nice = Some(5);
        let text = as_text(&service);
        let expected = "  service web: 2 x ./server\n    tcp://127.0.0.1:80\n    set here: backlog 16, nice 5\n    \
                        by default: affinity flow, ready accepting, start_timeout 30s, on_crash hold, hold_timeout 2s,\n";
        assert!(text.starts_with(expected), "{text}");
        for setting in settings::of_all(&service) {
            let shown = format!("{} {}", setting.key, setting.text);
            assert!(ABOVE.contains(&setting.key) || text.contains(&shown), "{shown}: {text}");
        }
        let unbroken = text.split_whitespace().collect::<Vec<&str>>().join(" ");
        assert!(unbroken.contains("env none, env_file none"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        // What is about commands only.
        service.command.clear();
        assert!(!as_text(&service).contains("umask") && as_text(&service).contains("x the embedded worker"));
    }
}
