//! `cargo xtask bench table`: how long a change of the table takes, computed and published to a
//! group in the kernel, and how many buckets it moves.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::Result;
use reuseport_lb::domain::buckets::Buckets;
use reuseport_lb::domain::listener::{Listener, Protocol};
use reuseport_lb::domain::table::{BucketTable, Member};
use reuseport_lb::kernel::group::{PinnedGroup, Policy};
use testkit::world::World;

const ROUNDS: usize = 15;

fn main() -> Result<()> {
    let world = World::new();
    let listener = Listener::new(Protocol::Udp, (Ipv4Addr::LOCALHOST, 9001).into());
    let pins = world.bpffs().join("table");
    std::fs::create_dir(&pins)?;
    let group = PinnedGroup::load(&listener, &Policy::default(), &pins, None)?;

    println!("ms to compute and publish a change of the table; medians of {ROUNDS} rounds\n");
    println!(
        "{:>7} {:>10} {:>10} {:>10} {:>10} {:>10} {:>8}",
        "workers", "first", "one leaves", "it returns", "half leave", "they return", "back"
    );
    for workers in [2u16, 8, 32, 128, 256, 512, 1024] {
        let mut times = [const { Vec::new() }; 5];
        let mut back = 0.0;
        for _ in 0..ROUNDS {
            let mut table = BucketTable::default();
            let mut first = None;
            for (at, range) in
                [0..workers, 1..workers, 0..workers, 0..workers / 2, 0..workers].into_iter().enumerate()
            {
                let members: Vec<Member> = range.map(|n| Member::new(&format!("web/{n}"), n, 1)).collect();
                let begun = Instant::now();
                Buckets::default().publish(group.memory(), table.rebalance(&members), |_| true);
                times[at].push(begun.elapsed());
                match (at, &first) {
                    (0, _) => first = Some(table.clone()),
                    (2, Some(first)) => back = same(first, &table),
                    _ => {}
                }
            }
        }
        let medians = times.map(|mut times| {
            times.sort();
            milliseconds(times[ROUNDS / 2])
        });
        let [first, leave, join, halve, double] = medians;
        println!("{workers:>7} {first:>10} {leave:>10} {join:>10} {halve:>10} {double:>10} {back:>7.2}%");
    }
    println!("\nback: buckets that are where they were after one worker left and returned");
    Ok(())
}

fn same(one: &BucketTable, other: &BucketTable) -> f64 {
    let same = one.owners().iter().zip(other.owners()).filter(|(a, b)| a == b).count();
    100.0 * same as f64 / one.owners().len() as f64
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1000.0)
}
