//! What the daemon answers to others than its administrators, and where: changed together with a configuration, or not at all.

use std::cell::Cell;
use std::rc::Rc;

use anyhow::Result;
use tracing::warn;

use super::sockets::Control;
use super::{Paths, agent, http};
use crate::config::{AnswersConfig, MetricsConfig};
use crate::handle::Handle;

/// All addresses that are served now.
pub(super) struct Answers {
    handle: Handle,
    http: http::Served,
    metrics: Rc<Cell<MetricsConfig>>,
    agent: agent::Served,
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
    let (http, agent) =
        (http::Change::prepare(http, None, http::open)?, agent::Change::prepare(agent, None, agent::open)?);
    let change = Change { http, agent, metrics };
    Ok(Opened { change, control: Control::new(paths, monitors.as_deref())? })
}

impl Answers {
    /// Answers there from now on.
    pub(super) fn new(handle: &Handle, opened: Opened) -> Self {
        let (http, agent) = (http::Served::default(), agent::Served::default());
        let (handle, metrics, control) = (handle.clone(), Rc::default(), opened.control);
        let answers = Self { handle, http, metrics, agent, control };
        answers.change(opened.change);
        answers
    }

    /// Opens what is not served already.
    pub(super) fn prepare(&self, wanted: &AnswersConfig) -> Result<Change> {
        let AnswersConfig { http, metrics, agent, .. } = wanted.clone();
        let (http, agent) = (self.http.prepare(http, http::open)?, self.agent.prepare(agent, agent::open)?);
        Ok(Change { http, agent, metrics })
    }

    /// Answers there, and to the members of this group, from now on.
    pub(super) fn apply(&self, change: Change, monitors: Option<&str>) {
        self.change(change);
        if let Err(error) = self.control.open_to(monitors) {
            warn!("{error:#}");
        }
    }

    fn change(&self, change: Change) {
        let handle = || self.handle.clone();
        self.http.apply(change.http, |address, opened| {
            http::serve(address, opened, handle(), self.metrics.clone())
        });
        self.metrics.set(change.metrics);
        self.agent.apply(change.agent, |address, listener| agent::serve(address, listener, handle()));
    }
}
