//! Configuration files of tests. Tests of bad input write theirs out.

use std::fmt;
use std::path::PathBuf;

use crate::server;
use crate::world::World;

/// One or more services, rendered as TOML by `Display`.
///
/// ```
/// # use testkit::config::Config;
/// let config = Config::service("web").listen("tcp://127.0.0.1:3000").workers(2).set("stall_timeout", "300ms");
/// assert_eq!(
///     config.to_string(),
///     "[[service]]\nname = \"web\"\nlisten = [\"tcp://127.0.0.1:3000\"]\nworkers = 2\nstall_timeout = \"300ms\"\n"
/// );
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Config {
    /// The lines of `[http]`.
    http: Option<String>,
    others: Vec<Service>,
    /// The one that is being written.
    last: Service,
}

#[derive(Clone, Debug)]
struct Service {
    name: String,
    /// Listeners as TOML has them.
    listen: Vec<String>,
    /// Keys and TOML values, in the order in which they came.
    values: Vec<(String, String)>,
}

impl Config {
    pub fn service(name: &str) -> Self {
        Self {
            http: None,
            others: Vec::new(),
            last: Service { name: name.into(), listen: Vec::new(), values: Vec::new() },
        }
    }

    /// A service `web` on port 3000 over TCP.
    pub fn web() -> Self {
        Self::service("web").listen("tcp://127.0.0.1:3000")
    }

    /// Where the daemon answers over HTTP: `listen`, and further lines as TOML has them.
    pub fn http(self, listen: &str, more: &str) -> Self {
        Self { http: Some(format!("listen = {listen:?}\n{more}\n")), ..self }
    }

    /// One more address.
    pub fn listen(self, url: &str) -> Self {
        self.listener(format!("{url:?}"))
    }

    /// One more listener, as TOML has it.
    pub fn listener(mut self, toml: String) -> Self {
        self.last.listen.push(toml);
        self
    }

    /// How many workers it has.
    pub fn workers(self, count: usize) -> Self {
        self.toml("workers", count.to_string())
    }

    /// A text, like a time; in place of what was there.
    pub fn set(self, key: &str, value: &str) -> Self {
        self.toml(key, format!("{value:?}"))
    }

    /// A value as TOML has it; in place of what was there.
    pub fn toml(mut self, key: &str, value: String) -> Self {
        self.last.values.retain(|(it, _)| it != key);
        self.last.values.push((key.into(), value));
        self
    }

    /// Without a setting.
    pub fn without(mut self, key: &str) -> Self {
        self.last.values.retain(|(it, _)| it != key);
        self
    }

    /// What its workers run.
    pub fn command<T: AsRef<str>>(self, words: &[T]) -> Self {
        let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        self.toml("command", format!("{words:?}"))
    }

    /// Its workers are the helper server with these flags ([`server::words`]).
    pub fn server(self, world: &World, flags: &str) -> Self {
        self.command(&server::words(world, flags))
    }

    /// Writes it to where the daemon of this world has its file ([`Paths::run`](crate::daemon::Paths::run)).
    pub fn write(&self, world: &World) -> PathBuf {
        world.file("config.toml", &self.to_string())
    }

    /// Other services after this one.
    pub fn and(self, other: Self) -> Self {
        let others = self.others.into_iter().chain([self.last]).chain(other.others).collect();
        Self { http: self.http.or(other.http), others, last: other.last }
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(http) = &self.http {
            write!(f, "[http]\n{http}")?;
        }
        for Service { name, listen, values } in self.others.iter().chain([&self.last]) {
            writeln!(f, "[[service]]\nname = {name:?}\nlisten = [{}]", listen.join(", "))?;
            values.iter().try_for_each(|(key, value)| writeln!(f, "{key} = {value}"))?;
        }
        Ok(())
    }
}
