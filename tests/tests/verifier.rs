//! How much the kernel's verifier has to look at: a change must not make it more unnoticed, since beyond a limit no program is loaded.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use aya::programs::loaded_programs;
use reuseport_lb::config::{Affinity, Balance, Flows, KeyFunction, PayloadBytes, WhenBusy};
use reuseport_lb::domain::listener::{Listener, Protocol};
use reuseport_lb::kernel::connections::Connections;
use reuseport_lb::kernel::group::{PinnedGroup, Policy};
use reuseport_lb::kernel::host;
use reuseport_lb_common::program::{self, Kind, Program, Steering};
use reuseport_lb_common::quic::Format;
use testkit::key_function::RETURNS_HASH;
use testkit::world::World;

/// The recorded numbers, by release and program.
const RECORDED: &str = include_str!("../verified-insns.toml");
/// Of a release without recorded numbers: half of what the verifier allows.
const MOST: u64 = 500_000;

/// Instructions that the verifier looked at when it loaded `program`.
fn verified(world: &World, program: &Program, accounts: &Path) -> u64 {
    let datagrams = program.kind.tracks() || program.steering == Steering::Payload;
    let protocol = if datagrams { Protocol::Udp } else { Protocol::Tcp };
    let on = |host: IpAddr| Listener::new(protocol, (host, 4000).into());
    let listener = match program.steering {
        Steering::SourceV6 => on(Ipv6Addr::LOCALHOST.into()),
        Steering::SourceAny => Listener::on_all(protocol, 4000),
        _ => on(Ipv4Addr::LOCALHOST.into()),
    };
    let policy = Policy {
        affinity: match program.steering {
            Steering::Flow => Affinity::Flow,
            Steering::Random => Affinity::Random,
            Steering::Cpu => Affinity::Cpu,
            Steering::SourceV4 | Steering::SourceV6 | Steering::SourceAny => Affinity::Source,
            // The longest key.
            Steering::Payload => Affinity::Payload(PayloadBytes { offset: 0, length: 15 }),
            Steering::Own => {
                Affinity::Program(KeyFunction { path: "hash.o".into(), code: RETURNS_HASH.into() })
            }
        },
        flows: if program.kind.tracks() { Flows::Track } else { Flows::None },
        quic: (program.kind == Kind::Quic).then_some(Format { server_id: 8, length: 15, ..Format::NONE }),
        when_busy: match program.kind {
            Kind::PreferWaiting | Kind::CountedWaiting => WhenBusy::Next,
            _ => WhenBusy::Queue,
        },
        balance: match program.kind {
            Kind::Least => Balance::Least,
            Kind::Bounded => Balance::Bounded(1.25),
            _ => Balance::Table,
        },
        counts: program.kind.counts(),
    };
    let pins = world.bpffs().join(program.name);
    std::fs::create_dir(&pins).unwrap();
    let group = PinnedGroup::load(&listener, &policy, &pins, Some(accounts)).unwrap();
    let loaded =
        loaded_programs().filter_map(Result::ok).find(|loaded| loaded.id() == group.program_id()).unwrap();
    assert_eq!(loaded.name_as_str(), Some(program.name));
    loaded.verified_instruction_count().expect("Linux 5.16 or later tells").into()
}

// vm: short
#[test]
fn the_verifier_looks_at_no_more_than_before() {
    let world = World::new();
    let recorded: BTreeMap<String, BTreeMap<String, u64>> = toml::from_str(RECORDED).unwrap();
    let release = host::release();
    let release = release.splitn(3, '.').take(2).collect::<Vec<&str>>().join(".");
    let mut worse = Vec::new();
    let connections = Connections::open(&world.bpffs()).unwrap();
    for program in program::all() {
        let verified = verified(&world, program, connections.pins());
        println!("{release} {} = {verified}", program.name);
        let most = match recorded.get(&release).map(|of_release| of_release.get(program.name)) {
            None => MOST,
            Some(Some(before)) => before + before / 10,
            Some(None) => {
                worse.push(format!("{}: {verified}, and none is recorded", program.name));
                continue;
            }
        };
        if verified > most {
            worse.push(format!("{}: {verified}, more than {most}", program.name));
        }
    }
    assert!(worse.is_empty(), "instructions that the verifier looks at under {release}: {worse:#?}");
}
