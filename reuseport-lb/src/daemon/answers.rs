//! What the daemon answers to others than its administrators, and where: changed together with a configuration, or not at all.

use anyhow::Result;
use tracing::warn;

use super::Paths;
use super::agent::{self, AgentServer};
use super::http::{self, HttpServer};
use super::sockets::Control;
use crate::config::{AnswersConfig, MetricsConfig};
use crate::handle::Handle;

/// All addresses that are served now.
pub(super) struct Answers {
    http: HttpServer,
    agent: AgentServer,
    control: Control,
}

/// A change of the addresses, of which everything that can fail is done.
pub(super) struct Change {
    http: http::Change,
    agent: agent::Change,
    metrics: MetricsConfig,
}

/// All addresses of a daemon that serves none yet, and who may ask at its control socket.
pub(super) struct Opened {
    change: Change,
    pub(super) control: Control,
}

/// Opens all addresses, and looks up the group.
pub(super) fn open(wanted: AnswersConfig, paths: &Paths) -> Result<Opened> {
    let AnswersConfig { http, metrics, agent, monitors } = wanted;
    let change = Change { http: http::open(http, None)?, agent: agent::open(agent, None)?, metrics };
    Ok(Opened { change, control: Control::new(paths, monitors.as_deref())? })
}

impl Answers {
    /// Answers there from now on.
    pub(super) fn new(handle: &Handle, opened: Opened) -> Self {
        let (http, agent) = (HttpServer::new(handle.clone()), AgentServer::new(handle.clone()));
        let answers = Self { http, agent, control: opened.control };
        answers.change(opened.change);
        answers
    }

    /// Opens what is not served already.
    pub(super) fn prepare(&self, wanted: &AnswersConfig) -> Result<Change> {
        let AnswersConfig { http, metrics, agent, .. } = wanted.clone();
        Ok(Change { http: self.http.prepare(http)?, agent: self.agent.prepare(agent)?, metrics })
    }

    /// Answers there, and to the members of this group, from now on.
    pub(super) fn apply(&self, change: Change, monitors: Option<&str>) {
        self.change(change);
        if let Err(error) = self.control.open_to(monitors) {
            warn!("{error:#}");
        }
    }

    fn change(&self, change: Change) {
        self.http.apply(change.http);
        self.http.use_metrics(change.metrics);
        self.agent.apply(change.agent);
    }
}
