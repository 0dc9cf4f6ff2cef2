//! What clients have open, and what became of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use testkit::daemon::until;
use testkit::flows::{Flows, Live};
use testkit::load::{Ending, Load};
use testkit::patience::{at_most, fewer};
use testkit::quic::Clients;

use crate::lab::{Lab, echo};

/// Connections over TCP, flows of datagrams and connections of QUIC to the hosts.
pub(crate) struct Loads {
    tcp: Load,
    kept: u64,
    udp: Live,
    quic: Option<Clients>,
    seen: Seen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A connection over TCP was reset, or a request on it failed.
    Cut,
    /// A connection over TCP ended as HTTP allows.
    Ended,
    /// Another process answered a flow.
    Moved,
    /// Nobody answered a datagram.
    Lost,
    /// A connection of QUIC ended.
    Quic,
}

/// How often something happened to what a process had; to none: 0.
pub(crate) type Seen = BTreeMap<(Kind, i32), usize>;

impl Loads {
    /// So many connections over TCP, as many flows, and so many connections of QUIC.
    pub(crate) fn start(lab: &Lab, to: SocketAddr, count: usize, quic: usize) -> Self {
        let count = fewer(count);
        let every = at_most(Duration::from_millis(250));
        lab.client.inside(|| Self {
            tcp: Load::to(to).clients(0).kept(count).every(every).start(),
            kept: count as u64,
            udp: Flows::open(&[to], count).keep(every),
            quic: (quic > 0).then(|| Clients::start(echo(), &lab.identity, fewer(quic))),
            seen: Seen::new(),
        })
    }

    /// What has happened since the last look, once each connection and flow has spoken again.
    pub(crate) fn look(&mut self) -> Seen {
        let messages = || self.tcp.report_so_far().kept_messages;
        let before = messages();
        until("all connections to speak", || (messages() >= before + 2 * self.kept).then_some(()));
        self.quic.iter().for_each(Clients::heard_again);
        let (tcp, udp) = (self.tcp.report_so_far(), self.udp.look());
        let quic = self.quic.as_ref().map(|it| it.so_far().lost).unwrap_or_default();
        let mut all = Seen::new();
        let mut add = |kind: Kind, pid: Option<i32>| *all.entry((kind, pid.unwrap_or(0))).or_default() += 1;
        tcp.failed.iter().for_each(|it| add(Kind::Cut, it.kept.as_ref().map(|(_, pid)| *pid)));
        for it in &tcp.ended {
            add(if it.how == Ending::Reset { Kind::Cut } else { Kind::Ended }, Some(it.pid));
        }
        udp.moved.iter().for_each(|it| add(Kind::Moved, Some(it.from.pid)));
        udp.lost.iter().for_each(|it| add(Kind::Lost, it.with.as_ref().map(|who| who.pid)));
        quic.iter().for_each(|it| add(Kind::Quic, it.server.as_ref().map(|server| server.pid)));
        let before = std::mem::replace(&mut self.seen, all);
        let news = self.seen.iter().map(|(what, count)| (*what, count - before.get(what).unwrap_or(&0)));
        news.filter(|(_, count)| *count > 0).collect()
    }

    /// Ends all of it.
    pub(crate) fn end(self) {
        let _ = self.quic.map(|it| println!("quic: {}", it.end()));
        println!("tcp: {}\nudp: {}", self.tcp.end(), self.udp.end().1);
    }
}
