//! A worker that does what it is told: a shell with a FIFO.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::config::Config;
use crate::daemon::{until, until_within};
use crate::world::World;

/// The worker.
pub struct Told {
    orders: PathBuf,
    done: PathBuf,
}

impl Told {
    /// # Panics
    /// If its FIFO cannot be made.
    #[must_use]
    pub fn new(world: &World) -> Self {
        let orders = world.path("orders");
        // The FIFO is for a worker of another user as well.
        let old = nix::sys::stat::umask(Mode::empty());
        mkfifo(&orders, Mode::from_bits_truncate(0o666)).expect("the worker's files");
        fs::create_dir(world.path("done")).expect("the worker's files");
        fs::set_permissions(world.path("done"), PermissionsExt::from_mode(0o777))
            .expect("the worker's files");
        nix::sys::stat::umask(old);
        Self { orders, done: world.path("done") }
    }

    /// A service `web` of it.
    pub fn config(&self) -> Config {
        let script =
            format!("while :; do while read -r it; do eval \"$it\"; done < {}; done", self.orders.display());
        Config::web().workers(1).set("ready", "immediate").command(&["sh", "-c", &script])
    }

    /// Has it do this; goes on at once.
    ///
    /// # Panics
    /// If it cannot be told.
    pub fn tell(&self, order: &str) {
        fs::write(&self.orders, format!("{order}\n")).expect("the worker's files");
    }

    /// Has it do this to the end.
    ///
    /// # Panics
    /// If it takes more than a minute.
    pub fn does(&self, order: &str) {
        let done = self.done.join("it");
        let _ = fs::remove_file(&done);
        self.tell(&format!("{order}; : > {}", done.display()));
        until_within(Duration::from_secs(60), "a worker to do it", || done.exists().then_some(()));
    }
}

/// Waits until the start of the service is over: a worker that ends before is the end of the daemon as well.
///
/// # Panics
/// If it is not.
pub fn up(log: impl Fn() -> String) {
    until("the service to be up", || log().contains("service web is up").then_some(()));
}

/// An order to write `count` lines of 100 bytes with this mark and their numbers.
#[must_use]
pub fn lines(mark: &str, count: usize) -> String {
    format!(
        "awk 'BEGIN {{ for (i = 0; i < {count}; i++) printf \"{mark} %08d %0{}d\\n\", i, 0 }}'",
        89 - mark.len()
    )
}
