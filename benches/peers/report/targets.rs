//! The targets of the project, as ratios of medians within one run.

use std::fmt;

use gw::cli::speedtest::stats::ratio;

use super::format;
use super::model::Results;

/// What a cell of ours is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Versus {
    /// That peer's value of the same cell.
    Peer(&'static str),
    /// The better peer's value of the same cell.
    BetterPeer,
    /// Our own value of another cell.
    Own(&'static str),
}

/// What the ratio should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, "≥ {}", format::ratio(*bound)),
            Self::AtMost(bound) => write!(f, "≤ {}", format::ratio(*bound)),
        }
    }
}

/// A target with what was measured.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// What is compared with what.
    pub(crate) title: String,
    /// What was asked for.
    pub(crate) bound: Bound,
    /// The ratio; `None` when one of the values is missing.
    pub(crate) measured: Option<f64>,
}

impl Outcome {
    /// `yes`, `no`, or a dash when there is nothing to judge.
    pub(crate) fn verdict(&self) -> &'static str {
        let reached = self.measured.map(|measured| match self.bound {
            Bound::AtLeast(bound) => measured >= bound,
            Bound::AtMost(bound) => measured <= bound,
        });
        match reached {
            Some(true) => "yes",
            Some(false) => "no",
            None => "–",
        }
    }
}

use Bound::{AtLeast, AtMost};
use Versus::{BetterPeer, Own, Peer};

/// Cell of ours, what it is divided by, bound.
const TARGETS: &[(&str, Versus, Bound)] = &[
    (
        "tcp-up-1500-1-v4-loopback",
        Peer("slirp4netns"),
        AtLeast(15.0),
    ),
    (
        "tcp-down-1500-1-v4-loopback",
        Peer("slirp4netns"),
        AtLeast(7.0),
    ),
    (
        "tcp-up-65520-1-v4-loopback",
        Peer("slirp4netns"),
        AtLeast(3.0),
    ),
    (
        "tcp-down-65520-1-v4-loopback",
        Peer("slirp4netns"),
        AtLeast(2.5),
    ),
    ("tcp-down-1500-1-v4-loopback", Peer("pasta"), AtLeast(12.0)),
    ("tcp-down-65520-1-v4-loopback", Peer("pasta"), AtLeast(1.0)),
    (
        "tcp-up-1500-1-v6-loopback",
        Own("tcp-up-1500-1-v4-loopback"),
        AtLeast(0.9),
    ),
    (
        "tcp-down-1500-1-v6-loopback",
        Own("tcp-down-1500-1-v4-loopback"),
        AtLeast(0.9),
    ),
    ("cpu-up-1500-1-v4-loopback", BetterPeer, AtMost(0.25)),
    ("cpu-down-1500-1-v4-loopback", BetterPeer, AtMost(0.15)),
    ("cpu-up-65520-1-v4-loopback", BetterPeer, AtMost(0.9)),
    ("cpu-down-65520-1-v4-loopback", BetterPeer, AtMost(0.85)),
    ("tcp-rr-p50", BetterPeer, AtMost(1.05)),
    ("tcp-crr", BetterPeer, AtLeast(1.0)),
    ("udp-up", BetterPeer, AtLeast(1.5)),
    ("udp-down", BetterPeer, AtLeast(1.5)),
    ("start-ready", BetterPeer, AtMost(1.0)),
    ("idle-10k-tcp-up", Own("idle-0-tcp-up"), AtLeast(0.9)),
    ("idle-10k-tcp-down", Own("idle-0-tcp-down"), AtLeast(0.9)),
    ("idle-10k-tcp-crr", Own("idle-0-tcp-crr"), AtLeast(0.9)),
];

/// Every target with its outcome.
pub(crate) fn check(results: &Results) -> Vec<Outcome> {
    TARGETS
        .iter()
        .map(|&(cell, versus, bound)| outcome(results, cell, versus, bound))
        .collect()
}

fn outcome(results: &Results, cell: &str, versus: Versus, bound: Bound) -> Outcome {
    let row = results.find(cell);
    let (other, measured) = match versus {
        Peer(peer) => (peer.to_owned(), row.and_then(|row| row.ratio(peer))),
        BetterPeer => {
            let best = row.and_then(|row| row.best_peer(&results.peers()));
            let name = best.map_or("the better peer".into(), |best| {
                format!("{best}, the better peer")
            });
            (name, row.zip(best).and_then(|(row, best)| row.ratio(best)))
        }
        Own(id) => {
            let ours = |id| results.find(id)?.median(super::model::OURS);
            (
                format!("gw's {id}"),
                ours(cell).zip(ours(id)).and_then(|(a, b)| ratio(a, b)),
            )
        }
    };
    Outcome {
        title: format!("{cell} / {other}"),
        bound,
        measured,
    }
}
