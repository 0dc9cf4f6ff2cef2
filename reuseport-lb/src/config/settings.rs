//! All settings of a service that are in force, defaults included, as `check` and `status` show them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::adopt::Adoption;
use super::process::{EnvFile, LogFile, LogTo, ProcessConfig};
use super::{Overload, ServiceConfig, size};
use crate::domain::whose::Whose;

/// One key of the file and its value, for programs and for people.
pub struct Setting {
    /// Its name in the file.
    pub key: &'static str,
    /// For programs.
    pub json: Value,
    /// For people.
    pub text: String,
}

impl Setting {
    fn new(key: &'static str, json: Value) -> Self {
        let text = json.as_str().map_or_else(|| json.to_string(), Into::into);
        Self { key, json, text }
    }

    fn or(key: &'static str, json: Value, absent: &str) -> Self {
        let absent = json.is_null().then(|| absent.to_owned());
        let setting = Self::new(key, json);
        Self { text: absent.unwrap_or(setting.text), ..setting }
    }
}

/// All of a service but those in [`of_process`], in the order of the documentation.
pub fn of_service(service: &ServiceConfig) -> Vec<Setting> {
    // Named one by one, so that a new one is not left out.
    let ServiceConfig {
        name,
        listen,
        command,
        embedded: _,
        workers,
        affinity,
        ready,
        on_crash,
        on_stall,
        replace,
        start_timeout,
        hold_timeout,
        drain_timeout,
        stop,
        lame_duck,
        idle_timeout,
        stall_timeout,
        overload,
        watchdog,
        when_empty,
        when_busy,
        flows,
        quic,
        connections,
        backlog,
        user,
        sockets,
        socket_owner,
        join,
        adopt,
        process,
    } = service;
    let one = Setting::new;
    let limit = Setting {
        key: "overload",
        json: overload.map_or_else(|| json!("off"), |limit| json!(limit)),
        text: overload.as_ref().map_or_else(|| "off".into(), Overload::to_string),
    };
    let others = join.as_deref().unwrap_or(user.as_slice());
    let may_join: Vec<&str> = ["root"].into_iter().chain(others.iter().map(String::as_str)).collect();
    let may_join = Setting { key: "join", json: json!(join), text: may_join.join(" and ") };
    vec![
        one("name", json!(name)),
        one("listen", json!(listen)),
        one("command", json!(command)),
        one("workers", json!(workers)),
        Setting { key: "affinity", json: affinity.shown(), text: affinity.to_string() },
        one("ready", json!(ready)),
        one("start_timeout", time(Some(*start_timeout))),
        one("on_crash", json!(on_crash)),
        one("hold_timeout", time(Some(*hold_timeout))),
        one("drain_timeout", time(Some(*drain_timeout))),
        one("drain_until", json!(connections.drain_until)),
        one("stop_signal", json!(stop.signal)),
        one("stop_mode", json!(stop.mode)),
        one("replace", json!(replace)),
        one("lame_duck", time(Some(*lame_duck))),
        one("stall_timeout", time(*stall_timeout)),
        one("on_stall", json!(on_stall)),
        limit,
        one("idle_timeout", time(Some(*idle_timeout))),
        one("watchdog", time(*watchdog)),
        one("when_empty", json!(when_empty)),
        one("when_busy", json!(when_busy)),
        one("flows", json!(flows)),
        Setting {
            key: "quic",
            json: json!(quic),
            text: quic.as_ref().map_or_else(|| "off".into(), ToString::to_string),
        },
        Setting { text: connections.balance.to_string(), ..one("balance", json!(connections.balance)) },
        Setting {
            text: if connections.are_counted() { "true" } else { "false" }.into(),
            ..one("count_connections", json!(connections.count))
        },
        one("backlog", json!(backlog)),
        Setting::or("user", json!(user), no_user(service)),
        one("sockets", json!(sockets)),
        one("socket_owner", json!(socket_owner)),
        may_join,
        adopted(adopt.as_ref()),
        log(&process.log),
    ]
}

/// Whose sockets are adopted, as it is written in a file.
fn adopted(adopt: Option<&Adoption>) -> Setting {
    let Some(Adoption { whose, replace_program, .. }) = adopt else {
        return Setting::or("adopt", Value::Null, "none: workers have sockets of the daemon");
    };
    let mut json = match whose {
        Whose::Pid { pid, .. } => json!({ "pid": pid }),
        Whose::PidFile(path) => json!({ "pid_file": path }),
        Whose::Unit(unit) => json!({ "unit": unit }),
        Whose::Any => json!({ "any": true }),
    };
    json["replace_program"] = json!(replace_program);
    let text =
        format!("the sockets of {whose}{}", if *replace_program { ", in place of its program" } else { "" });
    Setting { text, ..Setting::new("adopt", json) }
}

/// Where the output of workers goes, be they embedded or not.
fn log(log: &LogTo) -> Setting {
    match log {
        LogTo::Inherit => Setting::new("log", json!("inherit")),
        LogTo::File(LogFile { path, max, keep }) => {
            let max = size(*max);
            let text = format!("{path} (max {max}, keep {keep})");
            Setting { text, ..Setting::new("log", json!({ "file": path, "max": max, "keep": keep })) }
        }
    }
}

/// Whom workers run as if the service does not say it.
fn no_user(service: &ServiceConfig) -> &'static str {
    match (service.command.is_empty(), service.embedded) {
        (false, _) => "the daemon's",
        (true, true) => "nobody",
        (true, false) => "none",
    }
}

/// What workers of a command are started with.
pub fn of_process(service: &ServiceConfig) -> Vec<Setting> {
    let ProcessConfig { env, env_file, cwd, umask, nice, open_files, cpus, group, log: _ } = &service.process;
    let daemons = |key, json| Setting::or(key, json, "the daemon's");
    let users = if service.user.is_some() { "the user's" } else { "the daemon's" };
    vec![
        Setting::or("group", json!(group), users),
        Setting {
            text: if env.is_empty() { "none" } else { "below" }.into(),
            ..Setting::new("env", json!(env))
        },
        Setting::or("env_file", json!(env_file.as_ref().map(|file| &file.path)), "none"),
        daemons("cwd", json!(cwd)),
        daemons("umask", json!(umask.map(|mask| format!("{mask:03o}")))),
        daemons("nice", json!(nice)),
        daemons("open_files", json!(open_files)),
        Setting::new("cpus", json!(cpus)),
    ]
}

/// All of a service, in the order of the documentation.
pub fn of_all(service: &ServiceConfig) -> impl Iterator<Item = Setting> + use<> {
    of_service(service).into_iter().chain(of_process(service))
}

/// All of them by key, without the values of variables, which may be secrets.
#[must_use]
pub fn without_secrets(service: &ServiceConfig) -> BTreeMap<String, Value> {
    let all = of_all(service).filter(|it| it.key != "name");
    let mut all: BTreeMap<String, Value> = all.map(|it| (it.key.to_owned(), it.json)).collect();
    all.insert("env".into(), json!(service.process.env.keys().collect::<Vec<_>>()));
    all
}

/// The names alone: values in a file may be secrets.
pub fn names(file: Option<&EnvFile>) -> Vec<&str> {
    file.iter().flat_map(|file| file.variables.keys()).map(String::as_str).collect()
}

fn time(time: Option<Duration>) -> Value {
    json!(time.map_or_else(|| "off".into(), |time| humantime::format_duration(time).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Machine, parse};

    #[test]
    fn no_key_of_the_file_is_left_out() {
        let head = "[[service]]\nname = \"web\"\nlisten = [\"tcp://127.0.0.1:80\"]\n";
        let service = parse(head, Machine::ANOTHER).unwrap().services.remove(0);
        let mut shown: Vec<&str> = of_all(&service).map(|setting| setting.key).collect();
        // The parser lists what it knows.
        let error = parse(&format!("{head}zzzzzzzzzz = 1\n"), Machine::ANOTHER).unwrap_err().to_string();
        let (_, known) = error.lines().next().unwrap().split_once("known are ").unwrap();
        let mut known: Vec<&str> = known.split(", ").collect();
        shown.sort_unstable();
        known.sort_unstable();
        assert_eq!(shown, known);
        assert!(known.len() > 25, "{known:?}");
    }

    #[test]
    fn the_documentation_has_every_key_its_default_and_an_example_that_is_valid() {
        let documentation = include_str!("../../../docs/CONFIGURATION.md");
        let (_, example) = documentation.split_once("```toml\n").unwrap();
        let (example, rest) = example.split_once("```").unwrap();
        let services = parse(example, Machine::ANOTHER).unwrap().services;
        assert_eq!(services.len(), 2);
        let head = "[[service]]\nname = \"web\"\nlisten = [\"tcp://127.0.0.1:80\"]\ncommand = [\"x\"]\n";
        let service = parse(head, Machine::ANOTHER).unwrap().services.remove(0);
        let mut compared = 0;
        for setting in of_all(&service) {
            let key = setting.key;
            let row = rest.lines().find_map(|line| line.strip_prefix(&format!("| `{key}` | ")));
            let default =
                row.and_then(|row| row.split(" | ").nth(1)).unwrap_or_else(|| panic!("no row of {key}"));
            assert!(
                example.lines().any(|line| line.starts_with(&format!("{key} = "))),
                "no example of {key}"
            );
            // The others are in words.
            let written = default.strip_prefix("`\"").and_then(|rest| rest.strip_suffix("\"`"));
            let number = Some(default).filter(|it| it.parse::<u64>().is_ok());
            if let Some(default) = written.or(number) {
                let times = [&*setting.text, default].map(super::super::duration);
                let same = matches!(&times, [Ok(one), Ok(other)] if one == other);
                assert!(same || setting.text == default, "{key}: {} and {default}", setting.text);
                compared += 1;
            }
        }
        assert!(compared > 15, "{compared}");
    }
}
