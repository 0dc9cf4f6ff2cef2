//! Random questions to a kernel program and to the model of it, `select::decide` in memory: who gets a packet or a connection, what
//! becomes of those that wait when their listener closes, and all that is counted must be the same.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod keys;
mod pair;

use reuseport_lb::config::{Affinity, Balance, Flows, PayloadBytes, WhenBusy};
use reuseport_lb::domain::listener::{Listener, Protocol};
use reuseport_lb::kernel::group::Policy;
use reuseport_lb_common::counters::Counter;
use reuseport_lb_common::select::SelectPolicy;
use reuseport_lb_common::select::policy::{Bounded, FirstFit, Least, PreferWaiting};
use testkit::world::{World, run};

use crate::keys::{SESSION, loopback};
use crate::pair::{Pair, V6};

/// The policy of groups that nothing else is said of: keys that a test can know.
const SOURCE: Policy = Policy {
    affinity: Affinity::Source,
    when_busy: WhenBusy::Queue,
    balance: Balance::Table,
    counts: false,
    flows: Flows::Track,
    quic: None,
};

fn agree<P: SelectPolicy>(protocol: Protocol, policy: Policy, never: &[Counter]) {
    let world = World::new();
    run("ip", &["-6", "route", "replace", "local", &format!("{V6}/64"), "dev", "lo"]);
    let one = [false, true].map(|v6| Listener::new(protocol, (loopback(v6), 4000).into()));
    for listener in one.into_iter().chain([Listener::on_all(protocol, 4000)]) {
        Pair::<P>::new(&world, listener, policy.clone()).agree(never);
    }
}

// vm: short
#[test]
fn kernel_and_model_agree_about_connections() {
    let never = [Counter::OwnerKept, Counter::OwnerBusy, Counter::OwnerFuller];
    agree::<FirstFit>(Protocol::Tcp, SOURCE, &never);
}

// vm: short
#[test]
fn kernel_and_model_agree_about_connections_that_prefer_who_waits() {
    let policy = Policy { when_busy: WhenBusy::Next, ..SOURCE };
    agree::<PreferWaiting>(Protocol::Tcp, policy, &[Counter::OwnerKept, Counter::OwnerFuller]);
}

// vm: short
#[test]
fn kernel_and_model_agree_about_flows() {
    let never = [Counter::Migration, Counter::OwnerBusy, Counter::OwnerFuller];
    agree::<FirstFit>(Protocol::Udp, SOURCE, &never);
}

#[test]
fn kernel_and_model_agree_about_what_a_cpu_receives() {
    let cpu = Policy { affinity: Affinity::Cpu, ..SOURCE };
    let never = [Counter::OwnerKept, Counter::OwnerBusy, Counter::OwnerFuller];
    agree::<FirstFit>(Protocol::Tcp, cpu.clone(), &never);
    let next = Policy { when_busy: WhenBusy::Next, ..cpu.clone() };
    agree::<PreferWaiting>(Protocol::Tcp, next, &[Counter::OwnerKept, Counter::OwnerFuller]);
    let never = [Counter::Migration, Counter::OwnerBusy, Counter::OwnerKept, Counter::OwnerFuller];
    agree::<FirstFit>(Protocol::Udp, cpu, &never);
}

// vm: short
#[test]
fn kernel_and_model_agree_about_connections_that_go_where_the_fewest_are() {
    let policy = Policy { balance: Balance::Least, counts: true, ..SOURCE };
    let never = [Counter::OwnerKept, Counter::OwnerBusy, Counter::DetourCandidate];
    agree::<Least>(Protocol::Tcp, policy, &never);
}

#[test]
fn kernel_and_model_agree_about_connections_within_a_bound() {
    let policy = Policy { balance: Balance::Bounded(1.25), counts: true, ..SOURCE };
    agree::<Bounded>(Protocol::Tcp, policy, &[Counter::OwnerKept, Counter::OwnerBusy]);
}

#[test]
fn kernel_and_model_agree_about_connections_that_are_counted() {
    let policy = Policy { counts: true, ..SOURCE };
    let never = [Counter::OwnerKept, Counter::OwnerBusy, Counter::OwnerFuller];
    agree::<FirstFit>(Protocol::Tcp, policy, &never);
}

#[test]
fn kernel_and_model_agree_about_sessions() {
    let bytes = PayloadBytes { offset: SESSION.start as u16, length: SESSION.len() as u8 };
    let policy = Policy { affinity: Affinity::Payload(bytes), ..SOURCE };
    let never = [Counter::Migration, Counter::OwnerBusy, Counter::OwnerFuller];
    agree::<FirstFit>(Protocol::Udp, policy, &never);
}
