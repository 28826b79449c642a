//! Whom a guest's socket talks to, one by one: what is told of as flows, of UDP
//! and echo.
//!
//! A flow of the tables is a socket of the guest, whoever it talks to; a flow that
//! is told of is a pair of that and a remote. Pairs exist only where events are
//! wanted. Each has the idle limit that a flow has, and ends with its flow at the
//! latest.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::egress::Problem;
use super::events::{Account, Ending, Ends, Events, verdict_of_problem};
use super::flow::Token;
use super::udp::{IDLE_ANSWERED, IDLE_DNS, IDLE_UNANSWERED};
use crate::policy::{FlowVerdict, HowEnded, Party};

/// Remotes of one socket of the guest; the longest idle makes room.
const MAX_REMOTES: usize = 256;

#[derive(Debug)]
struct Pair {
    account: Box<Account>,
    active: Instant,
}

/// Something that went between a guest's socket and a remote.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Passed {
    pub(crate) ends: Ends,
    /// The remote as the host sees it.
    pub(crate) peer: SocketAddr,
    pub(crate) bytes: u64,
    pub(crate) datagrams: u64,
}

/// The pairs of one flow, by the remote as the host sees it.
#[derive(Debug)]
pub(crate) struct Pairs {
    id: Token,
    pairs: HashMap<SocketAddr, Pair>,
}

impl Pairs {
    pub(crate) fn new(id: Token) -> Self {
        Self {
            id,
            pairs: HashMap::new(),
        }
    }

    /// The guest has sent.
    pub(crate) fn sent(&mut self, events: &mut Events, now: Instant, passed: Passed) {
        let Some(pair) = self.pair(events, now, passed, Party::Guest) else {
            return;
        };
        pair.account.from_guest.bytes += passed.bytes;
        pair.account.from_guest.packets += passed.datagrams;
    }

    /// The guest was sent something.
    pub(crate) fn received(&mut self, events: &mut Events, now: Instant, passed: Passed) {
        let Some(pair) = self.pair(events, now, passed, Party::Host) else {
            return;
        };
        pair.account.to_guest.bytes += passed.bytes;
        pair.account.to_guest.packets += passed.datagrams;
        events.decide(
            now,
            &mut pair.account,
            FlowVerdict::Connected,
            Some(passed.peer),
        );
    }

    /// The network, or the host, said that what the guest sent went nowhere. That
    /// ends a pair that was never answered.
    pub(crate) fn failed(
        &mut self,
        events: &mut Events,
        now: Instant,
        peer: SocketAddr,
        problem: Problem,
    ) {
        let lasting = !matches!(problem, Problem::TooBig { .. } | Problem::Reassembly);
        if let Some(pair) = self.pairs.get(&peer)
            && lasting
            && !pair.account.is_decided()
            && let Some(mut pair) = self.pairs.remove(&peer)
        {
            let verdict = verdict_of_problem(problem);
            events.decide(now, &mut pair.account, verdict, None);
            events.remember_turned_away(now, &pair.account);
            let ending = Ending::new(Party::Host, HowEnded::TurnedAway);
            events.close_pair(now, pair.account, ending);
        }
    }

    fn pair(
        &mut self,
        events: &mut Events,
        now: Instant,
        passed: Passed,
        by: Party,
    ) -> Option<&mut Pair> {
        if !self.pairs.contains_key(&passed.peer) {
            let by = match (by, events.was_turned_away(now, passed.ends)) {
                // Told of not long ago.
                (Party::Guest, true) => return None,
                // The guest did begin: it was turned away, and now is not.
                (_, true) => Party::Guest,
                (by, false) => by,
            };
            if self.pairs.len() >= MAX_REMOTES {
                self.evict(events, now);
            }
            let account = events.open_pair(now, passed.ends, by, self.id.raw())?;
            let active = now;
            self.pairs.insert(passed.peer, Pair { account, active });
        }
        let pair = self.pairs.get_mut(&passed.peer)?;
        pair.active = now;
        Some(pair)
    }

    fn evict(&mut self, events: &mut Events, now: Instant) {
        let oldest = self.pairs.iter().min_by_key(|(_, pair)| pair.active);
        if let Some(peer) = oldest.map(|(peer, _)| *peer)
            && let Some(pair) = self.pairs.remove(&peer)
        {
            events.close_pair(now, pair.account, Ending::ours(HowEnded::Evicted));
        }
    }

    /// Ends pairs whose time has run out. Gives back when the next one's has.
    pub(crate) fn end_idle(&mut self, events: &mut Events, now: Instant) -> Option<Instant> {
        let idle = self
            .pairs
            .extract_if(|peer, pair| pair.active + limit(*peer, pair) <= now);
        for (_, pair) in idle {
            events.close_pair(now, pair.account, Ending::ours(HowEnded::Idle));
        }
        let pairs = self.pairs.iter();
        pairs
            .map(|(peer, pair)| pair.active + limit(*peer, pair))
            .min()
    }

    /// The flow has ended, and so have all of its pairs.
    pub(crate) fn end(self, events: &mut Events, now: Instant, ending: Ending) {
        for pair in self.pairs.into_values() {
            events.close_pair(now, pair.account, ending);
        }
    }
}

fn limit(peer: SocketAddr, pair: &Pair) -> Duration {
    match (pair.account.is_decided(), peer.port() == 53) {
        (_, true) => IDLE_DNS,
        (true, false) => IDLE_ANSWERED,
        (false, false) => IDLE_UNANSWERED,
    }
}
