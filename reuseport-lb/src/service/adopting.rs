//! A service whose sockets others have open: what was found goes to its engine, and into its status. Not: looking for them
//! (`sightings.rs`).

use std::time::Instant;

use reuseport_lb_client::api::Adopts;
use tracing::{info, warn};

use super::{Service, report};
use crate::domain::engine::Input;
use crate::kernel::adopt::Sighting;

impl Service {
    /// Makes the workers what was found.
    pub(super) fn saw(&mut self, sighting: &Sighting) {
        self.engine.asked_by(None);
        let sighted = self.engine.ports().0.sighted(sighting);
        self.engine.handle(Input::Sighted(sighted), Instant::now());
        let service = &self.config().name;
        match (&self.sightings.lacks, &sighting.lacks) {
            (before, Some(lacks)) if before.as_ref() != Some(lacks) => {
                warn!(service, "{lacks}: until that changes, the kernel chooses there");
            }
            (Some(_), None) => info!(service, "its sockets are found"),
            _ => {}
        }
        self.sightings.lacks.clone_from(&sighting.lacks);
    }

    /// What the service adopts, for its status.
    pub(super) fn adopts(&self) -> Option<Adopts> {
        let lacks = self.sightings.lacks.as_deref().or_else(|| self.engine.refusals().next());
        report::adopts(self.config(), lacks)
    }
}
