//! Reading the configuration again, and applying it. Not: how it is applied (`apply.rs`).

use std::rc::Rc;

use reuseport_lb_client::api::{EventKind, Refusal, Requester};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::Daemon;
use super::answers::Answers;
use super::apply::Occasion;
use super::source::read_again;
use crate::config::Configuration;
use crate::handle::Handle;
use crate::kernel::systemd;
use crate::logging;

impl Daemon<'_> {
    /// Applies the configuration as it is now, in a task; answered when that is done.
    pub(super) fn reload(
        &self,
        answer: oneshot::Sender<Result<String, Refusal>>,
        asker: Option<Requester>,
        handle: &Handle,
        answers: &Rc<Answers>,
    ) {
        let (source, runtime_dir) = (self.source.clone(), self.surroundings.runtime_dir.clone());
        let (configurator, handle, answers) = (self.configurator.clone(), handle.clone(), answers.clone());
        let events = self.surroundings.events.clone();
        systemd::reloading();
        tokio::task::spawn_local(async move {
            let outcome = async {
                let Configuration { services, answers: wanted, log_format } =
                    read_again(source, runtime_dir).await?;
                let change =
                    answers.prepare(&wanted).map_err(|error| format!("nothing is changed: {error:#}"))?;
                let changes = configurator.apply(services, Occasion::Reload, asker.clone()).await?;
                answers.apply(change, wanted.monitors.as_deref());
                logging::use_format(log_format);
                Ok::<_, Refusal>(changes)
            }
            .await;
            handle.reloaded(outcome.is_ok());
            systemd::ready();
            match &outcome {
                Ok(changes) => {
                    info!("reloaded: {}", changes.replace('\n', "; "));
                    events.add(EventKind::Reloaded { changes: changes.clone() }, None, asker);
                }
                Err(error) => {
                    warn!("reload failed: {error}");
                    events.add(EventKind::ReloadFailed, Some(error.to_string()), asker);
                }
            }
            // The caller may have gone.
            let _ = answer.send(outcome);
        });
    }

    /// Answers what [`Daemon::reload`] would change now, or why it would fail.
    pub(super) fn dry_run(&self, answer: oneshot::Sender<Result<String, Refusal>>, answers: &Rc<Answers>) {
        let (source, runtime_dir) = (self.source.clone(), self.surroundings.runtime_dir.clone());
        let (configurator, answers) = (self.configurator.clone(), answers.clone());
        tokio::task::spawn_local(async move {
            let outcome = async {
                let Configuration { services, answers: wanted, .. } = read_again(source, runtime_dir).await?;
                // Opened, and closed again.
                answers.prepare(&wanted).map_err(|error| format!("nothing is changed: {error:#}"))?;
                Ok::<_, Refusal>(configurator.preview(services).await?)
            };
            let _ = answer.send(outcome.await);
        });
    }
}
