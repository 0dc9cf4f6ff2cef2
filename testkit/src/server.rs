//! Servers of tests, as commands of a service: the helper server, and others that are not ours.

use std::path::PathBuf;

use crate::world::{World, program};

/// Where the helper server is: with the programs that were built with this one.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn binary() -> PathBuf {
    let own = std::env::current_exe().expect("a program is somewhere");
    let mut folders = own.ancestors().skip(1).take(2);
    folders.find_map(|it| Some(it.join("server")).filter(|it| it.is_file())).unwrap_or_else(|| {
        panic!(
            "the helper server is not beside {}: run `cargo build --package tests --bin server`",
            own.display()
        )
    })
}

/// The helper server with `flags` (`testkit/src/bin/server/flags.rs`), which have no spaces; where every user can execute it.
#[must_use]
pub fn words(world: &World, flags: &str) -> Vec<String> {
    let program = world.program(&binary(), "server").display().to_string();
    [program].into_iter().chain(flags.split_whitespace().map(str::to_owned)).collect()
}

/// An HAProxy that says who answers, like the embedded worker does.
#[must_use]
pub fn haproxy(world: &World) -> [String; 4] {
    let file = world.file(
        "haproxy.cfg",
        "global\n  maxconn 4000\ndefaults\n  mode http\n  timeout client 30s\n  timeout http-keep-alive 30s\n\
         frontend f\n  bind fd@3\n  http-request return status 200 content-type text/plain lf-string \
         \"worker=%[env(REUSEPORT_LB_WORKER)]\\npid=%pid\\npeer=%[src]:%[src_port]\\n\"\n",
    );
    [program("haproxy").display().to_string(), "-db".into(), "-f".into(), file.display().to_string()]
}
