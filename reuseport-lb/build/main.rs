//! Hands the objects with the kernel programs to the compiler. They travel with the sources (docs/INSTALL.md says why);
//! `cargo xtask build-ebpf` makes them.

mod sources;

use std::path::Path;

/// Names of the objects, and the variables that name their files.
const OBJECTS: [(&str, &str); 4] = [
    ("reuseport-lb", "REUSEPORT_LB_OBJECT"),
    ("counting", "REUSEPORT_LB_COUNTING"),
    ("connections", "REUSEPORT_LB_CONNECTIONS"),
    ("trial", "REUSEPORT_LB_TRIAL"),
];

fn main() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let objects = package.join("objects");
    println!("cargo::rerun-if-changed={}", objects.display());
    for (name, variable) in OBJECTS {
        println!("cargo::rustc-env={variable}={}", objects.join(name).with_extension("o").display());
    }
    let repository = package.join("..");
    for folder in sources::FOLDERS {
        println!("cargo::rerun-if-changed={}", repository.join(folder).display());
    }
    if !sources::are_those_of(&objects, &repository) {
        println!(
            "cargo::warning=the kernel programs in reuseport-lb/objects are of other sources: run `cargo xtask build-ebpf`"
        );
    }
}
