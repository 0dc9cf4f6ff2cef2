//! Whether the workers of a service can be started on this machine: their user, what that user may access, their
//! log files and their command. Not: the verdicts and texts (`doctor/places.rs`).

use std::path::{Path, PathBuf};

use tracing::warn;

use crate::config::process::{LogTo, ProcessConfig};
use crate::config::{ServiceConfig, SocketOwner};
use crate::doctor::places::{self, Executable};
use crate::doctor::{Check, Verdict};
use crate::domain::observed::User;
use crate::kernel::executable::{self, Obstacle};
use crate::kernel::host;
use crate::kernel::probe;
use crate::kernel::rights;
use crate::placeholders;
use crate::service::with_user;

/// Checks the user of a service's workers, and their command.
#[must_use]
pub fn checks(service: &ServiceConfig, runtime_dir: &Path) -> Vec<Check> {
    let user = user(service);
    let mut checks = vec![places::worker(service, &worker(user.as_ref(), runtime_dir))];
    checks.extend(directory(service, user.as_ref()));
    checks.extend(log(service));
    checks.extend(
        service
            .command
            .first()
            .map(|program| places::command(service, &command(service, program, user.as_ref()))),
    );
    checks
}

/// Fails with what keeps the workers of a service from being started, or from sending messages.
pub fn require(service: &ServiceConfig, runtime_dir: &Path) -> Result<(), String> {
    let user = user(service);
    let found = worker(user.as_ref(), runtime_dir);
    let closed = found.closed.is_some();
    let own = service.embedded || !service.command.is_empty();
    let check = places::worker(service, &found);
    let said = format!("service {}: {}: {}; {}", service.name, check.says, check.means, check.mend);
    match check.verdict {
        Verdict::Failure if own => return Err(said),
        Verdict::Failure | Verdict::Warning if closed => warn!("{said}"),
        _ => {}
    }
    runnable(service, user.as_ref())
}

/// Fails with what keeps the command of a service from being executed.
pub fn require_command(service: &ServiceConfig) -> Result<(), String> {
    runnable(service, user(service).as_ref())
}

fn runnable(service: &ServiceConfig, user: Option<&User>) -> Result<(), String> {
    let program = service.command.first();
    let program = program.map(|program| places::command(service, &command(service, program, user)));
    let mut checks = directory(service, user).into_iter().chain(log(service)).chain(program);
    match checks.find(|it| it.verdict == Verdict::Failure) {
        Some(check) => Err(format!("service {}: {}: {}", service.name, check.says, check.mend)),
        None => Ok(()),
    }
}

/// Looks whether workers may enter their working directories, if they have their own.
fn directory(service: &ServiceConfig, user: Option<&User>) -> Option<Check> {
    let cwd = service.process.cwd.as_ref()?;
    let mut directories: Vec<PathBuf> =
        (0..service.workers).map(|worker| directory_of(service, cwd, worker)).collect();
    directories.dedup();
    let first = |closed: &dyn Fn(&Path) -> Option<String>| {
        directories.iter().find_map(|it| Some((it.display().to_string(), closed(it)?)))
    };
    let look = || first(&|directory| executable::look_into(directory).err());
    // Where a user cannot be tried, the line of the user says so.
    let (who, closed) = match user {
        Some(user) => (&*user.name, probe::as_user(user, look).ok()?),
        // A worker that runs as root has all of its rights, of which the daemon has given up most.
        None if host::is_root() => ("root", first(&missing)),
        None => ("the daemon's user", look()),
    };
    Some(places::directory(service, cwd, who, closed))
}

/// Looks whether the daemon may write into the folders of log files, if workers have any.
fn log(service: &ServiceConfig) -> Option<Check> {
    let LogTo::File(file) = &service.process.log else { return None };
    let mut folders: Vec<PathBuf> = (0..service.workers.max(1))
        .filter_map(|worker| Some(directory_of(service, &file.path, worker).parent()?.to_owned()))
        .collect();
    folders.dedup();
    let write = |folder: &PathBuf| host::reaches(folder, host::Access::WRITE_OK | host::Access::EXEC_OK);
    let look = || folders.iter().find_map(|it| Some((it.display().to_string(), write(it).err()?)));
    let closed = rights::as_daemon(look).ok().flatten();
    Some(places::log(service, &file.path, closed.map(|(folder, error)| (folder, error.to_string()))))
}

/// Why there is no such directory; `None` if there is, or if that cannot be seen.
fn missing(directory: &Path) -> Option<String> {
    match directory.metadata() {
        Ok(about) if !about.is_dir() => Some("Not a directory".into()),
        Err(error) if error.kind() != std::io::ErrorKind::PermissionDenied => Some(error.to_string()),
        _ => None,
    }
}

fn directory_of(service: &ServiceConfig, cwd: &str, worker: usize) -> PathBuf {
    let filled = placeholders::fill(cwd, &format!("{}/{worker}", service.name), 0);
    executable::current_directory().join(filled)
}

/// The user that the sockets of a service belong to; `None`: the daemon's.
pub fn socket_owner(service: &ServiceConfig) -> Option<u32> {
    user(service).filter(|_| service.socket_owner == SocketOwner::User).map(|user| user.uid)
}

fn user(service: &ServiceConfig) -> Option<User> {
    with_user(service.clone()).ok().and_then(|(_, user)| user)
}

fn worker<'a>(user: Option<&'a User>, runtime_dir: &Path) -> places::WorkerUser<'a> {
    let mut found = places::WorkerUser { user: Err(host::own_uid()), closed: None, untried: None };
    if let Some(user) = user {
        found.user = Ok(&user.name);
        match probe::as_user(user, || probe::closed(&crate::service::sd_notify::directory(runtime_dir))) {
            Ok(closed) => {
                found.closed = closed.map(|(part, error)| (part.display().to_string(), error.to_string()));
            }
            Err(error) => found.untried = Some(format!("{error:#}")),
        }
    }
    found
}

fn command(service: &ServiceConfig, program: &str, user: Option<&User>) -> Executable {
    let ProcessConfig { cwd, env, env_file, .. } = &service.process;
    // All workers run one program: the first one's directory stands for the others'.
    let directory = cwd.as_ref().map(|cwd| directory_of(service, cwd, 0));
    let search = env.get("PATH").or_else(|| env_file.as_ref()?.variables.get("PATH"));
    let find = || {
        let from = directory.clone().unwrap_or_else(executable::current_directory);
        executable::find_program_from(program, search.map(String::as_str), &from)
    };
    let found = find()?;
    let look = || {
        // For a relative path, directories above the working directory do not count. A user may find another program
        // in PATH than the daemon does: execvp(3) skips directories that are closed to the user.
        let path = match program.contains('/') {
            true => directory.as_ref().map_or_else(|| program.into(), |directory| directory.join(program)),
            false => find().unwrap_or_else(|_| found.clone()),
        };
        (executable::look(&path), path)
    };
    // If this process cannot become the user, the check of the user says so.
    let tried = user.and_then(|user| Some((user, probe::as_user(user, look).ok()?)));
    let (who, (looked, path)) = match tried {
        Some((user, tried)) => (user.name.clone(), tried),
        None => ("the daemon".into(), look()),
    };
    let shown = if program.contains('/') { &found } else { &path }.display().to_string();
    match looked {
        Ok(()) => {}
        Err(Obstacle::Missing(why)) => return Err(why),
        Err(Obstacle::Closed(why)) => return Ok((shown, Some((who, why)))),
    }
    // A file that the user may execute and not read is a program, or a script, which then fails.
    if let (Some(user), Ok(true)) = (user, executable::is_script(&path)) {
        let denied = probe::as_user(user, || executable::is_script(&path)).is_ok_and(|read| read.is_err());
        if denied {
            let why = "its interpreter reads a script as its user, who may not: Permission denied".to_owned();
            return Ok((shown, Some((who, why))));
        }
    }
    Ok((shown, None))
}
