//! `cargo xtask bench`: everything that docs/bench/ reports, in one run.

#![expect(unsafe_code, reason = "between fork and exec only system calls are allowed")]

mod balance;
mod binding;
mod chart;
mod client;
mod cpu;
mod decision;
mod flows;
mod goals;
mod growth;
mod http;
mod notes;
mod peers;
mod process;
mod proxies;
mod record;
mod report;
mod sections;
mod table;
mod worker;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Resource, getrlimit, setrlimit};
use testkit::world::World;

use record::Record;
use sections::SECTIONS;

fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, place] = arguments.as_slice()
        && first == "worker"
    {
        return worker::serve(place);
    }
    if let [first, file] = arguments.as_slice()
        && first == "binds"
    {
        return binding::measured(file);
    }
    let quick = arguments.iter().any(|it| it == "--quick");
    arguments.retain(|it| it != "--quick");
    ensure!(!arguments.is_empty(), "usage: bench DIRECTORY [--quick] [SECTION]...");
    let to = PathBuf::from(arguments.remove(0));
    let sections = SECTIONS.each_ref().map(|section| section.key);
    if let Some(unknown) = arguments.iter().find(|only| !sections.contains(&only.as_str())) {
        bail!("there is no section {unknown}; there are {}", sections.join(", "));
    }

    let world = World::new();
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "10000 65000").context("cannot set ports")?;
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files)?;

    let wanted = |key: &str| arguments.is_empty() || arguments.iter().any(|only| only == key);
    let planned = SECTIONS.iter().filter(|it| wanted(it.key)).map(|it| (it.seconds)(quick)).sum();
    let mut record = Record::new(quick, planned);
    let mut void = Vec::new();
    for section in SECTIONS.iter().filter(|section| wanted(section.key)) {
        record.begin((section.seconds)(quick));
        // The test kit panics when something does not happen in time.
        let measured = catch_unwind(AssertUnwindSafe(|| (section.measure)(&mut record, &world)))
            .unwrap_or_else(|why| {
                let said = why.downcast_ref::<String>().map(String::as_str);
                Err(anyhow!("{}", said.or(why.downcast_ref::<&str>().copied()).unwrap_or("a panic")))
            });
        if let Err(error) = measured {
            record.samples.retain(|sample| sample.section != section.key);
            void.push(format!("{}: {error:#}", section.key));
        }
    }
    report::write(&record, &to, &arguments, &void)?;
    ensure!(void.is_empty(), "these sections are void and not in the report:\n  {}", void.join("\n  "));
    Ok(())
}
