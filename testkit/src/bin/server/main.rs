//! The server of tests and benchmarks: what it does is said by flags (`flags.rs`), so that no test needs a program of its own.

#![expect(
    unsafe_code,
    reason = "inherited descriptors, forks, signal handlers, and socket options that no library has"
)]

mod alone;
mod answer;
mod children;
mod deeds;
mod flags;
mod keep;
mod notify;
mod signals;
mod sockets;
mod special;
mod upgrade;
mod wait;

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::answer::Speaker;
use crate::flags::{Answer, Flags, Term, Wait};
use crate::signals::Signals;

/// How often a server looks whether there is a file.
const LOOK: Duration = Duration::from_millis(5);

fn main() -> Result<()> {
    let flags = Flags::of_process();
    if let Some(name) = &flags.comm {
        std::fs::write("/proc/self/comm", unescaped(name))?;
    }
    if let Some(special) = special(&flags) {
        return special;
    }
    let sockets = sockets::all(&flags)?;
    let found = sockets::found(&sockets)?;
    let signals = Signals::arrange(&flags)?;
    if let Some(file) = &flags.note {
        std::fs::write(file, "")?;
    }
    let _held = alone::take(&flags)?;
    std::thread::sleep(flags.load.unwrap_or_default());
    if let Some(file) = &flags.gate {
        wait_for(file);
    }
    if let Some(code) = flags.exit {
        std::process::exit(code);
    }
    if let Some(time) = flags.spin {
        wait::spin(&flags, time, &sockets)?;
    }
    notify::begin(&flags)?;
    upgrade::finish()?;
    if flags.until_stdin {
        std::thread::spawn(|| {
            // However it ends.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            std::process::exit(0);
        });
    }
    after(flags.crash_after, || std::process::abort());
    after(flags.end_after, || std::process::exit(0));
    let speaker = Speaker::new(&flags, found);
    match (flags.answer, flags.wait) {
        (Answer::Never, _) => never(&flags, &signals),
        (Answer::Children, _) => children::serve(&flags.name(), sockets, &signals),
        (_, Wait::Keep) => keep::serve(&flags, &speaker, sockets, &signals),
        _ => wait::serve(&flags, &speaker, sockets, &signals),
    }
}

/// What it does if that is not serving.
fn special(flags: &Flags) -> Option<Result<()>> {
    if let Some(word) = &flags.say {
        return Some(notify::say(word).map_err(Into::into));
    }
    if let Some(address) = flags.crowd {
        return Some(special::crowd(address));
    }
    if let Some(place) = &flags.intrude {
        return Some(special::intrude(place));
    }
    if let Some(place) = &flags.family {
        return Some(special::family(place, flags.how));
    }
    let place = flags.orders.as_ref()?;
    Some(notify::begin(flags).and_then(|()| special::orders(place)))
}

/// Serves nobody until it is ended.
fn never(flags: &Flags, signals: &Signals) -> Result<()> {
    loop {
        let mut list = [rustix::event::PollFd::new(signals, rustix::event::PollFlags::IN)];
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut list, None))?;
        match (signals.next(), flags.term, &flags.note) {
            (Some(_), Term::Note, Some(file)) => {
                std::thread::sleep(Duration::from_millis(300));
                std::fs::write(file, "finished")?;
                return Ok(());
            }
            (Some(_), Term::Abrupt, _) => return Ok(()),
            _ => {}
        }
    }
}

fn after(time: Option<Duration>, act: fn()) {
    if let Some(time) = time {
        std::thread::spawn(move || {
            std::thread::sleep(time);
            act();
        });
    }
}

fn wait_for(file: &Path) {
    while !file.exists() {
        std::thread::sleep(LOOK);
    }
}

/// The bytes of a text with escapes like `\x1b`.
fn unescaped(text: &str) -> Vec<u8> {
    let mut parts = text.split("\\x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at(part.len().min(2));
        bytes.push(u8::from_str_radix(digits, 16).unwrap_or(b'?'));
        bytes.extend_from_slice(rest.as_bytes());
    }
    bytes
}
