//! Root folders of systems on which nothing is installed but some packages of Debian, to try as on a new machine. None of
//! their programs has run yet, no script either.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::apt;
use crate::packages::cache;
use crate::shell::{quietly, step};

/// What each system has.
const LEAST: &[&str] = &["base-files", "coreutils", "dash", "dpkg", "libc-bin"];

const USERS: &str =
    "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
const GROUPS: &str = "root:x:0:\nnogroup:x:65534:\n";

/// Makes a root with `packages` and all that they depend on; returns the folder. Done again only if the list changes.
pub(crate) fn root(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let (root, stamp) = (cache()?.join(name), cache()?.join(format!("{name}.complete")));
    let wanted = [LEAST, packages].concat().join(" ");
    if fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(root);
    }
    let _ = fs::remove_dir_all(&root);
    let archives = cache()?.join(format!("{name}.archives"));
    let _ = fs::remove_dir_all(&archives);
    fs::create_dir_all(&archives)?;
    let nothing = archives.join("status");
    fs::write(&nothing, "")?;
    let mut plan = apt::command("apt-get")?;
    plan.arg("-o").arg(format!("Dir::State::status={}", nothing.display()));
    plan.args(["install", "--simulate", "--no-install-recommends", "--yes"]).args(wanted.split(' '));
    let plan = apt::look(|| {
        quietly(&mut plan).with_context(|| format!("this distribution does not offer {wanted}"))
    })?;
    let names: BTreeSet<&str> =
        plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next()).collect();
    apt::download(name, names.iter(), &archives)?;
    step(&format!("making {name}"), || {
        prepare(&root)?;
        let mut known = String::new();
        for archive in fs::read_dir(&archives)? {
            let archive = archive?.path();
            if archive.extension().is_some_and(|end| end == "deb") {
                known += &install(&archive, &root)?;
            }
        }
        fs::write(root.join("var/lib/dpkg/status"), known)?;
        Ok(())
    })?;
    fs::remove_dir_all(&archives)?;
    fs::write(&stamp, wanted)?;
    Ok(root)
}

/// Makes what no package has: a folder for all programs, users, an empty list of packages.
fn prepare(root: &Path) -> Result<()> {
    for folder in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(root.join("usr").join(folder))?;
        symlink(format!("usr/{folder}"), root.join(folder))?;
    }
    for folder in
        ["etc", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/log", "tmp", "run", "proc", "sys", "dev"]
    {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::write(root.join("etc/passwd"), USERS)?;
    fs::write(root.join("etc/group"), GROUPS)?;
    Ok(())
}

/// Unpacks a package; returns what dpkg is to know of it.
fn install(archive: &Path, root: &Path) -> Result<String> {
    let files = Command::new("dpkg-deb").arg("--fsys-tarfile").arg(archive).stdout(Stdio::piped()).spawn();
    let mut files = files.context("cannot run dpkg-deb")?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--verbose", "--keep-directory-symlink", "--directory"]).arg(root);
    let unpacked = tar.stdin(files.stdout.take().context("dpkg-deb has no output")?).output()?;
    ensure!(unpacked.status.success() && files.wait()?.success(), "cannot unpack {}", archive.display());
    let about = quietly(Command::new("dpkg-deb").arg("--field").arg(archive))?;
    let field =
        |name: &str| about.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    let architecture = match field("Multi-Arch:") {
        "same" => format!(":{}", field("Architecture:")),
        _ => String::new(),
    };
    let list = format!("var/lib/dpkg/info/{}{architecture}.list", field("Package:"));
    let paths = String::from_utf8_lossy(&unpacked.stdout);
    let path = |line: &str| format!("{}\n", line.trim_start_matches('.').trim_end_matches('/'));
    let paths: String = paths.lines().filter(|line| *line != "./").map(path).collect();
    fs::write(root.join(list), format!("/.\n{paths}"))?;
    Ok(format!("Status: install ok installed\n{about}\n"))
}
