//! `vm`: the privileged tests under another kernel, in a virtual machine that has the root of this
//! one, read-only, below a layer in its memory. Needs no root and changes nothing.

mod exceptions;
mod initramfs;
mod kernel;
mod machine;
mod short;
mod speed;
mod suite;

use std::fs;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread::ScopedJoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use self::kernel::Kernel;
use self::machine::{Guest, Heard, Tools};
use self::speed::Speed;
use self::suite::Test;
use crate::{build, test};

/// Seconds of a guest's time after which it ends a test, if the guest is not slow.
const LIMIT: u32 = 300;

/// Folders in which the guest has file systems of its own.
const OWN: [&str; 4] = ["/dev", "/proc", "/run", "/sys"];

/// What the virtual machine needs, found or fetched before anything is built.
pub(crate) struct Requirements {
    tools: Tools,
    kernels: Vec<Kernel>,
    programs: Vec<PathBuf>,
}

impl Requirements {
    pub(crate) fn get(kernels: &[String]) -> Result<Self> {
        if let Some(own) = OWN.iter().find(|own| build::target().starts_with(own)) {
            bail!("the virtual machine has {own} of its own, so CARGO_TARGET_DIR cannot be there");
        }
        let tools = machine::tools()?;
        let kernels = if kernels.is_empty() {
            vec![Kernel::find(None, &tools.busybox)?]
        } else {
            kernels.iter().map(|it| Kernel::find(Some(it), &tools.busybox)).collect::<Result<_>>()?
        };
        Ok(Self { tools, kernels, programs: test::programs()? })
    }
}

/// Runs the tests whose names contain one of `filter`; each part of `filter` must match a test.
pub(crate) fn run(kernels: &[String], filter: &[String]) -> Result<()> {
    let needs = Requirements::get(kernels)?;
    let all = suite::tests()?;
    if let Some(part) = filter.iter().find(|part| !all.iter().any(|test| test.name.contains(*part))) {
        bail!("there is no test whose name contains {part}");
    }
    under_each(&needs, &suite::matching(all, filter))
}

/// Runs the marked tests only (`short.rs`), as `ci` does: all tests would take too long without KVM.
pub(crate) fn run_short(kernels: &[String]) -> Result<()> {
    let needs = Requirements::get(kernels)?;
    under_each(&needs, &short::among(suite::tests()?)?)
}

/// Runs tests like [`run`], but a filter need not match any: that of `test` may be for unit tests.
pub(crate) fn run_if_any(filter: &[String]) -> Result<()> {
    let tests = suite::matching(suite::tests()?, filter);
    if tests.is_empty() { Ok(()) } else { under_each(&Requirements::get(&[])?, &tests) }
}

fn under_each(needs: &Requirements, tests: &[Test]) -> Result<()> {
    let (mut speed, why) = Speed::best();
    if let Some(why) = why {
        eprintln!("  {why}: without KVM the kernel is emulated, which is slow");
    }
    let mut failed = Vec::new();
    for kernel in &needs.kernels {
        if !under(kernel, needs, tests, &mut speed)? {
            failed.push(&*kernel.name);
        }
    }
    if !failed.is_empty() {
        bail!("not everything passed under {}", failed.join(" and "));
    }
    Ok(())
}

/// Runs `tests` under one kernel, and prints a summary; true if all passed.
fn under(kernel: &Kernel, needs: &Requirements, tests: &[Test], speed: &mut Speed) -> Result<bool> {
    let folder = build::target().join("vm");
    let begun = Instant::now();
    let (mut guests, plan) = boot(kernel, needs, tests, speed, &folder)?;
    println!("running {} tests", plan.run.len());
    let speed = *speed;
    let all: Vec<Ended> = std::thread::scope(|scope| {
        let watching: Vec<_> =
            guests.iter_mut().map(|(guest, _)| scope.spawn(move || watch(guest, speed))).collect();
        let ended = |it: ScopedJoinHandle<'_, _>| it.join().unwrap_or_else(|panic| resume_unwind(panic));
        watching.into_iter().map(ended).collect::<Result<_>>()
    })?;

    println!("\n{} (Linux {}), {speed}, {} s:", kernel.name, kernel.version, begun.elapsed().as_secs());
    for (test, why) in &plan.not {
        println!("  {} {why}", test.name);
    }
    let (mut passed, mut failed) = (0, 0);
    for ((guest, tests), ended) in guests.iter().zip(all) {
        for name in &ended.failed {
            println!("  FAILED {name}");
        }
        let lost = tests - ended.passed - ended.failed.len();
        if let Some(trouble) = ended.trouble {
            println!(
                "  a guest {trouble}; tests that were not finished: {lost}. Its console:\n{}",
                guest.last_words()
            );
        }
        passed += ended.passed;
        failed += ended.failed.len() + lost;
    }
    println!("{passed} passed, {failed} failed, {} skipped", plan.not.len());
    Ok(failed == 0)
}

/// The tests that can be run, and why others cannot.
struct Plan<'a> {
    run: Vec<&'a Test>,
    not: Vec<(&'a Test, String)>,
}

impl<'a> Plan<'a> {
    fn new(tests: &'a [Test], kernel: &Kernel, speed: Speed) -> Self {
        let mut plan = Self { run: Vec::new(), not: Vec::new() };
        for test in tests {
            match exceptions::why_not(test, kernel.version, speed) {
                None => plan.run.push(test),
                Some(why) => plan.not.push((test, why)),
            }
        }
        plan
    }
}

/// Starts guests, each of which runs its part of the tests, and waits until they begin with them; each with the number
/// of its tests.
fn boot<'a>(
    kernel: &Kernel,
    Requirements { tools, programs, .. }: &Requirements,
    tests: &'a [Test],
    speed: &mut Speed,
    folder: &Path,
) -> Result<(Vec<(Guest, usize)>, Plan<'a>)> {
    loop {
        let plan = Plan::new(tests, kernel, *speed);
        let count = speed.guests().clamp(1, plan.run.len().max(1));
        let environment = environment(kernel, *speed, programs);
        let mut guests = Vec::new();
        for nth in 0..count {
            let folder = folder.join(nth.to_string());
            fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
            // Neighbours in the list are alike, and take about as long.
            let part: Vec<String> =
                plan.run.iter().skip(nth).step_by(count).map(|test| test.line()).collect();
            let file = folder.join("initramfs");
            initramfs::write(&file, &tools.busybox, kernel, &environment, &part.concat())?;
            guests.push((Guest::start(tools, kernel, &file, *speed, &folder)?, part.len()));
        }
        let ready = |guest: &Guest| matches!(guest.hear(speed.boot()), Heard::Line(line) if line.starts_with("@ready"));
        match guests.iter().find(|(guest, _)| !ready(guest)) {
            None => return Ok((guests, plan)),
            Some(_) if *speed == Speed::Kvm => {
                eprintln!(
                    "  KVM is there, but no guest boots with it: the kernel is emulated, which is slow"
                );
                *speed = Speed::Emulated;
            }
            Some((guest, _)) => bail!("{} does not boot; its console:\n{}", kernel.name, guest.last_words()),
        }
    }
}

struct Ended {
    passed: usize,
    failed: Vec<String>,
    trouble: Option<&'static str>,
}

/// Prints the output of each test of a guest when that has ended, until all have or the guest is in trouble.
fn watch(guest: &Guest, speed: Speed) -> Result<Ended> {
    let mut ended = Ended { passed: 0, failed: Vec::new(), trouble: None };
    let mut begun = Instant::now();
    let mut current = None;
    let mut said = String::new();
    loop {
        let line = match guest.hear(speed.silence()) {
            Heard::Line(line) => line,
            Heard::Nothing => {
                ended.trouble = Some("hangs");
                break;
            }
            Heard::Ended => {
                ended.trouble = Some("has ended");
                break;
            }
        };
        if let Some(name) = line.strip_prefix("@begin ") {
            begun = Instant::now();
            current = Some(name.to_owned());
        } else if let Some(end) = line.strip_prefix("@end ") {
            let (name, outcome) = end.split_once(' ').context("a guest that says @end says how")?;
            current = None;
            let said = std::mem::take(&mut said);
            println!("{said}test {name} ... {outcome} ({:.1} s)", begun.elapsed().as_secs_f64());
            if outcome == "ok" {
                ended.passed += 1;
            } else {
                ended.failed.push(name.to_owned());
            }
        } else if line == "@done" {
            break;
        } else {
            said.push_str(&line);
            said.push('\n');
        }
    }
    print!("{said}");
    // The guest ended during this test.
    ended.failed.extend(current);
    Ok(ended)
}

/// Makes a script that sets the environment of the tests.
fn environment(kernel: &Kernel, speed: Speed, programs: &[PathBuf]) -> String {
    let mut path: Vec<String> = programs.iter().map(|folder| folder.display().to_string()).collect();
    path.push("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    path.extend(std::env::var("PATH"));
    let mut variables = vec![
        ("PATH", path.join(":")),
        ("TMPDIR", "/dev/shm".to_owned()),
        ("MODULES", kernel.modules.display().to_string()),
        ("LIMIT", (LIMIT * speed.slow()).to_string()),
        ("REUSEPORT_LB_SLOW", speed.slow().to_string()),
    ];
    for name in ["HOME", "REUSEPORT_LB_TIMES", "REUSEPORT_LB_SEED", "RUST_BACKTRACE"] {
        variables.extend(std::env::var(name).map(|value| (name, value)));
    }
    let lines =
        variables.iter().map(|(name, value)| format!("export {name}='{}'\n", value.replace('\'', r"'\''")));
    lines.collect()
}
