//! Runs other programs, and prints which step is going on and for how long.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::build::target;

/// A step that ends within this time is not announced.
const QUIET: Duration = Duration::from_secs(2);

/// Root folder of the repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// The packages that are built for the BPF target.
pub(crate) const KERNEL_PROGRAMS: [&str; 2] = ["reuseport-lb-ebpf", "bench-ebpf"];

/// Makes a cargo command for all packages of the workspace but those of [`KERNEL_PROGRAMS`].
pub(crate) fn cargo_for_all(verb: &str) -> Command {
    let mut command = cargo(&[verb, "--workspace"]);
    for package in KERNEL_PROGRAMS {
        command.args(["--exclude", package]);
    }
    command
}

/// Makes a cargo command in the repository, with the versions of the lock file, for the target folder of xtask.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = unlocked(&arguments[..1]);
    // `cargo fmt` has no `--locked`.
    if arguments[0] != "fmt" {
        command.arg("--locked");
    }
    command.args(&arguments[1..]);
    command
}

/// Makes a cargo command in the repository without `--locked`, for packages with a lock file of their own.
pub(crate) fn unlocked(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // A relative one is from where xtask was started.
    command.args(arguments).current_dir(repository()).env("CARGO_TARGET_DIR", target());
    command
}

/// Runs a command that must succeed, with its output in view.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", name(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", described(command));
    }
    Ok(())
}

/// Runs a command that must succeed; its output is shown only if it does not.
pub(crate) fn quietly(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", name(command)))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!(
            "{} failed ({}):\n{}",
            described(command),
            output.status,
            String::from_utf8_lossy(&said).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Does one step of a longer piece of work. If it takes long, prints what it is, counts seconds, and prints how long it
/// took.
pub(crate) fn step<T>(what: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    let (done, ended) = mpsc::channel::<()>();
    let (announced, live) = (what.to_owned(), std::io::stderr().is_terminal());
    let watch = std::thread::spawn(move || {
        let mut wait = QUIET;
        let mut shown = false;
        while ended.recv_timeout(wait) == Err(mpsc::RecvTimeoutError::Timeout) {
            let seconds = begun.elapsed().as_secs();
            if live {
                eprint!("\r  {announced} … {seconds} s ");
                // An error of the terminal does not end the work.
                let _ = std::io::stderr().flush();
            } else if !shown || seconds.is_multiple_of(30) {
                eprintln!("  {announced} … {seconds} s");
            }
            shown = true;
            wait = Duration::from_secs(1);
        }
        shown && live
    });
    let result = act();
    drop(done);
    let open_line = watch.join().unwrap_or(false);
    if open_line {
        eprint!("\r");
    }
    if begun.elapsed() >= QUIET {
        let outcome = if result.is_ok() { "done" } else { "failed" };
        eprintln!("  {what}: {outcome} after {:.1} s", begun.elapsed().as_secs_f64());
    }
    result
}

/// Flags for a compiler whose output names no folder of this machine.
pub(crate) fn same_paths_everywhere() -> Vec<String> {
    let home = |variable, folder| {
        let below_home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(folder));
        std::env::var_os(variable).map(PathBuf::from).or_else(below_home)
    };
    let mut known = vec![(repository().to_owned(), "/reuseport-lb")];
    // The folder of each registry has its name.
    let registries =
        home("CARGO_HOME", ".cargo").and_then(|cargo| cargo.join("registry/src").read_dir().ok());
    known.extend(registries.into_iter().flatten().flatten().map(|folder| (folder.path(), "/cargo")));
    known.extend(home("RUSTUP_HOME", ".rustup").map(|path| (path, "/rustup")));
    known.into_iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())).collect()
}

/// Finds `program` on the PATH.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file())
}

/// Fails if `what` cannot be built because there is no C++ compiler.
pub(crate) fn needs_cxx(what: &str) -> Result<()> {
    if std::env::var_os("CXX").is_none() && !["c++", "g++", "clang++"].iter().any(|name| find(name).is_some())
    {
        bail!(
            "{what} needs a C++ compiler: on Debian and Ubuntu `apt-get install g++`, elsewhere the distribution's \
             package of one, or name it in CXX"
        );
    }
    Ok(())
}

/// Puts `value` in front of a list of paths in the environment that `command` has so far.
pub(crate) fn prepend(command: &mut Command, variable: &str, value: &Path) {
    let own = command.get_envs().find(|(name, _)| *name == variable);
    let old = match own {
        Some((_, value)) => value.unwrap_or_default().to_owned(),
        None => std::env::var_os(variable).unwrap_or_default(),
    };
    let paths = std::iter::once(value.to_owned())
        .chain(std::env::split_paths(&old).filter(|p| !p.as_os_str().is_empty()));
    if let Ok(joined) = std::env::join_paths(paths) {
        command.env(variable, joined);
    }
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn described(command: &Command) -> String {
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy();
    format!("`{program} {}`", arguments.join(" "))
}
