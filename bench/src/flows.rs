//! Section `flows`: live UDP flows that change their worker when another one joins, leaves or
//! crashes. Real sockets and datagrams; the same harness for all, only who decides differs.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use reuseport_lb::config::Flows;
use reuseport_lb::domain::buckets::Buckets;
use reuseport_lb::domain::listener::{Listener, Protocol};
use reuseport_lb::domain::table::{BucketChange, BucketTable, Member};
use reuseport_lb::kernel::group::{PinnedGroup, Policy};
use reuseport_lb::kernel::owner::Siblings;
use reuseport_lb::kernel::socket;
use socket2::{Domain, Socket, Type};
use testkit::world::World;

use crate::record::Record;
use crate::table::{maglev, name};

const WORKERS: u16 = 8;
/// Who leaves, and who crashes.
const VICTIM: u16 = 3;
/// Flows that a worker's queue has room for between two looks.
const BATCH: usize = 500;

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Ours,
    Plain,
    Maglev,
    Modulo,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    Join,
    Leave,
    Crash,
}

/// Workers' sockets, and what decides between them.
struct Steering {
    by: By,
    to: SocketAddr,
    group: Option<PinnedGroup>,
    buckets: Buckets,
    table: BucketTable,
    sockets: HashMap<u16, Socket>,
}

pub(crate) fn run(record: &mut Record, world: &World) -> Result<()> {
    let (runs, flows) = (record.either(2, 5), record.either(1_000, 4_000));
    for run in 0..runs {
        record.step(&format!("UDP flows, run {} of {runs}", run + 1), flows_seconds(record.quick))?;
        for (by, title) in [
            (By::Ours, "reuseport-lb"),
            (By::Plain, "plain SO_REUSEPORT"),
            (By::Maglev, "Maglev table"),
            (By::Modulo, "hash % n"),
        ] {
            for event in [Event::Join, Event::Leave, Event::Crash] {
                let values = measure(by, event, flows, world)?;
                record.add(
                    "flows",
                    &format!("{title}, {}", format!("{event:?}").to_lowercase()),
                    run,
                    &values,
                );
            }
        }
    }
    Ok(())
}

pub(crate) fn flows_seconds(quick: bool) -> f64 {
    if quick { 2.0 } else { 6.0 }
}

fn measure(by: By, event: Event, flows: usize, world: &World) -> Result<Vec<(&'static str, f64)>> {
    let mut group = Steering::start(by, world)?;
    let clients: Vec<UdpSocket> = clients(flows)?;
    let before = group.answering(&clients)?;
    ensure!(group.answering(&clients)? == before, "flows move although nothing changes");
    group.change(event)?;
    let after = group.answering(&clients)?;
    ensure!(before.len() == flows && after.len() == flows, "void: datagrams were lost");
    let (mut stay, mut stay_moved, mut left, mut left_moved) = (0, 0, 0, 0);
    for (flow, worker) in &before {
        let moved = usize::from(after[flow] != *worker);
        if event != Event::Join && *worker == VICTIM {
            (left, left_moved) = (left + 1, left_moved + moved);
        } else {
            (stay, stay_moved) = (stay + 1, stay_moved + moved);
        }
    }
    let percent = |part: usize, of: usize| 100.0 * part as f64 / of.max(1) as f64;
    let mut values = vec![("moved although their worker stays %", percent(stay_moved, stay))];
    if event == Event::Join {
        let new = group.answering(&self::clients(flows)?)?;
        let joined = new.values().filter(|worker| **worker == WORKERS).count();
        values.push(("new flows that go to the new worker %", percent(joined, new.len())));
    } else {
        values.push(("flows of the leaver that moved %", percent(left_moved, left)));
    }
    Ok(values)
}

fn clients(flows: usize) -> Result<Vec<UdpSocket>> {
    let open = |_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot open a client socket");
    (0..flows).map(open).collect()
}

impl Steering {
    fn start(by: By, world: &World) -> Result<Self> {
        let to = (Ipv4Addr::LOCALHOST, 6000).into();
        let mut group = None;
        if by != By::Plain {
            let listener = Listener::new(Protocol::Udp, to);
            let pins = world.bpffs().join("flows");
            let _ = std::fs::remove_dir_all(&pins);
            std::fs::create_dir(&pins)?;
            let flows = if by == By::Ours { Flows::Track } else { Flows::None };
            let policy = Policy { flows, ..Policy::default() };
            group = Some(PinnedGroup::load(&listener, &policy, &pins, None)?);
        }
        let mut all = Self {
            by,
            to,
            group,
            buckets: Buckets::default(),
            table: BucketTable::default(),
            sockets: HashMap::new(),
        };
        (0..WORKERS).try_for_each(|slot| all.open(slot))?;
        all.publish(&(0..WORKERS).collect::<Vec<_>>(), None);
        Ok(all)
    }

    fn open(&mut self, slot: u16) -> Result<()> {
        let socket = match &mut self.group {
            Some(group) => {
                let socket = socket::open(group, 4096, self.sockets.is_empty(), &Siblings::default())?;
                group.insert(slot, &socket)?;
                socket
            }
            None => {
                let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
                socket.set_reuse_port(true)?;
                socket.bind(&self.to.into())?;
                socket
            }
        };
        socket.set_nonblocking(true)?;
        self.sockets.insert(slot, socket);
        Ok(())
    }

    /// Makes `slots` the workers; `gone` does not keep its flows.
    fn publish(&mut self, slots: &[u16], gone: Option<u16>) {
        let Some(group) = &self.group else { return };
        let keeps = |slot| Some(slot) != gone;
        if self.by == By::Ours {
            self.buckets.cut(group.memory(), keeps);
            let members: Vec<Member> = slots.iter().map(|slot| Member::new(&name(*slot), *slot, 1)).collect();
            self.buckets.publish(group.memory(), self.table.rebalance(&members), keeps);
            return;
        }
        let owners: Vec<u16> = if self.by == By::Maglev {
            maglev(slots)
        } else {
            (0..=u16::MAX).map(|bucket| slots[usize::from(bucket) % slots.len()]).collect()
        };
        let changes: Vec<BucketChange> = (0..=u16::MAX).zip(owners).collect();
        self.buckets.publish(group.memory(), changes, keeps);
    }

    fn change(&mut self, event: Event) -> Result<()> {
        let mut slots: Vec<u16> = (0..WORKERS).collect();
        match event {
            Event::Join => {
                self.open(WORKERS)?;
                slots.push(WORKERS);
                self.publish(&slots, None);
            }
            Event::Leave => {
                slots.retain(|slot| *slot != VICTIM);
                self.publish(&slots, None);
                // Plain SO_REUSEPORT has no other way to leave.
                if self.by == By::Plain {
                    self.sockets.remove(&VICTIM);
                }
            }
            Event::Crash => {
                self.sockets.remove(&VICTIM);
                slots.retain(|slot| *slot != VICTIM);
                self.publish(&slots, Some(VICTIM));
            }
        }
        Ok(())
    }

    /// One datagram of each flow: who gets it.
    fn answering(&self, clients: &[UdpSocket]) -> Result<HashMap<SocketAddr, u16>> {
        let mut answering = HashMap::new();
        for some in clients.chunks(BATCH) {
            for client in some {
                client.send_to(b"?", self.to)?;
            }
            for (slot, socket) in &self.sockets {
                loop {
                    let mut buffer = [std::mem::MaybeUninit::uninit(); 8];
                    match socket.recv_from(&mut buffer) {
                        Ok((_, from)) => answering.insert(from.as_socket().context("no address")?, *slot),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error.into()),
                    };
                }
            }
        }
        Ok(answering)
    }
}
