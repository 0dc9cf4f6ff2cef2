//! nginx through reloads under load.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::background::beside;
use testkit::daemon::{signal, until};
use testkit::world::World;

use crate::family::family;
use crate::protocol::Protocol::Http;

/// Reloads nginx, whose main process this is, with so many processes, and waits until there are so many, all new.
pub(crate) fn reload(world: &World, main: i32, processes: usize) {
    let before = family(main);
    tell_to_reload(world, main, processes);
    until("its new processes alone", || {
        let now = family(main);
        (now.len() == processes + 1 && now[1..].iter().all(|pid| !before.contains(pid))).then_some(())
    });
}

/// Tells nginx to reload with so many processes.
pub(crate) fn tell_to_reload(world: &World, main: i32, processes: usize) {
    let file = world.path(&format!("nginx-{main}.conf"));
    let text = fs::read_to_string(&file).unwrap();
    let lines = text.lines().map(|line| match line.strip_prefix("worker_processes ") {
        Some(_) => format!("worker_processes {processes};\n"),
        None => format!("{line}\n"),
    });
    fs::write(&file, lines.collect::<String>()).unwrap();
    signal(main, Signal::SIGHUP);
}

/// How many of so many requests a second fail while `act` goes on: (asked, failed).
pub(crate) fn under_load(rate: u32, act: impl FnOnce()) -> (usize, Vec<String>) {
    const CLIENTS: u32 = 4;
    let load = |over: &AtomicBool| {
        std::thread::scope(|scope| {
            let client = || {
                let (begun, mut asked, mut failed) = (Instant::now(), 0_u32, Vec::new());
                while !over.load(Ordering::Relaxed) {
                    failed.extend(Http.ask().err());
                    asked += 1;
                    let due = begun + Duration::from_secs(1) * asked * CLIENTS / rate;
                    let left = due.saturating_duration_since(Instant::now());
                    std::thread::sleep(left); // sleep: keeps to the rate
                }
                (asked as usize, failed)
            };
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
            clients.into_iter().map(|client| client.join().unwrap()).fold((0, Vec::new()), |mut all, one| {
                all.0 += one.0;
                all.1.extend(one.1);
                all
            })
        })
    };
    beside(load, act).1
}

/// Requests a second; `REUSEPORT_LB_REQUESTS` sets another number.
pub(crate) fn rate() -> u32 {
    std::env::var("REUSEPORT_LB_REQUESTS").ok().and_then(|rate| rate.parse().ok()).unwrap_or(1_000)
}

/// How often nginx is reloaded, with how many processes.
pub(crate) const RELOADS: [usize; 12] = [4, 2, 6, 3, 4, 2, 6, 3, 4, 2, 6, 3];
