//! `host drain`: that the machine is to get nothing new, in a file for the next daemon, too. Not: what follows from it
//! (`domain/judgement.rs`).

use std::cell::RefCell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use reuseport_lb_client::api::{EventKind, HostDrain, HostDrained, Refusal, Requester};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::handle::Handle;
use crate::kernel::host;
use crate::service::event_log::EventLog;

/// Name of the file in the runtime directory; it is there while the machine is drained.
const FILE: &str = "host-drained";

/// Whether an earlier daemon has drained the machine.
pub(super) fn is_left(runtime_dir: &Path) -> bool {
    runtime_dir.join(FILE).exists()
}

/// Drains the machine, and ends that.
pub(super) struct HostDraining {
    file: PathBuf,
    handle: Handle,
    events: Rc<EventLog>,
    /// Ends it when its time is over.
    timer: RefCell<Option<JoinHandle<()>>>,
}

impl HostDraining {
    /// Goes on as an earlier daemon had it.
    pub(super) fn new(runtime_dir: &Path, handle: Handle, events: Rc<EventLog>) -> Rc<Self> {
        let file = runtime_dir.join(FILE);
        let this = Rc::new(Self { file, handle, events, timer: RefCell::default() });
        match this.read() {
            Ok(None) => {}
            Ok(Some(drained)) => {
                info!("the host is drained, as an earlier daemon was told");
                this.hold(drained);
            }
            Err(error) => {
                warn!("cannot read {}: {error}; the host counts as drained", this.file.display());
                this.hold(HostDrained { since: host::now(), until: None });
            }
        }
        this
    }

    /// Drains the machine (for a time, if one is given), or with `None` ends that. Fails with nothing changed.
    pub(super) fn change(
        self: &Rc<Self>,
        drain: Option<HostDrain>,
        by: Option<Requester>,
    ) -> Result<(), Refusal> {
        let Some(HostDrain { for_ms }) = drain else {
            return match self.handle.host_drained() {
                Some(_) => self.end(by),
                None => Ok(()),
            };
        };
        if for_ms == Some(0) {
            return Err(Refusal::Malformed("`for_ms` is 0: say for how long, or leave it out".into()));
        }
        let since = host::now();
        let until = for_ms.map(|time| since + Duration::from_millis(time).as_secs_f64());
        let since = self.handle.host_drained().map_or(since, |drained| drained.since);
        let drained = HostDrained { since, until };
        self.write(&drained).map_err(|error| {
            Refusal::Failed(format!("nothing is changed: cannot write {}: {error}", self.file.display()))
        })?;
        self.hold(drained);
        info!("the host is drained: whoever asks is told that nothing new should come");
        self.events.add(EventKind::HostDrained { until }, None, by);
        Ok(())
    }

    fn hold(self: &Rc<Self>, drained: HostDrained) {
        self.handle.set_host_drained(Some(drained));
        let timer = drained.until.map(|until| {
            let this = self.clone();
            tokio::task::spawn_local(async move {
                let left = Duration::try_from_secs_f64(until - host::now()).unwrap_or_default();
                tokio::time::sleep(left).await;
                if let Err(error) = this.end(None) {
                    warn!("the time of `host drain` is over, and the next daemon will not know: {error}");
                }
            })
        });
        if let Some(before) = self.timer.replace(timer) {
            before.abort();
        }
    }

    fn end(&self, by: Option<Requester>) -> Result<(), Refusal> {
        match fs::remove_file(&self.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Refusal::Failed(format!("cannot remove {}: {error}", self.file.display())));
            }
            _ => {}
        }
        self.handle.set_host_drained(None);
        info!("the host is not drained any more");
        self.events.add(EventKind::HostUndrained, None, by.clone());
        // A timer that ends it is the one that runs this.
        if by.is_some()
            && let Some(timer) = self.timer.take()
        {
            timer.abort();
        }
        Ok(())
    }

    /// What the file says; `None` if it is missing, or its time is over.
    fn read(&self) -> io::Result<Option<HostDrained>> {
        let text = match fs::read(&self.file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let drained: HostDrained = serde_json::from_slice(&text)?;
        if drained.until.is_some_and(|until| until <= host::now()) {
            fs::remove_file(&self.file)?;
            return Ok(None);
        }
        Ok(Some(drained))
    }

    fn write(&self, drained: &HostDrained) -> io::Result<()> {
        host::replace_file(&self.file, &serde_json::to_vec(drained)?)
    }
}
