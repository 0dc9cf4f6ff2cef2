//! `cargo xtask VERB`: one file per verb.

mod apt;
mod bench;
mod build;
mod build_ebpf;
mod chaos;
mod ci;
mod dist;
mod faults;
mod fuzz;
mod msrv;
mod packages;
mod roots;
mod run;
mod setup;
mod shell;
mod test;
mod tidy;
mod vm;
mod wheels;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "What one does with this repository", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Get what is needed to build the kernel program (the other verbs do this by themselves)
    Setup,
    /// Build the kernel program, and put it beside the sources that include it
    BuildEbpf,
    /// Build everything for use: target/release/reuseport-lb
    Build,
    /// Build packages, tarballs and images: target/dist
    Dist {
        /// Then install, use and remove each of them in a root of its own; needs root
        #[arg(long)]
        test: bool,
    },
    /// Build everything and run `reuseport-lb ARGS`, by default `run`
    Run {
        /// Arguments of reuseport-lb
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Run all tests; without root, the privileged ones in a virtual machine
    Test {
        /// Only tests whose name contains this
        #[arg(last = true)]
        filter: Vec<String>,
    },
    /// Run the fault matrix and write what clients saw into docs/FAULTS.md
    Faults(faults::Arguments),
    /// Kill the daemon at random moments, and check what the next one makes of it; needs root
    Chaos(chaos::Arguments),
    /// Run the privileged tests under another kernel, in a virtual machine; needs no root
    Vm {
        /// A kernel package of the distribution, or a folder with boot/vmlinuz-* and lib/modules/*;
        /// by default Debian's Linux 6.1
        #[arg(long = "kernel", value_name = "PACKAGE|PATH")]
        kernels: Vec<String>,
        /// Only the tests that `ci` runs there
        #[arg(long, conflicts_with = "filter")]
        short: bool,
        /// Only tests whose name (`file::test`) contains one of these
        #[arg(last = true)]
        filter: Vec<String>,
    },
    /// Check what the compiler does not: sizes, layers, documents
    Tidy,
    /// Measure: all that docs/bench/ reports, or one thing
    Bench {
        /// What; everything unless told
        what: Option<bench::What>,
        /// Fewer and shorter runs, in less than five minutes
        #[arg(long, conflicts_with = "what")]
        quick: bool,
        /// Write the report into docs/bench/ instead of target/bench/
        #[arg(long, conflicts_with = "what")]
        record: bool,
        /// Only these sections of the report
        #[arg(long, value_name = "SECTION", conflicts_with = "what")]
        only: Vec<String>,
    },
    /// Feed random input to what reads input, and to the table
    Fuzz(fuzz::Arguments),
    /// All that must pass: format, tidy, clippy, the oldest Rust, documentation, fuzz targets, tests
    Ci,
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Setup => setup::run().map(drop),
        Verb::BuildEbpf => build_ebpf::again(),
        Verb::Build => build::run(),
        Verb::Dist { test } => dist::run(test),
        Verb::Run { arguments } => run::run(&arguments),
        Verb::Test { filter } => test::run(&filter),
        Verb::Faults(arguments) => faults::run(&arguments),
        Verb::Chaos(arguments) => chaos::run(&arguments),
        Verb::Vm { kernels, short: true, .. } => vm::run_short(&kernels),
        Verb::Vm { kernels, filter, .. } => vm::run(&kernels, &filter),
        Verb::Tidy => tidy::run(),
        Verb::Bench { what, quick, record, only } => bench::run(what, quick, record, &only),
        Verb::Fuzz(arguments) => fuzz::run(&arguments),
        Verb::Ci => ci::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
