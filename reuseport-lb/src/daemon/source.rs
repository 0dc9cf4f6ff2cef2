//! Where the configuration comes from, and reading it, also again for a reload.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reuseport_lb_client::api::Refusal;
use tracing::warn;

use super::startable;
use crate::config::{self, Configuration, HttpAddress, Invalid, Machine};
use crate::kernel::host;
use crate::offload;

/// Time limit of reading the file again and looking for commands.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a configuration is told of this machine.
pub const HERE: Machine = Machine { user: host::find_user, group: host::find_group, file: host::read_text };

/// Where the configuration comes from.
#[derive(Clone)]
pub enum Source {
    /// A file, which can be read again.
    File {
        /// Its path; absolute.
        path: PathBuf,
        /// The address that the command line gives for HTTP; counts more than the file's.
        http: Option<HttpAddress>,
    },
    /// The command line.
    Arguments(Box<Configuration>),
}

impl Source {
    /// Reads the configuration at the start.
    pub(super) fn read(&self) -> Result<Configuration, Invalid> {
        match self {
            Self::File { path, http } => read(path, http.clone()),
            Self::Arguments(configuration) => Ok((**configuration).clone()),
        }
    }
}

fn read(path: &Path, http: Option<HttpAddress>) -> Result<Configuration, Invalid> {
    let file = config::read(path, HERE)?;
    Ok(Configuration { http: http.or(file.http), ..file })
}

/// Reads the configuration again, in a thread so that it does not hold the loop up.
pub(super) async fn read_again(source: Source, runtime_dir: PathBuf) -> Result<Configuration, Refusal> {
    let Source::File { path, http } = source else {
        return Err("there is no configuration file: the daemon was started without --config"
            .to_owned()
            .into());
    };
    let file = path.clone();
    let read = offload::in_thread_within(PATIENCE, "reading", move || read(&path, http)).await;
    let invalid = |error: String| Refusal::InvalidConfiguration(format!("nothing is changed: {error}"));
    let configuration = match read {
        Ok(read) => read.map_err(|error| invalid(error.to_string()))?,
        Err(error) => {
            return Err(invalid(format!(
                "cannot read {}: {error:#}; is it a FIFO, or on a file system whose server is gone?",
                file.display()
            )));
        }
    };
    let wanted = configuration.services.clone();
    let looked = move || wanted.iter().try_for_each(|service| startable::require(service, &runtime_dir));
    let looked = offload::in_thread_within(PATIENCE, "looking for commands", looked).await;
    looked
        .unwrap_or_else(|error| Err(format!("cannot look for commands in PATH: {error:#}")))
        .map_err(|error| Refusal::from(format!("nothing is changed: {error}")))?;
    config::warnings(&configuration.services).iter().for_each(|line| warn!("{line}"));
    Ok(configuration)
}
