//! The kernel of a guest: from a package that is unpacked into the cache, or from a folder like that.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::exceptions::Version;
use crate::apt;
use crate::packages;
use crate::shell::{quietly, step};

/// Packages of Debian 12's kernel; the newest is used unless another kernel is asked for.
const USUAL: &str = r"^linux-image-6\.1\.0-[0-9]+-amd64$";

/// Modules that the guest needs to mount the host's root; their dependencies are added.
const MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];

/// A kernel with its modules.
pub(super) struct Kernel {
    /// The package or folder, as the user has named it.
    pub(super) name: String,
    pub(super) version: Version,
    pub(super) image: PathBuf,
    /// The folder `lib/modules/VERSION`.
    pub(super) modules: PathBuf,
}

impl Kernel {
    /// Finds or fetches a kernel: a package, a folder with `boot/vmlinuz-*` and `lib/modules/*`, or the usual one.
    pub(super) fn find(what: Option<&str>, busybox: &Path) -> Result<Self> {
        let (name, root) = match what {
            Some(path) if path.contains('/') => (path.to_owned(), fs::canonicalize(path)?),
            Some(package) => (package.to_owned(), package_of(package)?),
            None => {
                let package = usual()?;
                let root = package_of(&package)?;
                (package, root)
            }
        };
        let image = only(&root.join("boot"), "vmlinuz-")?;
        let modules = ["lib/modules", "usr/lib/modules"].map(|place| root.join(place));
        let modules = modules.iter().find(|place| place.is_dir());
        let Some(modules) = modules else { bail!("{} has no lib/modules", root.display()) };
        let kernel = Self { name, version: version(&image)?, image, modules: only(modules, "")? };
        kernel.index(&root, busybox)?;
        Ok(kernel)
    }

    /// Makes the list of dependencies of modules, which is otherwise made when a package is installed.
    fn index(&self, root: &Path, busybox: &Path) -> Result<()> {
        if self.modules.join("modules.dep").is_file() {
            return Ok(());
        }
        let version = self.modules.file_name().unwrap_or_default();
        step(&format!("listing the modules of {}", self.name), || {
            quietly(Command::new(busybox).arg("depmod").arg("-b").arg(root).arg(version))
        })?;
        Ok(())
    }

    /// The files of [`MODULES`] that are not built in, in the order in which they are inserted.
    pub(super) fn modules_in_order(&self) -> Result<Vec<PathBuf>> {
        let list = self.modules.join("modules.dep");
        let list = fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
        let mut order: Vec<&str> = Vec::new();
        for wanted in MODULES {
            let line = list.lines().find_map(|line| {
                let (module, needs) = line.split_once(':')?;
                (stem(module) == wanted).then_some((module, needs))
            });
            let Some((module, needs)) = line else { continue };
            // Dependencies are listed with the one that is inserted first at the end (modules.dep(5)).
            let mut chain: Vec<&str> = needs.split_whitespace().rev().collect();
            chain.push(module);
            order.extend(chain.iter().filter(|it| !order.contains(it)).copied().collect::<Vec<_>>());
        }
        Ok(order.iter().map(|module| self.modules.join(module)).collect())
    }
}

/// The version in an image for x86-64 (the boot protocol's `kernel_version`).
fn version(image: &Path) -> Result<Version> {
    let content = fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
    let banner = || {
        let offset = content.get(0x20e..0x210)?;
        let from = 0x200 + usize::from(u16::from_le_bytes([offset[0], offset[1]]));
        Version::parse(&String::from_utf8_lossy(content.get(from..)?.split(|byte| *byte == 0).next()?))
    };
    banner().with_context(|| format!("{} is not a kernel for x86-64", image.display()))
}

fn package_of(package: &str) -> Result<PathBuf> {
    if !apt::available() {
        bail!(
            "kernel packages are known here on Debian and Ubuntu only: give a folder with boot/vmlinuz-* and \
             lib/modules/* (with virtio, 9p and overlay), like `--kernel ./unpacked`"
        );
    }
    packages::unpacked_alone(package).with_context(|| format!("cannot get the kernel {package}"))
}

/// The newest package of the usual kernel.
fn usual() -> Result<String> {
    let number = |name: &String| name.split('-').nth(3).and_then(|number| number.parse().ok()).unwrap_or(0);
    let offered = || if apt::available() { packages::named(USUAL) } else { bail!("there is no apt") };
    let newest = offered().map(|names| names.into_iter().max_by_key(number));
    newest.map(Option::unwrap_or_default).context(
        "no Linux 6.1 is known: name a kernel package of this distribution, or a folder with boot/vmlinuz-* and \
         lib/modules/* (with virtio, 9p and overlay), with `--kernel`",
    )
}

/// The only entry of a folder that begins with `prefix`.
fn only(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one),
        (None, _) => bail!("{} has no {prefix}*", folder.display()),
        (Some(_), false) => bail!("{} has more than one {prefix}*", folder.display()),
    }
}

/// The name of a module from that of its file: without `.ko`, `.ko.xz` and the like.
fn stem(module: &str) -> &str {
    let name = module.rsplit('/').next().unwrap_or(module);
    name.split('.').next().unwrap_or(name)
}
