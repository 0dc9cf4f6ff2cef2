//! Where a client's next connection or datagram would go, and why, in the types of the client package. Not: the decision
//! (`domain/foresight.rs`).

use std::collections::HashMap;
use std::net::IpAddr;

use anyhow::Result;
use reuseport_lb_client::api::{Chance, Explainable, Explained, Explanation, Place, Refusal};
use reuseport_lb_common::slots::NO_SLOT;
use reuseport_lb_common::steer::{source_v4, source_v6};
use reuseport_lb_common::table::BUCKETS;

use super::Service;
use super::status::state_shown;
use crate::config::{Affinity, Balance, WhenBusy};
use crate::domain::foresight::{Choice, Foresight};
use crate::domain::listener::{Listener, Protocol};
use crate::domain::ports::{Cookie, Dataplane, ListenerId};
use crate::domain::slots::SlotSet;

/// The worker in a slot: name, state, and its sockets by listener.
struct Occupant {
    place: Place,
    sockets: Vec<(ListenerId, Cookie)>,
}

impl Service {
    /// Says where the next connection or datagram of a client, or with a key, would go now, to `listen` (as the configuration says, or with
    /// the port that the kernel chose), or to each listener that it could come to.
    pub(super) fn explain(
        &mut self,
        what: Explainable,
        listen: Option<Listener>,
    ) -> Result<Explained, Refusal> {
        let client = match what {
            Explainable::Client(client) => Some(client.address),
            Explainable::Key(_) => None,
        };
        let asked = self.asked_for(client, listen)?;
        let occupants = self.occupants();
        let explained = |(id, listener): (ListenerId, Listener)| {
            self.explanation(id, &listener, what, &occupants)
                .map_err(|error| Refusal::Failed(format!("{listener}: {error:#}")))
        };
        let listeners = asked.into_iter().map(explained).collect::<Result<_, _>>()?;
        let config = self.config();
        Ok(Explained {
            service: config.name.clone(),
            affinity: config.affinity.to_string(),
            client: what.to_string(),
            listeners,
        })
    }

    /// The listeners that a request to explain is about.
    fn asked_for(
        &self,
        client: Option<IpAddr>,
        listen: Option<Listener>,
    ) -> Result<Vec<(ListenerId, Listener)>, Refusal> {
        let all: Vec<(ListenerId, Listener, Listener)> = self
            .engine
            .listeners()
            .filter_map(|it| {
                let group = self.engine.dataplane().get(it.id)?;
                Some((it.id, *group.group.listener(), group.asked))
            })
            .collect();
        let named = |(_, bound, asked): &&(ListenerId, Listener, Listener)| {
            listen.is_none_or(|listen| listen == *bound || listen == *asked)
        };
        let named: Vec<_> = all.iter().filter(named).collect();
        let service = &self.config().name;
        let list =
            |listeners: &[Listener]| listeners.iter().map(Listener::to_string).collect::<Vec<_>>().join(", ");
        if named.is_empty() {
            let all = list(&all.iter().map(|(_, bound, _)| *bound).collect::<Vec<_>>());
            return Err(Refusal::Impossible(match listen {
                Some(listen) => format!("service {service} does not listen on {listen}; it listens on {all}"),
                None => format!("service {service} has no listener"),
            }));
        }
        let reached = |bound: &Listener| {
            client.is_none_or(|client| bound.dual_stack || bound.address.is_ipv6() == client.is_ipv6())
        };
        let found: Vec<_> =
            named.iter().filter(|(_, bound, _)| reached(bound)).map(|(id, bound, _)| (*id, *bound)).collect();
        if let (true, Some(client)) = (found.is_empty(), client) {
            let family = if client.is_ipv6() { "IPv6" } else { "IPv4" };
            let named = list(&named.iter().map(|(_, bound, _)| *bound).collect::<Vec<_>>());
            return Err(Refusal::Impossible(format!(
                "{client} cannot come to {named} of service {service}: it is an {family} address; ask for one of the \
                 listener's family"
            )));
        }
        Ok(found)
    }

    /// The workers in the slots.
    fn occupants(&self) -> HashMap<u16, Occupant> {
        let holding = self.engine.pool().iter().filter(|worker| worker.holds_slot());
        let occupant = |worker: &crate::domain::pool::Worker| {
            let place = Place {
                slot: worker.slot,
                worker: Some(worker.name.clone()),
                state: Some(state_shown(worker, &self.engine.standing(worker))),
            };
            let sockets = worker.sockets.iter().map(|socket| (socket.listener, socket.cookie)).collect();
            (worker.slot, Occupant { place, sockets })
        };
        holding.map(occupant).collect()
    }

    fn explanation(
        &mut self,
        id: ListenerId,
        listener: &Listener,
        what: Explainable,
        occupants: &HashMap<u16, Occupant>,
    ) -> Result<Explanation> {
        let config = self.config();
        let unknown = match what {
            Explainable::Client(_) => why_unknown(&config.affinity),
            Explainable::Key(_) => None,
        };
        let (by_cpu, when_busy) = (config.affinity == Affinity::Cpu, config.when_busy);
        let mut explanation = nothing_known(listener);
        let sockets: SlotSet = match self.engine.ports().0.group_mut(id) {
            Some(group) => group.group.occupied(occupants.keys().copied())?.into_iter().collect(),
            None => return Ok(explanation),
        };
        let dataplane = self.engine.dataplane();
        let Some(group) = dataplane.get(id) else { return Ok(explanation) };
        let own = &self.config().name;
        if let Some(other) = self.surroundings.claims.holder(&group.asked).filter(|it| it != own) {
            explanation.note = Some(format!(
                "service {other} decides for this address until the workers of {own} are ready"
            ));
            return Ok(explanation);
        }
        let busy = |slot: u16| {
            let occupant = occupants.get(&slot)?;
            let (_, cookie) = occupant.sockets.iter().find(|(listener, _)| *listener == id)?;
            let queue = dataplane.queue(*cookie).queue;
            (queue > 0 || dataplane.waits(*cookie) == Some(false)).then_some(queue)
        };
        let connections = |slot: u16| {
            let of = |occupant: &Occupant| {
                let all = occupant.sockets.iter().filter_map(|(_, cookie)| dataplane.live(*cookie));
                all.map(|live| live.count).sum()
            };
            occupants.get(&slot).map_or(0, of)
        };
        let choice = match (listener.protocol, when_busy, self.config().connections.balance) {
            (Protocol::Udp, ..) => Choice::FirstFit,
            (_, _, Balance::Least) => Choice::Least(&connections),
            (_, _, Balance::Bounded(_)) => Choice::Bounded(&connections),
            (_, WhenBusy::Next, Balance::Table) => Choice::PreferWaiting(&busy),
            (_, WhenBusy::Queue, Balance::Table) => Choice::FirstFit,
        };
        let activity = group.memory().activity();
        let foresight = Foresight {
            table: group.memory().table(),
            load: group.memory().load(),
            activity: activity.as_deref(),
            sockets: &sockets,
            choice,
        };
        let place = |slot: u16| {
            let known = occupants.get(&slot).map(|occupant| occupant.place.clone());
            (slot != NO_SLOT).then(|| known.unwrap_or(Place { slot, worker: None, state: None }))
        };
        if let Some(why) = unknown {
            let cpus = by_cpu.then(|| dataplane.cpus());
            let chance = |(slot, buckets): (u16, u32)| Chance {
                goes_to: place(slot),
                share: f64::from(buckets) / BUCKETS as f64,
            };
            explanation.chances = foresight.chances(cpus.as_deref()).into_iter().map(chance).collect();
            explanation.note =
                Some(format!("{why}; `reuseport-lb trace {own}` shows where each client goes"));
            return Ok(explanation);
        }
        let key = match what {
            Explainable::Key(key) => key,
            Explainable::Client(client) => match client.address {
                IpAddr::V4(address) => source_v4(address.octets()),
                IpAddr::V6(address) => source_v6(address.octets()),
            },
        };
        let foreseen = foresight.decide(key);
        let decision = foreseen.decision;
        let state = |lives| if lives { "live" } else { "new" };
        Ok(Explanation {
            key: Some(key),
            bucket: Some(key as u16),
            bucket_of: place(foreseen.entry.slot()),
            previous: place(foreseen.entry.previous()),
            flow: foreseen.lives.map(|lives| state(lives).to_owned()),
            owner: Some(decision.owner().name().to_owned()),
            detour: decision.detour().map(|detour| detour.name().to_owned()),
            goes_to: decision.slot().and_then(place),
            note: momentary(choice).map(|why| format!("{why}, so this holds for the moment only")),
            ..explanation
        })
    }
}

/// Why nobody can know beforehand where a client goes; `None` if one can.
fn why_unknown(affinity: &Affinity) -> Option<&'static str> {
    match affinity {
        Affinity::Source => None,
        Affinity::Flow => Some(
            "with affinity \"flow\" the kernel hashes both addresses and ports with a secret of this boot, so nobody \
                 can know the bucket beforehand",
        ),
        Affinity::Cpu => Some(
            "with affinity \"cpu\" the CPU that receives a packet has a worker of its own, and which CPU that is depends \
                 on network card and kernel; the shares are those if all CPUs of the workers receive as much",
        ),
        Affinity::Payload(_) => {
            Some("with affinity \"payload\" the bytes of each datagram say where it goes, whoever sends it")
        }
        Affinity::Program(_) => Some(
            "with affinity \"program\" your function says of each packet where it belongs, which `reuseport-lb policy … test` \
                 shows",
        ),
        Affinity::Random => Some(
            "with affinity \"random\" each connection and each datagram goes to a worker by chance, whoever sends it",
        ),
    }
}

/// Why a decision may be another one a moment later.
fn momentary(choice: Choice<'_>) -> Option<&'static str> {
    match choice {
        Choice::FirstFit => None,
        Choice::PreferWaiting(_) => {
            Some("with when_busy = \"next\" a worker that waits for work is preferred")
        }
        Choice::Least(_) => Some("with balance = \"least\" the worker with the fewest connections is taken"),
        Choice::Bounded(_) => Some(
            "with balance = { bounded = … } a worker that has many more connections than its share is passed over",
        ),
    }
}

fn nothing_known(listener: &Listener) -> Explanation {
    Explanation {
        listen: listener.to_string(),
        key: None,
        bucket: None,
        bucket_of: None,
        previous: None,
        flow: None,
        owner: None,
        detour: None,
        goes_to: None,
        chances: Vec::new(),
        note: None,
    }
}
