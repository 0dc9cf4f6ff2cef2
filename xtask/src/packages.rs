//! Packages of Debian and Ubuntu, unpacked into a cache folder: nothing is installed, the system does not change, and
//! no root is needed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::apt;
use crate::shell::{find, quietly, step};

/// The system's own Python, which its packages are made for.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// The folder for everything that is made or fetched outside of the repository.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set, so there is no place for a cache")?;
    let cache = base.join("reuseport-lb");
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    Ok(cache)
}

/// Unpacks `packages` with their missing dependencies; returns the folder, which has `usr/` and so on. Done again only
/// if the list changes.
pub(crate) fn unpacked(name: &str, packages: &[&str]) -> Result<PathBuf> {
    unpack(name, packages, || {
        // A simulated installation lists what is missing. Conflicts do not matter: nothing is installed.
        let plan = quietly(
            apt::command("apt-get")?
                .args(["install", "--simulate", "--no-install-recommends", "--yes"])
                .args(packages),
        )
        .with_context(|| format!("this distribution does not offer {}", packages.join(" ")))?;
        let mut missing: Vec<String> = plan
            .lines()
            .filter_map(|line| Some(line.strip_prefix("Inst ")?.split(' ').next()?.to_owned()))
            .collect();
        // Installed ones are unpacked as well, so that all are in one folder.
        let others: Vec<String> = packages
            .iter()
            .filter(|name| !missing.iter().any(|it| it == *name))
            .map(|it| (*it).into())
            .collect();
        missing.extend(others);
        Ok(missing)
    })
}

/// Unpacks one package without its dependencies, for one of which no program is run; returns the folder.
pub(crate) fn unpacked_alone(package: &str) -> Result<PathBuf> {
    unpack(package, &[package], || Ok(vec![package.to_owned()]))
}

/// The names of packages that match a regular expression, at least one, in no order.
pub(crate) fn named(pattern: &str) -> Result<Vec<String>> {
    apt::look(|| {
        let found = quietly(apt::command("apt-cache")?.args(["search", "--names-only", pattern]))?;
        let names: Vec<String> =
            found.lines().filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect();
        ensure!(!names.is_empty(), "this distribution offers no package with a name like {pattern}");
        Ok(names)
    })
}

fn unpack(name: &str, packages: &[&str], list: impl FnOnce() -> Result<Vec<String>>) -> Result<PathBuf> {
    let root = cache()?.join(name);
    let stamp = root.join("complete");
    let wanted = packages.join(" ");
    if fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(root);
    }
    let list = apt::look(list)?;
    let _ = fs::remove_dir_all(&root);
    let archives = root.join("archives");
    fs::create_dir_all(&archives).with_context(|| format!("cannot make {}", archives.display()))?;
    apt::download(name, list.iter(), &archives)?;
    step(&format!("unpacking {name}"), || {
        for archive in fs::read_dir(&archives)? {
            quietly(Command::new("dpkg").arg("-x").arg(archive?.path()).arg(&root))?;
        }
        Ok(())
    })?;
    fs::remove_dir_all(&archives)?;
    fs::write(&stamp, wanted)?;
    Ok(root)
}

/// Fetches those of `needed` (programs and their packages) that the system lacks, into `name`; returns the folder of
/// the programs, `None` if none is missing.
pub(crate) fn programs(name: &str, needed: &[(&str, &str)]) -> Result<Option<PathBuf>> {
    let on_system = |program: &str| {
        find(program).is_some()
            || ["/usr/sbin", "/sbin"].iter().any(|place| Path::new(place).join(program).is_file())
    };
    let missing: Vec<_> = needed.iter().filter(|(program, _)| !on_system(program)).collect();
    if missing.is_empty() {
        return Ok(None);
    }
    let names: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    if !apt::available() {
        bail!("this needs {}: install them with your distribution's package manager", names.join(", "));
    }
    let root = unpacked(name, &names)?;
    let programs: Vec<&str> = missing.iter().map(|(program, _)| *program).collect();
    wrapped(&root, &programs).map(Some)
}

/// Makes a folder with a script for each of `programs`, which runs it from the packages that are unpacked in `root`.
pub(crate) fn wrapped(root: &Path, programs: &[&str]) -> Result<PathBuf> {
    let folder = root.join("bin-of-tests");
    fs::create_dir_all(&folder)?;
    for program in programs {
        // Chromium's own script looks for its settings in /etc.
        let places = ["usr/lib/chromium", "usr/bin", "usr/sbin", "bin", "sbin"]
            .map(|place| root.join(place).join(program));
        let Some(place) = places.iter().find(|place| place.exists()) else {
            bail!("{program} is not where it was expected in {}", root.display());
        };
        // Variables are set for each program only. Libraries of systemd and of PulseAudio are in folders of their own.
        let libraries = libraries(root).unwrap_or_else(|_| root.join("usr/lib"));
        let erlang = erlang(root).filter(|_| *program == "erl");
        let script = if is_python(place) {
            let modules = root.join("usr/lib/python3/dist-packages");
            // They may need modules of the system.
            let python = if Path::new(PYTHON).exists() { PYTHON } else { "python3" };
            format!("PYTHONPATH={} exec {python} {} \"$@\"\n", modules.display(), place.display())
        } else {
            // uWSGI looks for its plugins in /usr/lib only.
            let plugins = root.join("usr/lib/uwsgi/plugins");
            let older = root.join("lib").join(libraries.file_name().unwrap_or_default());
            format!(
                "{}{}{}UWSGI_PLUGINS_DIR={} LD_LIBRARY_PATH={}:{}:{}:{} exec {} \"$@\"\n",
                python_home(root),
                fonts(root),
                erlang.as_deref().map(erlang_home).unwrap_or_default(),
                plugins.display(),
                libraries.display(),
                libraries.join("systemd").display(),
                libraries.join("pulseaudio").display(),
                older.display(),
                erlang.as_ref().unwrap_or(place).display()
            )
        };
        wrap(&folder.join(program), &script)?;
        if let Some(erlang) = erlang {
            let (compiler, by) = (erlang.with_file_name("erlc"), folder.join(program));
            let script = format!("ERLC_EMULATOR={} exec {} \"$@\"\n", by.display(), compiler.display());
            wrap(&folder.join("erlc"), &script)?;
        }
    }
    Ok(folder)
}

/// Makes a program of a shell's script.
pub(crate) fn wrap(program: &Path, script: &str) -> Result<()> {
    fs::write(program, format!("#!/bin/sh\n{script}"))?;
    fs::set_permissions(program, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Where Python finds its own modules, as a variable in front of a command; nothing if they are the system's.
fn python_home(root: &Path) -> String {
    let usr = root.join("usr");
    let has_python = fs::read_dir(usr.join("lib"))
        .is_ok_and(|entries| entries.flatten().any(|entry| entry.path().join("encodings").is_dir()));
    if has_python { format!("PYTHONHOME={} ", usr.display()) } else { String::new() }
}

/// What Erlang's own script would run, which looks for it in /usr/lib only.
fn erlang(root: &Path) -> Option<PathBuf> {
    let versions = fs::read_dir(root.join("usr/lib/erlang")).ok()?;
    versions.flatten().map(|version| version.path().join("bin/erlexec")).find(|program| program.exists())
}

/// What that script would set, as variables in front of a command.
fn erlang_home(program: &Path) -> String {
    let folder = |depth| program.ancestors().nth(depth).unwrap_or(program).display();
    format!("ROOTDIR={} BINDIR={} EMU=beam PROGNAME=erl ", folder(3), folder(1))
}

/// Where fonts are found, as a variable in front of a command; nothing if they are the system's.
fn fonts(root: &Path) -> String {
    let own = root.join("etc/fonts/fonts.conf").exists();
    if own { format!("FONTCONFIG_SYSROOT={} ", root.display()) } else { String::new() }
}

/// Whether a program is a script for Python.
fn is_python(program: &Path) -> bool {
    let first =
        fs::read(program).ok().and_then(|text| text.split(|byte| *byte == b'\n').next().map(<[u8]>::to_vec));
    first.is_some_and(|line| line.starts_with(b"#!") && String::from_utf8_lossy(&line).contains("python"))
}

/// The folder of libraries of this machine's architecture below `root`.
pub(crate) fn libraries(root: &Path) -> Result<PathBuf> {
    let library = root.join("usr/lib");
    let found = fs::read_dir(&library)
        .with_context(|| format!("cannot read {}", library.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.to_string_lossy().ends_with("-linux-gnu"));
    match found {
        Some(path) => Ok(path),
        None => bail!("{} has no folder of libraries", library.display()),
    }
}
