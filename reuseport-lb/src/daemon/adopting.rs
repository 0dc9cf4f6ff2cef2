//! Services that the command `adopt` made, and `release` ends: they are in no file, and stay until then, from one daemon
//! to the next.

use std::rc::Rc;
use std::time::{Duration, Instant};

use reuseport_lb_client::api::{Adopt, Adopted, Refusal, Released, Requester};
use tracing::info;

use super::apply::{BUSY, Configurator};
use crate::config::adopt::Adoption;
use crate::config::{self, Affinity, Ready, ServiceConfig};
use crate::domain::listener::Listener;
use crate::kernel::{adopt, host};
use crate::service::state_file::SavedService;
use crate::service::{Command, Service};

/// How long the sockets of a server are looked for before the command gives up.
const PATIENCE: Duration = Duration::from_secs(3);

/// Interval between looks at what was found.
const LOOK: Duration = Duration::from_millis(10);

impl Configurator {
    /// Notes the services that an earlier daemon has adopted by command; returns their settings.
    pub(super) fn note_adopted(&self, states: &[SavedService]) {
        let by_command = |state: &&SavedService| {
            let adopt = state.configured.adopt.as_ref();
            state.abandoned.is_none() && adopt.is_some_and(|adopt| adopt.by_command)
        };
        let all = states.iter().filter(by_command).map(|state| state.configured.clone());
        self.adopted.borrow_mut().extend(all);
    }

    /// The services that are `wanted`, and those that were adopted by command. Fails if one that is wanted would get the
    /// address of one of those.
    pub(super) fn with_adopted(&self, mut wanted: Vec<ServiceConfig>) -> Result<Vec<ServiceConfig>, String> {
        for adopted in &*self.adopted.borrow() {
            if wanted.iter().any(|config| config.name == adopted.name) {
                continue;
            }
            let collides = |config: &&ServiceConfig| {
                config.listeners().any(|it| adopted.listeners().any(|other| other.collides_with(it)))
            };
            if let Some(other) = wanted.iter().find(collides) {
                return Err(format!(
                    "an address of service {} belongs to service {}, which was adopted by command: \
                     `reuseport-lb release {}` first",
                    other.name, adopted.name, adopted.name
                ));
            }
            wanted.push(adopted.clone());
        }
        Ok(wanted)
    }

    /// Forgets services that are in the file now.
    pub(super) fn forget_adopted(&self, is_configured: impl Fn(&str) -> bool) {
        self.adopted.borrow_mut().retain(|config| !is_configured(&config.name));
    }

    /// Starts a service that adopts sockets, and waits until some are found; if none are, nothing is left of it.
    pub(super) async fn adopt(
        self: &Rc<Self>,
        name: &str,
        asked: Adopt,
        asker: Option<Requester>,
    ) -> Result<Adopted, Refusal> {
        let mut config = service(name, asked).map_err(Refusal::Malformed)?;
        if self.changing.replace(true) {
            return Err(BUSY.to_owned().into());
        }
        if let Some(adopt) = &mut config.adopt {
            adopt::pin(&mut adopt.whose);
        }
        let adopted = self.begin_adopting(config, asker).await;
        self.changing.set(false);
        adopted
    }

    async fn begin_adopting(
        self: &Rc<Self>,
        config: ServiceConfig,
        asker: Option<Requester>,
    ) -> Result<Adopted, Refusal> {
        let name = config.name.clone();
        if self.registry.services.contains(&name) {
            return Err(format!("there is a service {name} already: give another name").into());
        }
        for listener in config.listeners() {
            if let Some(holder) = self.surroundings.claims.holder(listener) {
                return Err(format!("{listener} belongs to service {holder} of this daemon already").into());
            }
        }
        let opened = Service::open(config.clone(), self.surroundings.clone()).await;
        self.registry.add(name.clone(), opened.map_err(|error| format!("{error:#}"))?);
        host::trim_memory();
        let begun = Instant::now();
        let lacks = loop {
            let found = self.registry.services.find(&name)?.report().await?.service;
            let lacks = found.adopts.and_then(|adopts| adopts.lacks);
            if !found.workers.is_empty() {
                let workers: Vec<String> = found.workers.into_iter().map(|worker| worker.name).collect();
                info!(service = name, "adopts {} sockets", workers.len());
                self.adopted.borrow_mut().push(config);
                return Ok(Adopted { workers });
            }
            if let Some(lacks) = lacks {
                break lacks;
            }
            if begun.elapsed() > PATIENCE {
                break format!("no socket was found within {PATIENCE:?}");
            }
            tokio::time::sleep(LOOK).await;
        };
        self.end(&name, asker).await;
        Err(format!("nothing is adopted: {lacks}").into())
    }

    /// Ends a service that adopts sockets: these go on as before.
    pub(super) async fn release(
        self: &Rc<Self>,
        name: &str,
        asker: Option<Requester>,
    ) -> Result<Released, Refusal> {
        let service = self.registry.services.find(name)?.report().await?.service;
        if service.adopts.is_none() {
            return Err(format!(
                "service {name} has sockets of its own, and adopts none: to end it, take it out of the configuration and \
                 reload, or scale it to 0"
            )
            .into());
        }
        if self.changing.replace(true) {
            return Err(BUSY.to_owned().into());
        }
        self.forget_adopted(|adopted| adopted == name);
        self.end(name, asker).await;
        self.changing.set(false);
        Ok(Released { workers: service.workers.into_iter().map(|worker| worker.name).collect() })
    }

    async fn end(&self, name: &str, asker: Option<Requester>) {
        if let Ok(service) = self.registry.services.find(name) {
            let _ = service.asked_by(asker).tell(Command::Stop);
        }
        while self.registry.services.contains(name) {
            self.registry.ended.notified().await;
        }
    }
}

/// The service that the command `adopt` asks for. Errors name the field.
fn service(name: &str, asked: Adopt) -> Result<ServiceConfig, String> {
    let Adopt { listen, pid, pid_file, unit, any, affinity, replace_program } = asked;
    config::check_name(name)?;
    let adopt = Some(Adoption::by_command((pid, pid_file, unit, any), replace_program)?);
    let listener = |text: &String| text.parse::<Listener>().map_err(|error| format!("`listen`: {error}"));
    let listen: Vec<Listener> = listen.iter().map(listener).collect::<Result<_, _>>()?;
    let affinity: Affinity = affinity
        .map_or(Ok(Affinity::Flow), |affinity| affinity.parse())
        .map_err(|error| format!("`affinity`: {error}"))
        .and_then(|affinity: Affinity| affinity.read(host::read_of_root))?;
    let ready = Ready::Immediate;
    let service = ServiceConfig { adopt, affinity, ready, ..ServiceConfig::new(name, listen, 0) };
    service.validate()?;
    Ok(service)
}
