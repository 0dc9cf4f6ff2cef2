//! What has happened to one service: incidents that are still to be told, and what all so far add up to, PURE.

use super::incident::{Asker, Cause, Incident, IncidentKind};
use super::tally::Tally;

/// Incidents that are still to be told, what all so far add up to, and who asked for the change that is being made.
#[derive(Default)]
pub struct IncidentQueue {
    asker: Option<Asker>,
    tally: Tally,
    untold: Vec<Incident>,
}

impl IncidentQueue {
    /// Goes on counting from what an earlier daemon has counted.
    #[must_use]
    pub fn after(tally: Tally) -> Self {
        Self { tally, ..Self::default() }
    }

    /// What all incidents so far add up to.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Notes who asks for what is done from now on; `None`: nobody.
    pub fn asked_by(&mut self, asker: Option<Asker>) {
        self.asker = asker;
    }

    /// Who asked for what is done now.
    #[must_use]
    pub fn by(&self) -> Cause {
        Cause { reason: None, by: self.asker.clone() }
    }

    /// The cause of what is done now, with who asked for it.
    #[must_use]
    pub fn asked(&self, reason: impl Into<String>) -> Cause {
        Cause { reason: Some(reason.into()), ..self.by() }
    }

    /// Adds an incident, and logs it.
    pub fn add(&mut self, service: &str, worker: Option<&str>, kind: IncidentKind, cause: Cause) {
        let incident = Incident { worker: worker.map(str::to_owned), kind, cause };
        incident.log(service);
        self.tally.note(&incident.kind);
        self.untold.push(incident);
    }

    /// Takes all incidents out.
    #[must_use]
    pub fn take(&mut self) -> Vec<Incident> {
        std::mem::take(&mut self.untold)
    }
}
