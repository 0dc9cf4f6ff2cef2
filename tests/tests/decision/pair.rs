//! A group in the kernel and the model of it, which are asked the same.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use reuseport_lb::config::{Affinity, Balance, Flows};
use reuseport_lb::domain::listener::{Listener, Protocol};
use reuseport_lb::kernel::connections::Connections;
use reuseport_lb::kernel::group::{PinnedGroup, Policy};
use reuseport_lb::kernel::owner::Siblings;
use reuseport_lb::kernel::socket;
use reuseport_lb_common::connections::Tag;
use reuseport_lb_common::counters::Counter;
use reuseport_lb_common::entry::Entry;
use reuseport_lb_common::load::{self, CPUS, Fitness};
use reuseport_lb_common::select::SelectPolicy;
use reuseport_lb_common::select::model::Model;
use reuseport_lb_common::slots::NO_SLOT;
use reuseport_lb_common::steer::Hint;
use reuseport_lb_common::table::attention;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use socket2::{Domain, Socket, Type};
use testkit::cpus::{cpus_of, keep_to};
use testkit::daemon::until;
use testkit::fault::Dice;
use testkit::world::World;

use crate::keys::{key, loopback, session, session_key};

/// What these questions never lead to: `affinity`, `payload`, `quic_ids` and `directed` show it.
const SEEN_ELSEWHERE: [Counter; 4] =
    [Counter::KeyFallback, Counter::QuicRouted, Counter::QuicUnroutable, Counter::OwnerDirected];

/// Slots that a group of these tests may use.
const SLOTS: u16 = 8;
/// How often a group and its model are arranged anew, and how much is asked of each arrangement.
const ARRANGEMENTS: usize = 30;
const QUESTIONS: usize = 100;
/// A network that is routed here, for clients over IPv6.
pub(crate) const V6: &str = "fd00:1b:1b:1b::";

/// A group in the kernel and its model.
pub(crate) struct Pair<P> {
    group: PinnedGroup,
    model: Model<P>,
    sockets: BTreeMap<u16, Socket>,
    /// Epoll objects, of which one watches the other, that make the workers of some slots look as if they wait for work.
    watched: BTreeMap<u16, [OwnedFd; 2]>,
    /// Counts what waits, where the policy wants that, in these accounts.
    counting: Option<(Connections, Vec<Tag>)>,
    /// Who must have arrived where and was not looked for yet, in order; with the client's end.
    queues: BTreeMap<u16, Vec<(SocketAddr, Socket)>>,
    affinity: Affinity,
    /// CPUs that may receive what is asked.
    cpus: Vec<usize>,
    dice: Dice,
}

impl<P: SelectPolicy> Pair<P> {
    pub(crate) fn new(world: &World, listener: Listener, policy: Policy) -> Self {
        let affinity = policy.affinity.clone();
        let flows = if affinity == Affinity::Cpu { Flows::None } else { Flows::Track };
        let tracks = listener.protocol == Protocol::Udp && flows == Flows::Track;
        let policy = Policy { flows, ..policy };
        let pins = world.bpffs().join(listener.plain_name().replace('.', "-"));
        std::fs::create_dir(&pins).unwrap();
        let connections = policy.counts.then(|| Connections::open(&world.bpffs()).unwrap());
        let accounts = connections.as_ref().map(Connections::pins);
        let group = PinnedGroup::load(&listener, &policy, &pins, accounts).unwrap();
        let counting = connections.map(|connections| {
            let service = connections.give();
            let tag = |_| Tag { socket: 0, worker: connections.give(), service, counted: 0 };
            let tags = (0..SLOTS).map(tag).collect();
            (connections, tags)
        });
        let model = Model::new(&[]);
        if let Balance::Bounded(factor) = policy.balance {
            model.load.shares.bound.set((factor * f64::from(load::Shares::UNIT)) as u32);
        }
        let model = if tracks { model.tracking() } else { model };
        let (sockets, watched, queues) = Default::default();
        let (cpus, dice) = (cpus_of(0), Dice::new());
        let mut pair = Self { group, model, sockets, watched, counting, queues, affinity, cpus, dice };
        for slot in 0..SLOTS {
            pair.open(slot);
        }
        pair
    }

    fn one_in(&mut self, sides: usize) -> bool {
        self.dice.roll(sides) == 0
    }

    fn slot(&mut self) -> u16 {
        self.dice.roll(SLOTS.into()) as u16
    }

    fn some_slots(&mut self) -> Vec<u16> {
        let none = self.one_in(3);
        (0..SLOTS).filter(|_| !none && self.one_in(3)).collect()
    }

    fn open(&mut self, slot: u16) {
        let socket = socket::open(&self.group, 4096, self.sockets.is_empty(), &Siblings::default()).unwrap();
        socket.set_nonblocking(true).unwrap();
        if let Some((connections, tags)) = &self.counting {
            let tag = Tag { socket: connections.give(), ..tags[usize::from(slot)] };
            connections.set_tag(&socket, tag, false).unwrap();
            self.group.set_accounts(slot, tag);
        }
        self.group.insert(slot, &socket).unwrap();
        self.sockets.insert(slot, socket);
        self.model.sockets.insert(slot);
    }

    /// The slot of each CPU, one in three without a worker.
    fn some_cpus(&mut self) -> Vec<u16> {
        (0..CPUS).map(|_| if self.one_in(3) { NO_SLOT } else { self.slot() }).collect()
    }

    /// Where what a client sends belongs; this thread is where it will be received from now on.
    fn hint(&mut self, client: IpAddr) -> Hint {
        match self.affinity {
            Affinity::Payload(_) => return Hint::Key(session_key(client)),
            Affinity::Cpu => {}
            _ => return Hint::Key(key(client)),
        }
        let cpu = self.dice.one_of(&self.cpus);
        keep_to(cpu);
        // The hash is the kernel's secret: all keys lead to one worker (`arrange`).
        Hint::Cpu { cpu: cpu as u32, key: 0 }
    }

    /// Buckets, fitness, rosters, sockets and waiting workers by chance.
    fn arrange(&mut self) {
        // Of what closes in an open group it is not known where the kernel sends what waits there.
        for table in [self.group.memory().table(), &*self.model.table] {
            table.attention.set(table.attention.get() & !attention::OPEN);
        }
        let few = self.one_in(4);
        for slot in 0..SLOTS {
            if self.sockets.contains_key(&slot) {
                if self.sockets.len() > 1 && (few || self.one_in(4)) {
                    self.close(slot);
                }
            } else if !few && self.one_in(2) {
                self.open(slot);
            }
        }
        self.watched.clear();
        for slot in self.some_slots() {
            if let Some(socket) = self.sockets.get(&slot) {
                let [inner, outer] = [(); 2].map(|()| epoll::create(CreateFlags::CLOEXEC).unwrap());
                epoll::add(&inner, socket, EventData::new_u64(0), EventFlags::IN).unwrap();
                epoll::add(&outer, &inner, EventData::new_u64(0), EventFlags::IN).unwrap();
                self.watched.insert(slot, [inner, outer]);
            }
        }
        let avoid = if self.one_in(2) { attention::AVOID } else { 0 };
        let open = if self.one_in(2) { attention::OPEN } else { 0 };
        let fitness: Vec<Fitness> = (0..SLOTS)
            .map(|_| [Fitness::Fit, Fitness::Fit, Fitness::Overloaded, Fitness::Stalled][self.dice.roll(4)])
            .collect();
        let [mut ready, mut waiting] = [(); 2].map(|()| self.some_slots());
        let by_cpu = self.some_cpus();
        let all = self.dice.roll(SLOTS.into()) as u16;
        if self.affinity == Affinity::Cpu {
            ready.truncate(1);
            waiting.truncate(1);
        }
        let weights: Vec<u32> = (0..SLOTS).map(|_| self.dice.roll(4) as u32).collect();
        self.group.set_weights(&(0..SLOTS).collect::<Vec<u16>>(), &weights);
        (0..).zip(&weights).for_each(|(slot, weight)| self.model.load.line(slot).weight.set(*weight));
        self.model.load.shares.weights.set(weights.iter().sum());
        let memory = self.group.memory();
        for (table, load) in [(memory.table(), memory.load()), (&*self.model.table, &*self.model.load)] {
            table.attention.set(avoid | open);
            (0..).zip(&fitness).for_each(|(slot, fitness)| load.line(slot).set_fitness(*fitness));
            load.ready.set(&ready);
            load.waiting.set(&waiting);
            load.by_cpu.set(&by_cpu);
        }
        for bucket in 0..=u16::MAX {
            let entry = match self.affinity {
                Affinity::Cpu => Entry::steady(all),
                _ => self.entry(bucket),
            };
            self.group.memory().table().set_entry(bucket, entry);
            self.model.table.set_entry(bucket, entry);
        }
    }

    /// What becomes of an entry: its worker is another one or there is none, it moves, it is slow.
    fn entry(&mut self, bucket: u16) -> Entry {
        let before = self.model.table.entry(bucket.into());
        let slot = if self.one_in(20) { NO_SLOT } else { self.slot() };
        let mut entry = before.with_previous(NO_SLOT).with_slot(slot);
        if self.model.activity.is_some() && before.slot() != NO_SLOT && slot != NO_SLOT && self.one_in(2) {
            entry = entry.turned().with_previous(before.slot());
        }
        let slow = self.one_in(5);
        entry.with_slow(slow)
    }

    /// Begins another epoch.
    fn rotate(&mut self) {
        let (memory, model) = (self.group.memory(), &self.model);
        let (Some(kernel), Some(activity)) = (memory.activity(), &model.activity) else { return };
        for bucket in 0..=u16::MAX {
            let entry = model.table.entry(bucket.into()).aged();
            kernel.renew(bucket, entry);
            activity.renew(bucket, entry);
            memory.table().set_entry(bucket, entry);
            model.table.set_entry(bucket, entry);
        }
    }

    /// A client by chance.
    fn client(&mut self, v6: bool) -> SocketAddr {
        // Few, so that most come again.
        let bytes: [u8; 3] = [(); 3].map(|()| self.dice.roll(6) as u8 + 1);
        let address: IpAddr = if v6 {
            let mut address = V6.parse::<Ipv6Addr>().unwrap().octets();
            address[13..].copy_from_slice(&bytes);
            address.into()
        } else {
            [127, bytes[0], bytes[1], bytes[2]].into()
        };
        (address, 0).into()
    }

    /// Tells the model who is busy, and how many connections each has: those that wait, also the `rest` of a listener that
    /// closes.
    fn look_who_is_busy(&mut self, rest: Option<(u16, usize)>) {
        let length = |slot: &u16| self.queues.get(slot).map_or(0, Vec::len) as u32;
        self.model.connections = (0..SLOTS).map(|slot| (slot, length(&slot))).collect();
        self.model.connections.extend(rest.map(|(slot, rest)| (slot, rest as u32)));
        let busy = self.model.sockets.iter().map(|slot| (*slot, length(slot)));
        self.model.busy =
            busy.filter(|(slot, queue)| *queue > 0 || !self.watched.contains_key(slot)).collect();
    }

    /// Asks both, and looks what the client sees.
    fn ask(&mut self) {
        let to = *self.group.listener();
        let v6 = to.address.is_ipv6() && !(to.dual_stack && self.one_in(2));
        let from = self.client(v6);
        let hint = self.hint(from.ip());
        if self.model.table.attention.get() & attention::OPEN != 0 {
            // Where the kernel chooses, the only one that waits is the one.
            self.check_queues();
        }
        self.look_who_is_busy(None);
        self.check_connections();
        let decision = self.model.arrive(hint);
        let kind = if to.protocol == Protocol::Tcp { Type::STREAM } else { Type::DGRAM };
        let client = Socket::new(Domain::for_address(from), kind, None).unwrap();
        if from.is_ipv6() {
            client.set_freebind_v6(true).unwrap();
        }
        client.bind(&from.into()).unwrap();
        let connected = client.connect(&SocketAddr::new(loopback(v6), to.address.port()).into());
        let from = client.local_addr().unwrap().as_socket().unwrap();
        if to.protocol == Protocol::Tcp {
            client.set_linger(Some(Duration::ZERO)).unwrap();
            assert_eq!(connected.is_err(), decision.refuses(), "{from}: {decision:?}");
        } else {
            client.send(&session(from.ip())).unwrap();
            if decision.refuses() {
                let refused =
                    || client.send(b"").is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
                assert!(refused(), "{from}: {decision:?}");
            }
        }
        if decision.detour() == Some(Counter::DetourKernel) {
            let got = || self.sockets.values().find_map(|socket| self.arrived(socket).ok());
            assert_eq!(until("it arrives somewhere", got), from);
        }
        if let Some(slot) = decision.slot() {
            self.queues.entry(slot).or_default().push((from, client));
        }
    }

    /// Closes a listener: what waits there goes where the model says.
    fn close(&mut self, slot: u16) {
        let socket = self.sockets.remove(&slot).unwrap();
        self.model.sockets.remove(&slot);
        self.watched.remove(&slot);
        let queue = self.queues.remove(&slot).unwrap_or_default();
        drop(socket);
        if self.group.listener().protocol == Protocol::Udp {
            assert!(queue.is_empty(), "nothing waits when a datagram socket is closed here");
        }
        let mut rest = queue.len();
        for (from, client) in queue {
            self.look_who_is_busy(Some((slot, rest)));
            rest -= 1;
            let hint = self.hint(from.ip());
            if let Some(heir) = self.model.migrate(hint).slot() {
                self.queues.entry(heir).or_default().push((from, client));
            }
        }
    }

    /// What is counted is what waits.
    fn check_connections(&self) {
        let Some((connections, tags)) = &self.counting else { return };
        let live = |tag: &Tag| connections.live(tag.worker);
        let same = || (tags.iter().map(live).eq(self.model.connections.values().copied())).then_some(());
        until("each connection to be counted with its worker", same);
        assert_eq!(connections.live(tags[0].service), self.model.connections.values().sum::<u32>());
    }

    /// All that arrived is where the model says, in that order, and nothing else.
    fn check_queues(&mut self) {
        for (slot, socket) in &self.sockets {
            let mut wanted = self.queues.remove(slot).unwrap_or_default();
            let first = wanted.first().map(|(from, _)| *from);
            for (from, _) in wanted.drain(..) {
                let seen = until("it arrives", || self.arrived(socket).ok());
                assert_eq!(seen, from, "slot {slot}, whose first one is {first:?}");
            }
            assert_eq!(
                self.arrived(socket).map_err(|error| error.kind()).err(),
                Some(ErrorKind::WouldBlock),
                "slot {slot}"
            );
        }
        assert!(self.queues.is_empty());
    }

    /// Who waits first at a socket.
    fn arrived(&self, socket: &Socket) -> std::io::Result<SocketAddr> {
        let (_, from) = match self.group.listener().protocol {
            Protocol::Tcp => socket.accept().map(|(_, from)| ((), from))?,
            Protocol::Udp => {
                let received = socket.recv_from(&mut [std::mem::MaybeUninit::uninit(); 8]);
                received.map(|(_, from)| ((), from))?
            }
        };
        let from = from.as_socket().expect("an IP address");
        // An IPv4 client of a dual-stack socket has an IPv4-mapped address there.
        Ok(SocketAddr::new(from.ip().to_canonical(), from.port()))
    }

    fn check_counters(&self) {
        let totals = self.group.totals().unwrap();
        let by_name = |events: &[u64]| -> BTreeMap<&str, u64> {
            Counter::ALL.iter().map(|counter| (counter.name(), events[counter.index()])).collect()
        };
        assert_eq!(by_name(&totals.events), by_name(&self.model.counted()));
        assert_eq!(totals.selected[..], *self.model.selected());
        if let (Some(kernel), Some(model)) = (self.group.memory().activity(), &self.model.activity) {
            for (bucket, side) in (0..=u16::MAX).flat_map(|bucket| [(bucket, 0), (bucket, 1)]) {
                assert_eq!(
                    kernel.live(bucket, side),
                    model.live(bucket, side),
                    "bucket {bucket}, side {side}"
                );
            }
        }
    }

    /// Asks for a while, and then until each counter has counted something, but for those that can `never`.
    pub(crate) fn agree(mut self, never: &[Counter]) {
        let ways = || Counter::ALL.iter().filter(|it| !SEEN_ELSEWHERE.contains(it) && !never.contains(it));
        let mut missing: Vec<&str> = Vec::new();
        for arrangement in 0..10 * ARRANGEMENTS {
            self.arrange();
            if self.one_in(2) {
                self.rotate();
            }
            for _ in 0..QUESTIONS {
                self.ask();
                // Connections may wait for the next arrangement, and move with their listener.
                if self.group.listener().protocol == Protocol::Udp || self.one_in(8) {
                    self.check_queues();
                }
            }
            self.check_counters();
            let counted = self.model.counted();
            missing = ways().filter(|it| counted[it.index()] == 0).map(|it| it.name()).collect();
            if arrangement >= ARRANGEMENTS && missing.is_empty() {
                break;
            }
        }
        self.check_queues();
        assert_eq!(missing, [""; 0], "no decision was of these kinds");
    }
}
