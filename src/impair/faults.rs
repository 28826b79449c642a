//! Which flow and which question gets which fault.
//!
//! # Theory of operation
//!
//! Rules are looked at in order. A flow gets the first fault of those that match
//! it and are in force; [`Effect::Pass`] in front of that spares it. A flow is asked
//! about once, when it begins, and keeps what it was given, whatever becomes of the
//! rules. Datagrams have no beginning that one could go by, and are asked about one
//! by one.
//!
//! A question for a name gets the first fault of those that match it, but for
//! delays: those in front of it add up.
//!
//! | rule | flows of TCP | flows of UDP | questions |
//! |---|---|---|---|
//! | faults of TCP, no protocol or `tcp` | yes | no | no |
//! | `refuse` and `black-hole` with `udp` | no | yes | no |
//! | faults of DNS | no | no | yes, by `name` |
//! | `pass` with `to`, `port` or a protocol | yes, if it is of that | likewise | no |
//! | `pass` without those | yes | yes | yes, by `name` |
//!
//! `to` and `name` look at the remote. The port is that of whom the flow was for: the
//! remote's where the guest began it, the guest's where a client did.
//!
//! The clock counts from when the rules were set up. Each rule counts what it has hit.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{DnsFault, Effect, MatchProtocol, Names, Rule, Schedule, TcpFault, Way};
use crate::policy::Party;

/// A flow that begins, or a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beginning {
    /// Who begins it: the guest, or a client on the host's side.
    pub by: Party,
    /// The guest's end.
    pub guest: SocketAddr,
    /// The other end, as the guest sees it.
    pub remote: SocketAddr,
}

impl Beginning {
    /// The port that was called.
    fn port(&self) -> u16 {
        match self.by {
            Party::Guest => self.remote.port(),
            Party::Host | Party::Gateway => self.guest.port(),
        }
    }
}

/// What becomes of the answer to a question.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DnsFate {
    /// It comes so much later.
    pub delay: Duration,
    /// This comes in place of it. Never a delay.
    pub fault: Option<DnsFault>,
}

/// The faults among the rules, with the time that their schedules count from.
#[derive(Debug, Default)]
pub struct Faults {
    entries: Vec<Entry>,
    /// `None` for those that hold nothing.
    since: Option<Instant>,
    kinds: Kinds,
}

#[derive(Debug)]
struct Entry {
    /// Where it stands among the rules that were given.
    position: usize,
    rule: Rule,
    hits: Cell<u64>,
}

/// Which faults there are at all: most have none, and are not to pay.
#[derive(Debug, Clone, Copy, Default)]
struct Kinds {
    tcp: bool,
    udp: bool,
    dns: bool,
}

impl Faults {
    /// The faults of `rules`, whose schedules begin `now`.
    #[must_use]
    pub fn new(rules: &[Rule], now: Instant) -> Self {
        let mut kinds = Kinds::default();
        let mut entries = Vec::new();
        for (position, rule) in rules.iter().enumerate() {
            match &rule.effect {
                Effect::Packets(_) => continue,
                Effect::Pass => {}
                Effect::Tcp(_) if rule.matcher.protocol == Some(MatchProtocol::Udp) => {
                    kinds.udp = true;
                }
                Effect::Tcp(_) => kinds.tcp = true,
                Effect::Dns(_) => kinds.dns = true,
            }
            let (rule, hits) = (rule.clone(), Cell::new(0));
            entries.push(Entry {
                position,
                rule,
                hits,
            });
        }
        Self {
            entries,
            since: Some(now),
            kinds,
        }
    }

    /// The fault of a TCP flow that begins.
    pub fn tcp(&self, now: Instant, flow: Beginning, names: &dyn Names) -> Option<TcpFault> {
        if !self.kinds.tcp {
            return None;
        }
        self.flow_fault(now, MatchProtocol::Tcp, flow, names)
    }

    /// The fault of a datagram: [`TcpFault::Refuse`] or [`TcpFault::BlackHole`].
    pub fn udp(&self, now: Instant, flow: Beginning, names: &dyn Names) -> Option<TcpFault> {
        if !self.kinds.udp {
            return None;
        }
        self.flow_fault(now, MatchProtocol::Udp, flow, names)
            .filter(|fault| matches!(fault, TcpFault::Refuse | TcpFault::BlackHole))
    }

    /// What becomes of a question for `name`.
    #[must_use]
    pub fn dns(&self, now: Instant, name: &str) -> DnsFate {
        let mut fate = DnsFate::default();
        if !self.kinds.dns {
            return fate;
        }
        for entry in self.in_force(now).filter(|e| e.is_for_question(name)) {
            match &entry.rule.effect {
                Effect::Dns(DnsFault::Delay(by)) => {
                    fate.delay = fate.delay.saturating_add(*by);
                    entry.hit();
                }
                Effect::Dns(fault) => {
                    entry.hit();
                    fate.fault = Some(fault.clone());
                    break;
                }
                Effect::Pass => break,
                Effect::Tcp(_) | Effect::Packets(_) => {}
            }
        }
        fate
    }

    /// How often each of the rules has hit, by its place among those given.
    pub fn hits(&self) -> impl Iterator<Item = (usize, u64)> {
        let faults = self.entries.iter();
        faults
            .filter(|entry| entry.rule.effect != Effect::Pass)
            .map(|entry| (entry.position, entry.hits.get()))
    }

    fn flow_fault(
        &self,
        now: Instant,
        protocol: MatchProtocol,
        flow: Beginning,
        names: &dyn Names,
    ) -> Option<TcpFault> {
        for entry in self.in_force(now) {
            let fault = match &entry.rule.effect {
                Effect::Tcp(fault) if entry.is_for_protocol(protocol) => Some(*fault),
                Effect::Pass if entry.rule.matcher.protocol.is_none_or(|p| p == protocol) => None,
                _ => continue,
            };
            if !entry.is_for_flow(flow, names) {
                continue;
            }
            if fault.is_some() {
                entry.hit();
            }
            return fault;
        }
        None
    }

    fn in_force(&self, now: Instant) -> impl Iterator<Item = &Entry> {
        let since = self.since.unwrap_or(now);
        let age = now.saturating_duration_since(since);
        let entries = self.entries.iter();
        entries.filter(move |entry| entry.rule.schedule.covers(age))
    }
}

impl Entry {
    fn hit(&self) {
        self.hits.set(self.hits.get().saturating_add(1));
    }

    /// True for a fault of such flows: of TCP, unless it says otherwise.
    fn is_for_protocol(&self, protocol: MatchProtocol) -> bool {
        self.rule.matcher.protocol.unwrap_or(MatchProtocol::Tcp) == protocol
    }

    fn is_for_flow(&self, flow: Beginning, names: &dyn Names) -> bool {
        let Rule { way, matcher, .. } = &self.rule;
        let is_our_way = match way {
            Way::Both => true,
            Way::Up => flow.by == Party::Guest,
            Way::Down => flow.by != Party::Guest,
        };
        let addr = flow.remote.ip();
        let name = |pattern| names.any_like(addr, pattern);
        is_our_way
            && matcher.to.is_none_or(|net| net.contains(&addr))
            && matcher.ports.is_none_or(|p| p.contains(flow.port()))
            && matcher.name.as_ref().is_none_or(name)
    }

    fn is_for_question(&self, name: &str) -> bool {
        let matcher = &self.rule.matcher;
        let is_of_flows = self.rule.effect == Effect::Pass
            && (matcher.to, matcher.ports, matcher.protocol) != (None, None, None);
        !is_of_flows && matcher.name.as_ref().is_none_or(|p| p.matches(name))
    }
}

impl Schedule {
    /// True when what was set up so long ago is in force.
    fn covers(&self, age: Duration) -> bool {
        match age.checked_sub(self.at) {
            Some(inside) => self.lasts.is_none_or(|lasts| inside < lasts),
            None => false,
        }
    }
}

#[cfg(test)]
mod tests;
