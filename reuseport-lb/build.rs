//! Hands the objects with the kernel programs to the compiler, or says in one line how to make them.

use std::path::Path;

/// Files of the objects, and the variables that name them.
const OBJECTS: [(&str, &str); 4] = [
    ("reuseport-lb", "REUSEPORT_LB_OBJECT"),
    ("counting", "REUSEPORT_LB_COUNTING"),
    ("connections", "REUSEPORT_LB_CONNECTIONS"),
    ("trial", "REUSEPORT_LB_TRIAL"),
];

fn main() {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/bpfel-unknown-none/release");
    for (name, variable) in OBJECTS {
        let object = built.join(name);
        println!("cargo::rerun-if-changed={}", object.display());
        if object.is_file() {
            println!("cargo::rustc-env={variable}={}", object.display());
        } else {
            println!(
                "cargo::error=the kernel programs are not built yet: run `cargo xtask build-ebpf` first"
            );
            return;
        }
    }
}
