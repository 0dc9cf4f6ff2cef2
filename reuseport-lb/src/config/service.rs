//! One service as it is configured: its settings, their defaults, and what depends on more than one of them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::adopt::Adoption;
use super::choices::{
    Affinity, Flows, OnCrash, OnStall, Replace, SocketOwner, SocketSource, WhenBusy, WhenEmpty,
};
use super::connections::ConnectionSettings;
use super::listen::{ListenerConfig, check_names};
use super::process::ProcessConfig;
use super::quic::QuicRouting;
use super::stop::StopSettings;
use super::values::{Overload, Ready};
use crate::domain::listener::{Listener, Protocol};

/// Most workers of one service: half of the slots, so that all can have a successor at once.
pub const MAX_WORKERS: usize = 1024;

/// Largest weight of a worker; the smallest is 0, which means no new flows.
pub const MAX_WEIGHT: u32 = 1_000_000;

/// Most listeners of one service; each costs every worker a socket.
pub const MAX_LISTENERS: usize = 64;

/// One validated service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceConfig {
    /// Name of the service; workers are `name/0`, `name/1`, …
    pub name: String,
    /// Listeners; workers get their sockets in this order.
    pub listen: Vec<ListenerConfig>,
    /// Program and arguments of a worker; empty if workers are embedded or only join.
    pub command: Vec<String>,
    /// Workers are embedded ones, without a command.
    pub embedded: bool,
    /// Number of workers that the daemon starts; further ones may join.
    pub workers: usize,
    /// What a decision is made from.
    pub affinity: Affinity,
    /// When a worker counts as ready.
    pub ready: Ready,
    /// What happens to the buckets of a worker that crashed.
    pub on_crash: OnCrash,
    /// What happens to the process of a worker that stalls again and again.
    #[serde(default)]
    pub on_stall: OnStall,
    /// In which order a worker is replaced.
    #[serde(default)]
    pub replace: Replace,
    /// Longest time until a worker is ready: after it, a successor is given up, and commands that wait say what a
    /// worker lacks.
    #[serde(default = "start_timeout")]
    pub start_timeout: Duration,
    /// How long a crashed worker keeps its buckets.
    pub hold_timeout: Duration,
    /// Longest time until a leaving worker is told to end, and again until SIGKILL.
    pub drain_timeout: Duration,
    /// How a worker is told to end.
    #[serde(default)]
    pub stop: StopSettings,
    /// How long the service goes on as before when the daemon is told to end, while it says that it is ending.
    #[serde(default)]
    pub lame_duck: Duration,
    /// How long a UDP flow without a packet stays with its worker.
    #[serde(default = "idle_timeout")]
    pub idle_timeout: Duration,
    /// How long a worker may accept nothing from a TCP queue that is not empty; `None`: for ever.
    pub stall_timeout: Option<Duration>,
    /// When a TCP worker's queue is too deep; `None`: never.
    pub overload: Option<Overload>,
    /// Longest time between two `WATCHDOG=1` of a worker; `None`: none are expected.
    pub watchdog: Option<Duration>,
    /// What happens to new connections while no worker is ready.
    pub when_empty: WhenEmpty,
    /// What happens to new TCP connections whose worker is busy.
    #[serde(default)]
    pub when_busy: WhenBusy,
    /// What is known of UDP flows.
    #[serde(default)]
    pub flows: Flows,
    /// How connection ids of QUIC name workers, if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quic: Option<QuicRouting>,
    /// Live TCP connections.
    #[serde(default)]
    pub connections: ConnectionSettings,
    /// Accept queue of each TCP socket, in connections; the kernel caps it at net.core.somaxconn.
    pub backlog: u32,
    /// The user of workers, a name or a number; `None`: the daemon's.
    pub user: Option<String>,
    /// How workers that are started come by their sockets.
    #[serde(default)]
    pub sockets: SocketSource,
    /// The user that the sockets belong to; that of the workers only if there is a `user`.
    #[serde(default)]
    pub socket_owner: SocketOwner,
    /// The users whose processes may join, names or numbers, besides root; `None`: `user`.
    #[serde(default)]
    pub join: Option<Vec<String>>,
    /// Whose sockets are adopted, if others start the server and open them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<Adoption>,
    /// What a worker's process is started with besides its command.
    #[serde(default)]
    pub process: ProcessConfig,
}

impl ServiceConfig {
    /// A service with the default of every setting.
    #[must_use]
    pub fn new(name: &str, listen: Vec<Listener>, workers: usize) -> Self {
        Self {
            name: name.into(),
            listen: listen.into_iter().map(Into::into).collect(),
            command: Vec::new(),
            embedded: false,
            workers,
            affinity: Affinity::default(),
            ready: Ready::default(),
            on_crash: OnCrash::default(),
            on_stall: OnStall::default(),
            replace: Replace::default(),
            start_timeout: start_timeout(),
            hold_timeout: Duration::from_secs(2),
            drain_timeout: Duration::from_secs(30),
            stop: StopSettings::default(),
            lame_duck: Duration::ZERO,
            idle_timeout: idle_timeout(),
            stall_timeout: Some(Duration::from_secs(1)),
            overload: Some(Overload::default()),
            watchdog: None,
            when_empty: WhenEmpty::default(),
            when_busy: WhenBusy::default(),
            flows: Flows::default(),
            quic: None,
            connections: ConnectionSettings::default(),
            backlog: 4096,
            user: None,
            sockets: SocketSource::default(),
            socket_owner: SocketOwner::default(),
            join: None,
            adopt: None,
            process: ProcessConfig::default(),
        }
    }

    /// The service of `reuseport-lb run` without options.
    #[must_use]
    pub fn demo() -> Self {
        let both = |protocol| {
            [([127, 0, 0, 1], 8080).into(), ([0, 0, 0, 0, 0, 0, 0, 1], 8080).into()]
                .map(|address| Listener::new(protocol, address))
        };
        let listen = [both(Protocol::Tcp), both(Protocol::Udp)].concat();
        Self { embedded: true, ..Self::new("demo", listen, 4) }
    }

    /// The demo service, without its IPv6 addresses if the machine has no IPv6.
    #[must_use]
    pub fn demo_here(has_ipv6: bool) -> Self {
        let mut demo = Self::demo();
        demo.listen.retain(|it| has_ipv6 || it.listener.address.is_ipv4());
        demo
    }

    /// When a worker counts as ready if nothing else is said.
    #[must_use]
    pub fn default_ready(&self) -> Ready {
        if self.adopt.is_some() {
            return Ready::Immediate;
        }
        match self.sockets {
            SocketSource::Pass | SocketSource::Nginx => Ready::Accepting,
            SocketSource::Bind => Ready::Listening,
        }
    }

    /// Protocols and addresses of its listeners, in their order.
    pub fn listeners(&self) -> impl Iterator<Item = &Listener> {
        self.listen.iter().map(|it| &it.listener)
    }

    /// Whether flows of a listener are tracked.
    #[must_use]
    pub fn tracks(&self, listener: &Listener) -> bool {
        listener.protocol == Protocol::Udp && self.flows == Flows::Track
    }

    /// Whether live connections are counted.
    #[must_use]
    pub fn counts_connections(&self) -> bool {
        self.connections.are_counted()
    }

    /// Checks what depends on more than one key.
    pub fn validate(&self) -> Result<(), String> {
        check_name(&self.name)?;
        check_workers(self.workers)?;
        if self.listen.is_empty() {
            return Err(format!(
                "service {:?} listens on nothing: give it `listen = [\"tcp://…\"]`",
                self.name
            ));
        }
        if self.socket_owner == SocketOwner::User && self.user.is_none() {
            return Err(
                "`socket_owner = \"user\"` gives the sockets to the user of the workers: add `user`".into()
            );
        }
        if self.sockets != SocketSource::Pass && self.command.is_empty() {
            return Err(format!("`sockets = \"{}\"` is about a `command`, and there is none", self.sockets));
        }
        if self.ready == Ready::Listening && self.sockets != SocketSource::Bind {
            return Err(
                "`ready = \"listening\"` needs `sockets = \"bind\"`: of other commands it is not known when they call \
                 listen; leave `ready` out, or say \"accepting\""
                    .into(),
            );
        }
        let gives = match self.affinity {
            Affinity::Flow | Affinity::Source | Affinity::Payload(_) | Affinity::Program(_) => None,
            Affinity::Random => Some("each datagram to a worker by chance"),
            Affinity::Cpu => {
                Some("a datagram to the worker of the CPU that receives it, another one each time")
            }
        };
        if let Some(gives) = gives
            && let Some(tracked) = self.listeners().find(|it| self.tracks(it))
        {
            return Err(format!(
                "`affinity = \"{}\"` gives {gives}, and live flows of {tracked} keep theirs: add `flows = \"none\"` if \
                 each datagram is for itself, or say `affinity = \"flow\"`",
                self.affinity
            ));
        }
        if let Affinity::Payload(bytes) = &self.affinity {
            bytes.check().map_err(|error| format!("`affinity = {{ payload = … }}`, {error}"))?;
            if let Some(tcp) = self.listeners().find(|it| it.protocol == Protocol::Tcp) {
                return Err(format!(
                    "`affinity = {{ payload = … }}` is made of the bytes of a datagram, and {tcp} has connections, whose bytes \
                     come later: give it a service of its own, or say `affinity = \"flow\"`"
                ));
            }
        }
        if self.adopt.is_some() && self.listeners().any(|it| it.address.port() == 0) {
            return Err("`adopt` needs the port of the server that is there, not port 0".into());
        }
        if self.listen.len() > MAX_LISTENERS {
            return Err(format!(
                "service {:?} has {} listeners; the most is {MAX_LISTENERS}",
                self.name,
                self.listen.len()
            ));
        }
        check_names(&self.listen).map_err(|error| format!("service {:?}: {error}", self.name))
    }
}

/// Default of a new service, and of one that an older daemon has saved without this setting.
fn idle_timeout() -> Duration {
    Duration::from_secs(60)
}

/// Default of a new service, and of one that an older daemon has saved without this setting.
fn start_timeout() -> Duration {
    Duration::from_secs(30)
}

/// Fails if a service cannot have so many workers.
pub fn check_workers(workers: usize) -> Result<(), String> {
    if workers > MAX_WORKERS {
        return Err(format!("{workers} workers are too many: a service has at most {MAX_WORKERS}"));
    }
    Ok(())
}

/// Fails if a weight is too large.
pub fn check_weight(weight: u32) -> Result<(), String> {
    if weight > MAX_WEIGHT {
        return Err(format!("weight {weight} is too large: the most is {MAX_WEIGHT}"));
    }
    Ok(())
}

pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) || name.starts_with('.') {
        return Err(format!(
            "{name:?} is not a name: use 1 to 64 letters, digits, '-', '_' and '.', not '.' at the start"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Invalid, Machine, PayloadBytes, parse};
    use super::*;

    const MINIMAL: &str = "[[service]]\nname = \"web\"\nlisten = [\"udp://127.0.0.1:80\"]\n";

    fn parsed(more: &str) -> Result<ServiceConfig, String> {
        let user = |name: &str| if name == "gone" { Err("there is no user".into()) } else { Ok(()) };
        let machine = Machine { user, ..Machine::ANOTHER };
        parse(&format!("{MINIMAL}{more}\n"), machine)
            .map(|mut all| all.services.remove(0))
            .map_err(|Invalid(error)| error)
    }

    #[test]
    fn sockets_of_the_user_need_a_user() {
        let error = parsed("workers = 1\nsocket_owner = \"user\"").unwrap_err();
        assert!(error.starts_with("line 5:") && error.contains("add `user`"), "{error}");
        let service = parsed("user = 7\nsocket_owner = \"user\"").unwrap();
        assert_eq!(service.socket_owner, SocketOwner::User);
        assert_eq!(parsed("socket_owner = \"daemon\"").unwrap().socket_owner, SocketOwner::Daemon);
        // An older daemon has saved neither of these keys.
        let mut json = serde_json::to_value(&service).unwrap();
        let _ = ["socket_owner", "join"].map(|key| json.as_object_mut().unwrap().remove(key));
        let old = serde_json::from_value::<ServiceConfig>(json).unwrap();
        assert_eq!(old, ServiceConfig { socket_owner: SocketOwner::Daemon, ..service });
    }

    #[test]
    fn chance_and_flows_do_not_go_together() {
        let error = parsed("workers = 2\naffinity = \"random\"").unwrap_err();
        let says = ["line 5:", "live flows of udp://127.0.0.1:80", "add `flows = \"none\"`"];
        assert!(says.iter().all(|says| error.contains(says)), "{error}");
        let error = parsed("workers = 2\naffinity = \"cpu\"").unwrap_err();
        assert!(
            error.contains("CPU that receives it") && error.contains("add `flows = \"none\"`"),
            "{error}"
        );
        assert_eq!(parsed("affinity = \"random\"\nflows = \"none\"").unwrap().affinity, Affinity::Random);
        let tcp = MINIMAL.replace("udp", "tcp") + "affinity = \"random\"\nwhen_busy = \"next\"\n";
        assert_eq!(parse(&tcp, Machine::ANOTHER).unwrap().services[0].affinity, Affinity::Random);
    }

    #[test]
    fn bytes_of_the_payload_are_those_of_datagrams() {
        let bytes = |offset, length| Affinity::Payload(PayloadBytes { offset, length });
        let said = "affinity = { payload = { offset = 8, length = 4 } }";
        assert_eq!(parsed(said).unwrap().affinity, bytes(8, 4));
        assert_eq!(parsed("affinity = { payload = { length = 16 } }").unwrap().affinity, bytes(0, 16));
        assert_eq!("payload:8+4".parse(), Ok(bytes(8, 4)));
        assert_eq!(bytes(8, 4).to_string(), "payload:8+4");
        for (length, offset, says) in [
            (0, 0, "`length = 0`: a key is made of 1 to 16 bytes"),
            (17, 0, "`length = 17`"),
            (4, 65_524, "no datagram has more than 65527 bytes"),
        ] {
            let text = format!("affinity = {{ payload = {{ offset = {offset}, length = {length} }} }}");
            let error = parsed(&text).unwrap_err();
            assert!(error.starts_with("line 4:") && error.contains(says), "{error}");
        }
        let tcp = MINIMAL.replace("udp", "tcp") + said;
        let Invalid(error) = parse(&tcp, Machine::ANOTHER).unwrap_err();
        assert!(error.contains("tcp://127.0.0.1:80 has connections"), "{error}");
        for wrong in ["payload:8", "payload:x+4", "payload:8+40", "bytes"] {
            assert!(wrong.parse::<Affinity>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn users_that_may_join_are_names_and_numbers() {
        let join = |more: &str| parsed(more).map(|service| service.join);
        let both = Some(vec!["www-data".to_owned(), "1001".to_owned()]);
        assert_eq!(join("join = [\"www-data\", 1001]"), Ok(both));
        assert_eq!(join("join = []"), Ok(Some(Vec::new())));
        assert_eq!(join("user = \"www-data\""), Ok(None));
        for (wrong, says) in [
            ("[\"root\", \"gone\"]", "there is no user"),
            ("\"root\"", "a list of users"),
            ("[true]", "a list of users"),
        ] {
            let error = join(&format!("workers = 1\njoin = {wrong}")).unwrap_err();
            assert!(error.starts_with("line 5:") && error.contains(says), "{wrong}: {error}");
        }
    }
}
