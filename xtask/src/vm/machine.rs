//! The virtual machine: QEMU with its arguments, and the output of the guest.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::kernel::Kernel;
use super::speed::Speed;
use crate::apt;
use crate::packages;
use crate::shell::find;

/// MiB of the guest's memory, which has the files that it writes as well.
const MEMORY: u32 = 3072;

/// The programs that the machine needs.
pub(super) struct Tools {
    qemu: PathBuf,
    /// Linked statically, because it runs before any library can be loaded.
    pub(super) busybox: PathBuf,
    /// Folder with QEMU's libraries and firmware, if QEMU is not installed on the system.
    unpacked: Option<PathBuf>,
}

/// Finds or fetches the programs.
pub(super) fn tools() -> Result<Tools> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("`vm` runs x86-64 kernels, so it needs an x86-64 machine");
    }
    let on_system = find("qemu-system-x86_64");
    if apt::available() {
        let busybox = packages::unpacked_alone("busybox-static")?.join("bin/busybox");
        if let Some(qemu) = on_system {
            return Ok(Tools { qemu, busybox, unpacked: None });
        }
        let root = packages::unpacked("qemu", &["qemu-system-x86"])?;
        return Ok(Tools { qemu: root.join("usr/bin/qemu-system-x86_64"), busybox, unpacked: Some(root) });
    }
    match (on_system, find("busybox")) {
        (Some(qemu), Some(busybox)) if is_static(&busybox)? => Ok(Tools { qemu, busybox, unpacked: None }),
        (qemu, _) => bail!(
            "the virtual machine needs {}a statically linked busybox on the PATH: install them with your \
             distribution's package manager",
            if qemu.is_some() { "" } else { "qemu-system-x86_64 and " }
        ),
    }
}

fn is_static(program: &Path) -> Result<bool> {
    let content = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    Ok(!content.windows(7).any(|window| window == b"/ld-lin"))
}

/// Output of a guest.
pub(super) enum Heard {
    Line(String),
    /// No output within the time, not even a sign of life.
    Nothing,
    /// The machine is off.
    Ended,
}

/// A running machine; ended on drop.
pub(super) struct Guest {
    process: Child,
    /// Lines of output, and `None` for a sign of life.
    signs: Receiver<Option<String>>,
    console: PathBuf,
}

impl Guest {
    /// Starts a machine. Messages of its kernel go to `console.log` in `folder`.
    pub(super) fn start(
        tools: &Tools,
        kernel: &Kernel,
        initramfs: &Path,
        speed: Speed,
        folder: &Path,
    ) -> Result<Self> {
        let console = folder.join("console.log");
        // The machine ends as well if this process is killed.
        let mut command = match find("setpriv") {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL"]).arg(&tools.qemu);
                command
            }
            None => Command::new(&tools.qemu),
        };
        if let Some(root) = &tools.unpacked {
            let libraries = packages::libraries(root)?;
            // Some packages still have their libraries in /lib.
            let old = root.join("lib").join(libraries.file_name().unwrap_or_default());
            command.env("LD_LIBRARY_PATH", std::env::join_paths([libraries, old])?);
            for firmware in ["usr/share/qemu", "usr/share/seabios"] {
                command.arg("-L").arg(root.join(firmware));
            }
        }
        command.args(speed.arguments());
        command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
        command.args(["-m", &MEMORY.to_string()]);
        command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initramfs);
        // The kernel writes errors to the console, and reboots after an oops, which ends QEMU.
        let trouble = "console=ttyS0 loglevel=5 panic=-1 oops=panic";
        // An emulated processor translates code at fixed addresses only once.
        let fast = "mitigations=off tsc=reliable nokaslr norandmaps";
        command.args(["-append", &format!("{trouble} {fast}")]);
        command.args(["-chardev", &format!("file,id=console,path={}", console.display())]);
        command.args(["-chardev", "stdio,id=report,signal=off"]);
        command.args(["-serial", "chardev:console", "-serial", "chardev:report"]);
        command.args([
            "-fsdev",
            "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap",
            "-device",
            "virtio-9p-pci,fsdev=root,mount_tag=host",
        ]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(folder.join("qemu.log"))?);
        let mut process = command.spawn().with_context(|| format!("cannot run {}", tools.qemu.display()))?;
        let output = process.stdout.take().context("its output is a pipe")?;
        let (heard, signs) = mpsc::channel();
        std::thread::spawn(move || listen(output, &heard));
        Ok(Self { process, signs, console })
    }

    /// Waits for the next line; gives up if nothing, not even a sign of life, comes for `limit`.
    pub(super) fn hear(&self, limit: Duration) -> Heard {
        loop {
            match self.signs.recv_timeout(limit) {
                Ok(Some(line)) => return Heard::Line(line),
                Ok(None) => {}
                Err(RecvTimeoutError::Timeout) => return Heard::Nothing,
                Err(RecvTimeoutError::Disconnected) => return Heard::Ended,
            }
        }
    }

    /// The last lines of the console, or of QEMU's own output if the console is empty.
    pub(super) fn last_words(&self) -> String {
        let read = |file: &Path| String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned();
        let mut said = read(&self.console);
        if said.trim().is_empty() {
            said = read(&self.console.with_file_name("qemu.log"));
        }
        let lines: Vec<&str> = said.lines().map(str::trim_end).collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Fails if the machine has ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Passes on lines, without the zero bytes that are signs of life, until the output ends.
fn listen(mut output: impl Read, to: &mpsc::Sender<Option<String>>) {
    let mut line = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = output.read(&mut chunk) {
        // Fails if the `Guest` has been dropped.
        let _ = to.send(None);
        for byte in &chunk[..length] {
            match byte {
                0 => {}
                b'\n' => {
                    drop(to.send(Some(String::from_utf8_lossy(&std::mem::take(&mut line)).into_owned())))
                }
                other => line.push(*other),
            }
        }
    }
}
