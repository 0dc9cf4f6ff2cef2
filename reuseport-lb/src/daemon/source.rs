//! Where the configuration comes from, and reading it, also again for a reload.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reuseport_lb_client::api::Refusal;
use tracing::warn;

use super::startable;
use crate::config::{self, AnswersConfig, Configuration, HttpAddress, Invalid, LogFormat, Machine};
use crate::kernel::host;
use crate::{logging, offload};

/// Time limit of reading the file again and looking for commands.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a configuration is told of this machine.
pub const HERE: Machine = Machine {
    user: host::find_user,
    group: host::find_group,
    file: host::read_text,
    program: Some(host::read_of_root),
};

/// Where the configuration comes from.
#[derive(Clone)]
pub enum Source {
    /// A file, which can be read again.
    File {
        /// Its path; absolute.
        path: PathBuf,
        /// What counts more than the file.
        overruling: Overruling,
    },
    /// The command line.
    Arguments(Box<Configuration>),
}

/// What the command line says beside a file, over what that says.
#[derive(Clone)]
pub struct Overruling {
    /// Where to answer over HTTP.
    pub http: Option<HttpAddress>,
    /// Whose members may ask at the control socket.
    pub monitors: Option<String>,
    /// Where to answer agent checks.
    pub agent: Option<SocketAddr>,
    /// How the log looks.
    pub log_format: Option<LogFormat>,
}

impl Source {
    /// Reads the configuration at the start.
    pub(super) fn read(&self) -> Result<Configuration, Invalid> {
        match self {
            Self::File { path, overruling } => {
                // Also if the rest of the file is wrong: what says so is a line of the log.
                read(path, overruling.clone(), logging::use_format)
            }
            Self::Arguments(configuration) => Ok((**configuration).clone()),
        }
    }
}

fn read(
    path: &Path,
    overruling: Overruling,
    use_format: impl FnOnce(LogFormat),
) -> Result<Configuration, Invalid> {
    let Overruling { http, agent, monitors, log_format } = overruling;
    let file = config::read_with(path, HERE, |format| use_format(log_format.unwrap_or(format)))?;
    let answers = AnswersConfig {
        http: http.or(file.answers.http),
        agent: agent.or(file.answers.agent),
        monitors: monitors.or(file.answers.monitors),
        metrics: file.answers.metrics,
    };
    Ok(Configuration { answers, log_format: log_format.unwrap_or(file.log_format), ..file })
}

/// Reads the configuration again, in a thread so that it does not hold the loop up.
pub(super) async fn read_again(source: Source, runtime_dir: PathBuf) -> Result<Configuration, Refusal> {
    let Source::File { path, overruling } = source else {
        return Err("there is no configuration file: the daemon was started without --config"
            .to_owned()
            .into());
    };
    let file = path.clone();
    let read = offload::in_thread_within(PATIENCE, "reading", move || read(&path, overruling, |_| {})).await;
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
