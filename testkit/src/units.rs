//! Units of systemd, as systemd takes them.

use std::fs;
use std::process::Command;

use crate::daemon::binary;
use crate::world::{World, program, repository};

/// The units that are shipped.
pub const SHIPPED: [&str; 2] = ["reuseport-lb.service", "reuseport-lb-worker@.service"];

/// Asserts that systemd finds nothing wrong with the shipped units and with `more` of them, each with its name.
///
/// # Panics
/// If it does, with what it says.
pub fn verify(world: &World, more: &[(&str, &str)]) {
    let folder = world.path("units");
    fs::create_dir_all(&folder).expect("cannot make a folder");
    let mut verify = Command::new(program("systemd-analyze"));
    verify.args(["verify", "--man=no"]);
    let shipped = SHIPPED.map(|name| {
        let path = repository().join("reuseport-lb/systemd").join(name);
        (name, fs::read_to_string(path).expect("cannot read a unit"))
    });
    let shipped = shipped.iter().map(|(name, text)| (*name, &**text));
    for (name, text) in shipped.chain(more.iter().copied()) {
        let text = text.replace("/usr/bin/reuseport-lb", &binary().to_string_lossy());
        fs::write(folder.join(name), text).expect("cannot write a unit");
        verify.arg(folder.join(name));
    }
    // What every system has; so it does not depend on what this one has.
    fs::write(folder.join("sysinit.target"), "[Unit]\nDescription=stub\n").expect("cannot write a unit");
    let output = verify.env("SYSTEMD_UNIT_PATH", &folder).output().expect("cannot run systemd-analyze");
    let says = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && says.is_empty(), "{says}");
}
