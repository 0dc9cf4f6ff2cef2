//! Hands the kernel program's object to the compiler, or says in one line how to make it.

use std::path::Path;

fn main() {
    let object =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/bpfel-unknown-none/release/reuseport-lb");
    println!("cargo::rerun-if-changed={}", object.display());
    if object.is_file() {
        println!("cargo::rustc-env=REUSEPORT_LB_OBJECT={}", object.display());
    } else {
        println!("cargo::error=the kernel program is not built yet: run `cargo xtask build-ebpf` first");
    }
}
