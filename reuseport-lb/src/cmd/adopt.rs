//! `adopt` and `release`: servers that others have started.

use anyhow::Result;
use reuseport_lb_client::api::{Adopt, Adopted, Released};

use super::client::client;
use super::names;
use super::print::{print, print_object};
use crate::cli;
use crate::daemon::Paths;

pub(super) fn adopt(arguments: &cli::AdoptArgs, paths: &Paths) -> Result<()> {
    let service = names::service(&arguments.service, "adopt")?;
    let request = Adopt {
        listen: arguments.listen.iter().map(ToString::to_string).collect(),
        pid: arguments.whose.pid,
        pid_file: arguments.whose.pid_file.clone(),
        unit: arguments.whose.unit.clone(),
        any: arguments.whose.any,
        affinity: arguments.affinity.as_ref().map(ToString::to_string),
        replace_program: arguments.replace_program,
    };
    let adopted = client(paths).adopt(service, &request)?;
    if arguments.json {
        return print_object(&adopted);
    }
    let Adopted { workers } = adopted;
    print(&format!("{service}: adopts {}\n", workers.join(", ")))
}

pub(super) fn release(arguments: &cli::ReleaseArgs, paths: &Paths) -> Result<()> {
    let service = names::service(&arguments.service, "release")?;
    let released = client(paths).release(service)?;
    if arguments.json {
        return print_object(&released);
    }
    let Released { workers } = released;
    let workers = if workers.is_empty() { "nobody was found".into() } else { workers.join(", ") };
    print(&format!("{service}: released ({workers}); the kernel chooses again\n"))
}
