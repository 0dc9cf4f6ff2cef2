//! Servers that people run, and the signal that ends each of them in order: from their own documentation. Not: a default;
//! the table only warns.

use super::stop::StopSignal;

/// File names of commands (also with a version after them, like `php-fpm8.2`), the signal, and where the server's
/// documentation says so.
const SERVERS: &[(&str, StopSignal, &str)] = &[
    ("apache2", StopSignal::Winch, "Apache HTTP Server, Stopping and Restarting: graceful-stop"),
    ("gunicorn", StopSignal::Term, "Gunicorn, Signal Handling"),
    ("haproxy", StopSignal::Usr1, "HAProxy Management Guide, 4. Stopping and restarting HAProxy"),
    ("httpd", StopSignal::Winch, "Apache HTTP Server, Stopping and Restarting: graceful-stop"),
    ("lighttpd", StopSignal::Int, "lighttpd, doc/initscripts.txt"),
    ("nginx", StopSignal::Quit, "nginx, Controlling nginx"),
    ("php-fpm", StopSignal::Quit, "php-fpm(8), SIGNALS"),
    ("puma", StopSignal::Term, "Puma, docs/signals.md"),
    ("squid", StopSignal::Term, "Squid, shutdown_lifetime"),
    ("unicorn", StopSignal::Quit, "unicorn, SIGNALS"),
    ("uvicorn", StopSignal::Term, "tried: servers/restarts.rs"),
];

/// The server that a command runs, and the signal that ends it in order.
pub(super) fn server(command: &str) -> Option<(&'static str, StopSignal)> {
    let file = command.rsplit('/').next()?;
    let is_version = |rest: &str| rest.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '-'));
    SERVERS
        .iter()
        .find(|(name, ..)| file.strip_prefix(name).is_some_and(is_version))
        .map(|(name, signal, _)| (*name, *signal))
}
