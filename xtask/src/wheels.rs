//! Programs of Python's package index, unpacked into a cache folder by a pip that is not installed either: the system and
//! its Python do not change.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt;
use crate::packages;
use crate::shell::{find, quietly, step};

/// Versions and digests of all that is fetched, in pip's own format.
const WANTED: &str = include_str!("wheels.txt");

/// Programs among it.
const PROGRAMS: &[&str] = &["exabgp", "granian"];

/// Python itself, with all of it.
const PYTHON: &str = "python3-with-wheels";

/// Fetches what [`WANTED`] lists for the Python that `programs` of the distribution run with; returns the folder of
/// [`PROGRAMS`] and [`PYTHON`]. Done again only if the list or that Python changes.
pub(crate) fn programs(name: &str, programs: Option<&Path>) -> Result<PathBuf> {
    let python = python(programs).context("this needs python3: install it")?;
    let version = quietly(Command::new(&python).arg("--version"))?;
    let root = packages::cache()?.join(name);
    let (modules, folder, stamp) = (root.join("modules"), root.join("bin-of-tests"), root.join("complete"));
    let wanted = format!("{} {version}{PYTHON}\n{WANTED}", python.display());
    if fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(folder);
    }
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    let list = root.join("wheels.txt");
    fs::write(&list, WANTED)?;
    let mut pip = Command::new(&python);
    match unpacked_pip()? {
        Some(wheel) => pip.arg(wheel.join("pip")),
        None => {
            quietly(Command::new(&python).args(["-m", "pip", "--version"]))
                .context("this needs pip: install it with your distribution's package manager")?;
            pip.args(["-m", "pip"])
        }
    };
    pip.args([
        "install",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
        "--root-user-action=ignore",
    ]);
    pip.args(["--require-hashes", "--only-binary=:all:", "--no-deps", "--target"]).arg(&modules);
    pip.arg("--requirement").arg(&list);
    step("downloading programs and modules of Python", || {
        quietly(&mut pip).context("cannot download them; is there a network?")
    })?;
    fs::create_dir_all(&folder)?;
    for program in PROGRAMS {
        let script = modules.join("bin").join(program);
        if !script.is_file() {
            bail!("{program} is not where it was expected in {}", modules.display());
        }
        let run = format!("exec {} {} \"$@\"\n", python.display(), script.display());
        packages::wrap(&folder.join(program), &format!("PYTHONPATH={} {run}", modules.display()))?;
    }
    let run = format!("exec {} \"$@\"\n", python.display());
    packages::wrap(&folder.join(PYTHON), &format!("PYTHONPATH={} {run}", modules.display()))?;
    fs::write(&stamp, wanted)?;
    Ok(folder)
}

/// The system's Python, or one that was unpacked beside `programs`.
fn python(programs: Option<&Path>) -> Option<PathBuf> {
    let unpacked = programs.map(|folder| folder.join("python3"));
    let mut usual = [Some(packages::PYTHON.into()), unpacked].into_iter().flatten();
    usual.find(|python: &PathBuf| python.is_file()).or_else(|| find("python3"))
}

/// The distribution's pip, as a file that Python can run; `None`: there are no packages here.
fn unpacked_pip() -> Result<Option<PathBuf>> {
    if !apt::available() {
        return Ok(None);
    }
    let folder = packages::unpacked_alone("python3-pip-whl")?.join("usr/share/python-wheels");
    let wheels = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let is_pip = |file: &PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("pip-") && name.ends_with(".whl")
    };
    let found = wheels.flatten().map(|entry| entry.path()).find(is_pip);
    found.map(Some).with_context(|| format!("{} has no pip", folder.display()))
}
