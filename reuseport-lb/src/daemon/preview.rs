//! What a configuration would change, found out without changing anything: running services prepare it and forget that
//! again, and the addresses of new ones are tried. Not: applying it (`apply.rs`).

use std::time::Duration;

use tokio::sync::oneshot;

use super::apply::{BUSY, Configurator};
use super::listener_moves::Moves;
use crate::config::{ServiceConfig, SocketOwner};
use crate::domain::listener::Protocol;
use crate::handle::ServiceHandle;
use crate::kernel::socket;
use crate::offload;
use crate::service::{Command, Prepare, with_user};

/// Time limit of looking up a user and trying addresses.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ends of lines that say of a service that nothing changes.
const UNCHANGED: &str = ": not changed";

impl Configurator {
    /// What applying these services by a reload would answer. Addresses of new services are tried, and those of new
    /// listeners of running ones bound; nothing is started.
    pub(super) async fn preview(&self, wanted: Vec<ServiceConfig>) -> Result<String, String> {
        let wanted = self.with_adopted(wanted)?;
        if self.changing.replace(true) {
            return Err(BUSY.into());
        }
        let claims = &self.surroundings.claims;
        claims.hold(true);
        let moves = Moves::find(&wanted, |listener| claims.holder(listener));
        let lines = self.lines(&wanted, &moves).await;
        claims.hold(false);
        self.changing.set(false);
        lines.map(|lines| lines.join("\n"))
    }

    async fn lines(&self, wanted: &[ServiceConfig], moves: &Moves) -> Result<Vec<String>, String> {
        let meanwhile = moves.meanwhile(wanted);
        let (known, new): (Vec<_>, Vec<_>) =
            meanwhile.into_iter().partition(|config| self.registry.is_there(&config.name));
        let (mut changed, mut opened, mut ended, mut later) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for config in known {
            changed.push(self.ask(config).await?);
        }
        for config in new {
            opened.push(format!("{}: new", config.name));
            offload::in_thread_within(PATIENCE, "trying addresses", move || try_addresses(config))
                .await
                .unwrap_or_else(|error| Err(format!("{error:#}")))?;
        }
        for service in self.registry.services.all() {
            let name = service.name();
            if !wanted.iter().any(|config| config.name == name) {
                let list = if moves.is_loser(name) { &mut later } else { &mut ended };
                list.push(format!("{name}: ended"));
            }
        }
        // What is done when listeners have moved.
        let mut last = Vec::new();
        for config in wanted.iter().filter(|config| moves.is_loser(&config.name)) {
            if !moves.is_taker(&config.name) {
                last.push(self.ask(config.clone()).await?);
            } else if config.workers > 0 {
                last.push(format!("{}: settings changed, {} workers replaced", config.name, config.workers));
            } else {
                last.push(format!("{}: settings changed", config.name));
            }
        }
        last.retain(|line| !line.ends_with(UNCHANGED));
        Ok([opened, ended, changed, later, last].concat())
    }

    /// What a running service would change.
    async fn ask(&self, config: ServiceConfig) -> Result<String, String> {
        let name = config.name.clone();
        let service = self.registry.services.find(&name).map_err(|error| error.to_string())?;
        let line = preview_of(&service, config).await;
        let _ = service.tell(Command::Abort);
        line?.ok_or_else(|| format!("service {name} is just ending: try again"))
    }
}

async fn preview_of(service: &ServiceHandle, config: ServiceConfig) -> Result<Option<String>, String> {
    let (answer, prepared) = oneshot::channel();
    let _ = service.tell(Command::Prepare(Box::new(Prepare { config, if_changed: false }), answer));
    let Ok(prepared) = prepared.await else { return Ok(None) };
    prepared?;
    let (answer, line) = oneshot::channel();
    let _ = service.tell(Command::Preview(answer));
    Ok(line.await.ok())
}

/// Fails if the sockets of a service that does not run yet could not be bound.
fn try_addresses(config: ServiceConfig) -> Result<(), String> {
    let name = config.name.clone();
    let of = |error: anyhow::Error| format!("service {name}: {error:#}");
    let (config, user) = with_user(config).map_err(of)?;
    let owner = user.filter(|_| config.socket_owner == SocketOwner::User).map(|user| user.uid);
    // Sockets of workers that join are opened when they do.
    for listen in config.listen.iter().filter(|_| config.workers > 0) {
        let listener = &listen.listener;
        // Where an IPv6 address cannot be tried without conflicts with others, only opening it would tell.
        let address = listener.address;
        if listener.protocol == Protocol::Udp && address.is_ipv6() && !address.ip().is_unspecified() {
            continue;
        }
        socket::try_address(listener, listen.freebind, owner)
            .map_err(|error| {
                socket::explain(error, listener).context(format!("worker {name}/0 gets no sockets"))
            })
            .map_err(of)?;
    }
    Ok(())
}
