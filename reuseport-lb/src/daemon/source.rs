//! Where the configuration comes from, and reading it, also again for a reload.

use std::path::PathBuf;
use std::time::Duration;

use reuseport_lb_client::api::Refusal;
use tracing::warn;

use super::startable;
use crate::config::{self, Invalid, Machine, ServiceConfig};
use crate::kernel::host;
use crate::offload;

/// Time limit of reading the file again and looking for commands.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a configuration is told of this machine.
pub const HERE: Machine = Machine { user: host::find_user, group: host::find_group, file: host::read_text };

/// Where services come from.
pub enum Source {
    /// A file, which can be read again.
    File(PathBuf),
    /// The command line.
    Arguments(Box<ServiceConfig>),
}

impl Source {
    /// Reads the configuration at the start.
    pub(super) fn read(&self) -> Result<Vec<ServiceConfig>, Invalid> {
        match self {
            Self::File(file) => config::read(file, HERE),
            Self::Arguments(service) => Ok(vec![(**service).clone()]),
        }
    }

    /// The file, if the configuration can be read again.
    pub(super) fn file(&self) -> Option<PathBuf> {
        match self {
            Self::File(file) => Some(file.clone()),
            Self::Arguments(_) => None,
        }
    }
}

/// Reads the configuration again, in a thread so that it does not hold the loop up.
pub(super) async fn read_again(
    file: Option<PathBuf>,
    runtime_dir: PathBuf,
) -> Result<Vec<ServiceConfig>, Refusal> {
    let Some(file) = file else {
        return Err("there is no configuration file: the daemon was started without --config"
            .to_owned()
            .into());
    };
    let path = file.clone();
    let read = offload::in_thread_within(PATIENCE, "reading", move || config::read(&path, HERE)).await;
    let invalid = |error: String| Refusal::InvalidConfiguration(format!("nothing is changed: {error}"));
    let services = match read {
        Ok(read) => read.map_err(|error| invalid(error.to_string()))?,
        Err(error) => {
            return Err(invalid(format!(
                "cannot read {}: {error:#}; is it a FIFO, or on a file system whose server is gone?",
                file.display()
            )));
        }
    };
    let wanted = services.clone();
    let looked = move || wanted.iter().try_for_each(|service| startable::require(service, &runtime_dir));
    let looked = offload::in_thread_within(PATIENCE, "looking for commands", looked).await;
    looked
        .unwrap_or_else(|error| Err(format!("cannot look for commands in PATH: {error:#}")))
        .map_err(|error| Refusal::from(format!("nothing is changed: {error}")))?;
    config::warnings(&services).iter().for_each(|line| warn!("{line}"));
    Ok(services)
}
