//! Debian's apt, with package lists of its own in the cache folder: those of the system may be missing or old, and
//! updating them needs root.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::packages::cache;
use crate::shell::{find, quietly, step};

/// How long lists are not fetched again once all of them have been.
const FRESH: Duration = Duration::from_secs(6 * 3600);

/// Whether this machine has the programs to fetch and unpack packages.
pub(crate) fn available() -> bool {
    ["apt-get", "apt-cache", "dpkg"].iter().all(|program| find(program).is_some())
}

/// Looks for packages. If `find` fails and the lists could not be fetched, the error says that: what the distribution
/// has is then not known.
pub(crate) fn look<T>(find: impl FnOnce() -> Result<T>) -> Result<T> {
    judged(update(), find())
}

fn judged<T>(updated: Result<()>, found: Result<T>) -> Result<T> {
    found.map_err(|missing| match updated {
        Ok(()) => missing,
        Err(error) => error.context("cannot fetch the distribution's lists of packages; is there a network?"),
    })
}

/// Downloads packages, for `what`, into a folder.
pub(crate) fn download(
    what: &str,
    packages: impl ExactSizeIterator<Item: AsRef<OsStr>>,
    folder: &Path,
) -> Result<()> {
    step(&format!("downloading {} packages for {what}", packages.len()), || {
        quietly(command("apt-get")?.arg("download").args(packages).current_dir(folder))
            .context("cannot download packages; is there a network?")
    })?;
    Ok(())
}

/// Fetches the lists unless they are fresh.
fn update() -> Result<()> {
    let lists = cache()?.join("apt/lists");
    let fresh = fs::metadata(lists.join("fresh"))
        .and_then(|stamp| stamp.modified())
        .is_ok_and(|at| at.elapsed().is_ok_and(|age| age < FRESH));
    if fresh {
        return Ok(());
    }
    fs::create_dir_all(lists.join("partial"))?;
    // Otherwise it succeeds even if it has fetched none of them.
    let all = ["--quiet=2", "-o", "APT::Update::Error-Mode=any", "update"];
    step("reading the lists of packages", || quietly(command("apt-get")?.args(all)))?;
    fs::write(lists.join("fresh"), "")?;
    Ok(())
}

/// Makes a command of apt that writes no file of the system.
pub(crate) fn command(program: &str) -> Result<Command> {
    let own = cache()?.join("apt");
    fs::create_dir_all(own.join("cache/archives/partial"))?;
    let mut command = Command::new(program);
    command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
    command.arg("-o").arg(format!("Dir::State::Lists={}", own.join("lists").display()));
    command.arg("-o").arg(format!("Dir::Cache={}", own.join("cache").display()));
    // So neither locks nor the sandbox user are needed.
    command.args(["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=", "-o", "Acquire::Retries=3"]);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use anyhow::{Result, anyhow};

    use super::judged;

    fn said(updated: Result<()>, found: Result<()>) -> String {
        judged(updated, found).map_or_else(|error| format!("{error:#}"), |()| "found".into())
    }

    #[test]
    fn what_is_missing_is_blamed_on_the_distribution_only_if_its_lists_could_be_fetched() {
        let offline = || Err(anyhow!("no answer"));
        let missing = || Err(anyhow!("it has none"));
        assert_eq!(said(Ok(()), missing()), "it has none");
        let no_network = "cannot fetch the distribution's lists of packages; is there a network?: no answer";
        assert_eq!(said(offline(), missing()), no_network);
        assert_eq!(said(offline(), Ok(())), "found", "older lists have it");
    }
}
