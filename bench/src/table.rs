//! Sections `buckets` and `publish`: what a change of the workers moves and how even shares are, ours
//! and the usual tables; and how long it takes to compute and publish a change.

use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::Result;
use hashring::HashRing;
use reuseport_lb::domain::buckets::Buckets;
use reuseport_lb::domain::listener::{Listener, Protocol};
use reuseport_lb::domain::table::{BucketChange, BucketTable, Member};
use reuseport_lb::kernel::group::{PinnedGroup, Policy};
use testkit::world::World;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::record::{Record, median};

const BUCKETS: usize = 1 << 16;
/// The prime next to 65,536, as Maglev needs one.
const PRIME: usize = 65_537;
/// Points of each worker on the ring; ketama's number.
const POINTS: u16 = 160;

/// The name of a worker.
pub(crate) fn name(slot: u16) -> String {
    format!("web/{slot}")
}

/// Maglev (Eisenbud et al., NSDI 2016, section 3.4) in its usual lazy form: for each bucket a slot.
/// The last bucket is dropped, so that it fits.
pub(crate) fn maglev(slots: &[u16]) -> Vec<u16> {
    let mut orders: Vec<(usize, usize)> = slots
        .iter()
        .map(|slot| {
            let hash = |seed| xxh3_64_with_seed(name(*slot).as_bytes(), seed) as usize;
            (hash(1) % PRIME, hash(2) % (PRIME - 1) + 1)
        })
        .collect();
    let mut owners = vec![u16::MAX; PRIME];
    let mut filled = 0;
    while filled < PRIME {
        for ((next, skip), slot) in orders.iter_mut().zip(slots) {
            while owners[*next] != u16::MAX {
                *next = (*next + *skip) % PRIME;
            }
            owners[*next] = *slot;
            filled += 1;
            if filled == PRIME {
                break;
            }
        }
    }
    owners.truncate(BUCKETS);
    owners
}

fn ring(slots: &[u16]) -> Vec<u16> {
    let mut ring = HashRing::new();
    ring.batch_add(slots.iter().flat_map(|slot| (0..POINTS).map(|point| (*slot, point))).collect());
    (0..BUCKETS).map(|bucket| ring.get(&bucket).map_or(u16::MAX, |(slot, _)| *slot)).collect()
}

/// Thaler and Ravishankar, IEEE/ACM Transactions on Networking 6(1), 1998.
fn rendezvous(slots: &[u16]) -> Vec<u16> {
    let seeds: Vec<u64> = slots.iter().map(|slot| xxh3_64_with_seed(name(*slot).as_bytes(), 0)).collect();
    let score = |bucket: usize, seed: u64| {
        let mixed = (bucket as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 16
    };
    let best =
        |bucket| (0..slots.len()).max_by_key(|at| score(bucket, seeds[*at])).map_or(u16::MAX, |at| slots[at]);
    (0..BUCKETS).map(best).collect()
}

/// Lamping and Veach, "A fast, minimal memory, consistent hash algorithm", 2014.
fn jump(slots: &[u16]) -> Vec<u16> {
    let of = |bucket: usize| {
        let mut key = xxh3_64_with_seed(&bucket.to_le_bytes(), 0);
        let (mut at, mut next) = (0, 0);
        while next < slots.len() as i64 {
            at = next;
            key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
            next = ((at + 1) as f64 * ((1u64 << 31) as f64 / ((key >> 33) + 1) as f64)) as i64;
        }
        slots[at as usize]
    };
    (0..BUCKETS).map(of).collect()
}

fn ours(table: &mut BucketTable, slots: &[u16]) -> Vec<BucketChange> {
    let members: Vec<Member> = slots.iter().map(|slot| Member::new(&name(*slot), *slot, 1)).collect();
    table.rebalance(&members)
}

type Assign = fn(&[u16]) -> Vec<u16>;

const TABLES: [(&str, Assign); 4] = [
    ("Maglev", maglev),
    ("ring (crate hashring, 160 points)", ring),
    ("rendezvous", rendezvous),
    ("jump", jump),
];

/// Section `buckets`. The outcome is the same in each run, so there is one.
pub(crate) fn buckets(record: &mut Record, _world: &World) -> Result<()> {
    for workers in [2u16, 8, 32, 128, 512, 1024] {
        record.step(&format!("tables of {workers} workers"), f64::from(workers) / 150.0)?;
        let all: Vec<u16> = (0..workers).collect();
        let more: Vec<u16> = (0..=workers).collect();
        let less: Vec<u16> = all.iter().copied().filter(|slot| *slot != workers / 2).collect();
        let mut table = BucketTable::default();
        ours(&mut table, &all);
        let (mut joined, mut left) = (table.clone(), table.clone());
        ours(&mut joined, &more);
        ours(&mut left, &less);
        let mut add = |title: &str, [before, joined, left]: [&[u16]; 3]| {
            let moved = |after: &[u16]| before.iter().zip(after).filter(|(a, b)| a != b).count() as f64;
            let share = |of: &[u16], slot: u16| of.iter().filter(|owner| **owner == slot).count() as f64;
            let largest = all.iter().map(|slot| share(before, *slot)).fold(0.0, f64::max);
            let values = [
                ("moved by a join / minimum", moved(joined) / share(joined, workers)),
                ("moved by a leave / minimum", moved(left) / share(before, workers / 2)),
                ("largest / mean share", largest * all.len() as f64 / BUCKETS as f64),
            ];
            record.add("buckets", &format!("{title}; {workers}"), 0, &values);
        };
        add("reuseport-lb", [table.owners(), joined.owners(), left.owners()]);
        for (title, assign) in TABLES {
            add(title, [&assign(&all), &assign(&more), &assign(&less)]);
        }
    }
    Ok(())
}

/// Section `publish`: one worker leaves, and it returns; computed and written into a group's table.
pub(crate) fn publish(record: &mut Record, world: &World) -> Result<()> {
    let listener = Listener::new(Protocol::Udp, (Ipv4Addr::LOCALHOST, 6001).into());
    let pins = world.bpffs().join("publish");
    std::fs::create_dir(&pins)?;
    let group = PinnedGroup::load(&listener, &Policy::default(), &pins, None)?;
    let (runs, rounds) = (record.either(3, 7), 5);
    for run in 0..runs {
        record.step(&format!("time of a change, run {} of {runs}", run + 1), 3.0)?;
        for workers in [8u16, 32, 128, 256, 512, 1024] {
            let all: Vec<u16> = (0..workers).collect();
            let less: Vec<u16> = all.iter().copied().filter(|slot| *slot != workers / 2).collect();
            let mut table = BucketTable::default();
            Buckets::default().publish(group.memory(), ours(&mut table, &all), |_| true);
            let mut mine = Vec::new();
            for slots in [&less, &all].repeat(rounds) {
                let begun = Instant::now();
                Buckets::default().publish(group.memory(), ours(&mut table, slots), |_| true);
                mine.push(begun.elapsed().as_secs_f64() * 1000.0);
            }
            record.add(
                "publish",
                &format!("reuseport-lb; {workers}"),
                run,
                &[("ms", median(mine).unwrap_or(0.0))],
            );
            let (title, assign) = TABLES[0];
            let mut before = assign(&all);
            let mut times = Vec::new();
            for slots in [&less, &all].repeat(rounds) {
                let begun = Instant::now();
                let after = assign(slots);
                let moved = (0..=u16::MAX).zip(before.iter().zip(&after)).filter(|(_, (a, b))| a != b);
                Buckets::default().publish(
                    group.memory(),
                    moved.map(|(bucket, (_, slot))| (bucket, *slot)),
                    |_| true,
                );
                times.push(begun.elapsed().as_secs_f64() * 1000.0);
                before = after;
            }
            record.add(
                "publish",
                &format!("{title}; {workers}"),
                run,
                &[("ms", median(times).unwrap_or(0.0))],
            );
        }
    }
    Ok(())
}
