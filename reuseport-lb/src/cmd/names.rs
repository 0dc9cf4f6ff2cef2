//! Names of services and workers on the command line.

use crate::config::{self, Invalid};

/// Splits the name of a worker into service and number.
pub(super) fn worker(text: &str) -> Result<(&str, &str), Invalid> {
    let wrong = |why: &str| {
        Invalid(format!("{text:?} is not a worker{why}: write it like web/2, as `reuseport-lb status` does"))
    };
    let (service, number) = text.split_once('/').ok_or_else(|| wrong(", but perhaps a service"))?;
    // With a dot: a further socket of the worker's process.
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, part) = number.split_once('.').unwrap_or((number, "1"));
    if config::check_name(service).is_err() || !is_number(whole) || !is_number(part) {
        return Err(wrong(""));
    }
    Ok((service, number))
}

/// Checks the name of a service, for a `command` that takes no worker.
pub(super) fn service<'a>(text: &'a str, command: &str) -> Result<&'a str, Invalid> {
    if let Ok((service, number)) = worker(text) {
        let mend = match command {
            "exec" => format!("`{command} {service} --name {number}`"),
            _ => format!("`{command} {service}`"),
        };
        return Err(Invalid(format!("{text:?} is a worker, and `{command}` takes a service: write {mend}")));
    }
    config::check_name(text)
        .map(|()| text)
        .map_err(|error| Invalid(format!("no service is called so: {error}")))
}
