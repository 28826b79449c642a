//! What is known of the gateway: from one look to the next, counts become rates.
//!
//! Nothing here asks, draws or reads a clock: a [`Look`] says when it was taken.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use crate::control::proto::{Flow, FlowId, Hello, Statistics};

/// Rates kept for the plots: one a column, of terminals up to this wide.
pub(super) const MAX_HISTORY: usize = 512;

/// Rounding of ages to seconds, when it is decided whether a flow is new.
const ROUNDING: Duration = Duration::from_secs(1);

/// What the gateway said at one time.
#[derive(Debug, Clone)]
pub(super) struct Look {
    /// When it answered, on any clock that does not go back.
    pub(super) at: Duration,
    /// Its counts then.
    pub(super) statistics: Statistics,
    /// Its flows.
    pub(super) flows: Vec<Seen>,
    /// Its rules of impairment.
    pub(super) rules: Vec<Impaired>,
}

/// A flow, and when it was told of: pages come one after the other.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// On the clock of [`Look::at`].
    pub(super) at: Duration,
    /// The flow.
    pub(super) flow: Flow,
}

/// A rule of impairment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Impaired {
    /// As it was written.
    pub(super) rule: String,
    /// Whether its schedule has it do something at the moment.
    pub(super) in_force: bool,
}

/// A flow with its rates.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// As it was told.
    pub(super) flow: Flow,
    /// Bytes a second towards the guest; `None` before that is known.
    pub(super) down: Option<u64>,
    /// Bytes a second from the guest.
    pub(super) up: Option<u64>,
}

impl Row {
    /// Bytes a second both ways.
    pub(super) fn rate(&self) -> u64 {
        let (down, up) = (self.down.unwrap_or(0), self.up.unwrap_or(0));
        down.saturating_add(up)
    }

    /// Bytes both ways.
    pub(super) fn total(&self) -> u64 {
        self.flow.to_guest.saturating_add(self.flow.from_guest)
    }
}

/// A rate over time.
#[derive(Debug, Clone, Default)]
pub(super) struct Series {
    recent: VecDeque<u64>,
    /// The highest that was seen, bytes a second.
    pub(super) peak: u64,
}

impl Series {
    fn push(&mut self, rate: u64) {
        if self.recent.len() == MAX_HISTORY {
            self.recent.pop_front();
        }
        self.recent.push_back(rate);
        self.peak = self.peak.max(rate);
    }

    /// The newest; `None` before there are two looks.
    pub(super) fn now(&self) -> Option<u64> {
        self.recent.back().copied()
    }

    /// The newest first.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = u64> {
        self.recent.iter().rev().copied()
    }
}

/// What is dropped for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dropped {
    /// As the gateway calls it, with spaces.
    pub(super) reason: String,
    /// Packets since the gateway was started.
    pub(super) total: u64,
    /// Packets a second now.
    pub(super) rate: u64,
}

/// Counters of a flow when it was last seen.
#[derive(Debug, Clone, Copy)]
struct Before {
    at: Duration,
    guest: SocketAddr,
    to_guest: u64,
    from_guest: u64,
}

/// What is known.
#[derive(Debug, Clone)]
pub(super) struct Model {
    /// Who the gateway is.
    pub(super) hello: Hello,
    /// The counts of the last look; `None` before it.
    pub(super) statistics: Option<Statistics>,
    /// When that was.
    pub(super) at: Duration,
    /// The flows of the last look.
    pub(super) rows: Vec<Row>,
    /// Bytes a second towards the guests, in frames.
    pub(super) down: Series,
    /// Bytes a second from the guests, in frames.
    pub(super) up: Series,
    /// What is dropped: what is being dropped now first.
    pub(super) drops: Vec<Dropped>,
    /// The rules of impairment of the last look.
    pub(super) rules: Vec<Impaired>,
    before: HashMap<FlowId, Before>,
}

impl Model {
    /// Nothing has been seen of the gateway yet but who it is.
    pub(super) fn new(hello: Hello) -> Self {
        Self {
            hello,
            statistics: None,
            at: Duration::ZERO,
            rows: Vec::new(),
            down: Series::default(),
            up: Series::default(),
            drops: Vec::new(),
            rules: Vec::new(),
            before: HashMap::new(),
        }
    }

    /// Takes in what was seen.
    pub(super) fn take(&mut self, look: Look) {
        let passed = look.at.saturating_sub(self.at);
        let known = self.statistics.take();
        if let Some(known) = &known {
            let (now, then) = (&look.statistics, known);
            let rate = |now, then| per_second(now, then, passed);
            self.down
                .push(rate(now.to_guest.bytes, then.to_guest.bytes));
            self.up
                .push(rate(now.from_guest.bytes, then.from_guest.bytes));
        }
        self.drops = drops(&look.statistics, known.as_ref(), passed);
        // Who was not seen then, and is younger, began in between.
        let since = known.is_some().then_some(passed);
        self.take_flows(look.flows, since);
        self.rules = look.rules;
        self.statistics = Some(look.statistics);
        self.at = look.at;
    }

    /// `since`: the time since the look before, if there was one.
    fn take_flows(&mut self, flows: Vec<Seen>, since: Option<Duration>) {
        let mut seen_now = HashMap::with_capacity(flows.len());
        self.rows.clear();
        for Seen { at, flow } in flows {
            let before = self.before.get(&flow.id);
            let rates = rates(&flow, at, before, since);
            let counters = Before {
                at,
                guest: flow.guest,
                to_guest: flow.to_guest,
                from_guest: flow.from_guest,
            };
            seen_now.insert(flow.id, counters);
            self.rows.push(Row {
                flow,
                down: rates.map(|(down, _)| down),
                up: rates.map(|(_, up)| up),
            });
        }
        self.before = seen_now;
    }

    /// Open flows, those not looked at included.
    pub(super) fn flows(&self) -> usize {
        let counts = self.statistics.as_ref().map(|s| s.flows);
        counts.map_or(0, |flows| flows.tcp + flows.udp)
    }

    /// Open flows beyond those that were looked at.
    pub(super) fn not_looked_at(&self) -> usize {
        self.flows().saturating_sub(self.rows.len())
    }
}

/// Bytes a second to and from the guest, if they can be known.
fn rates(
    flow: &Flow,
    at: Duration,
    before: Option<&Before>,
    since: Option<Duration>,
) -> Option<(u64, u64)> {
    // An id is given again after a long time; then counters and address differ.
    let same = before.filter(|before| {
        before.guest == flow.guest
            && before.to_guest <= flow.to_guest
            && before.from_guest <= flow.from_guest
    });
    let (to_guest, from_guest, passed) = match (same, since) {
        (Some(before), _) => (
            before.to_guest,
            before.from_guest,
            at.saturating_sub(before.at),
        ),
        (None, Some(since)) if Duration::from_secs(flow.age_seconds) <= since + ROUNDING => {
            (0, 0, since)
        }
        (None, _) => return None,
    };
    Some((
        per_second(flow.to_guest, to_guest, passed),
        per_second(flow.from_guest, from_guest, passed),
    ))
}

/// How fast a count has grown; one that went back has not.
fn per_second(now: u64, then: u64, passed: Duration) -> u64 {
    let grown = u128::from(now.saturating_sub(then)) * 1_000_000;
    let rate = grown / passed.as_micros().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

fn drops(now: &Statistics, then: Option<&Statistics>, passed: Duration) -> Vec<Dropped> {
    let before = |reason| {
        let then = then.map(|then| then.dropped.get(reason).copied());
        then.map(Option::unwrap_or_default)
    };
    let mut drops: Vec<Dropped> = now
        .dropped
        .iter()
        .filter(|(_, total)| **total > 0)
        .map(|(reason, &total)| {
            let grown = before(reason).map(|then| total.saturating_sub(then));
            let rate = grown.map_or(0, |grown| per_second(grown, 0, passed));
            Dropped {
                reason: reason.replace('_', " "),
                total,
                // A packet every other second is no zero.
                rate: rate.max(u64::from(grown > Some(0))),
            }
        })
        .collect();
    drops.sort_by_key(|drop| std::cmp::Reverse((drop.rate, drop.total)));
    drops
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
