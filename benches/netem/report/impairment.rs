//! What is done to packets, and how the two are told: `tc`'s words and `gw`'s.

use serde::{Deserialize, Serialize};

/// Towards whom packets are impaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Way {
    /// From the guest.
    Up,
    /// To the guest.
    Down,
    /// Both, each for itself.
    Both,
}

impl Way {
    /// As rules of gw's name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Both => "both",
        }
    }

    /// Whether it has `direction` in it.
    pub(crate) fn includes(self, direction: Direction) -> bool {
        match self {
            Self::Up => direction == Direction::Up,
            Self::Down => direction == Direction::Down,
            Self::Both => true,
        }
    }
}

/// Which way what is measured goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Direction {
    /// The guest sends.
    Up,
    /// The guest receives.
    Down,
}

impl Direction {
    pub(crate) const BOTH: [Self; 2] = [Self::Up, Self::Down];

    /// As tables show it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }

    /// A rule for this direction only.
    pub(crate) fn way(self) -> Way {
        match self {
            Self::Up => Way::Up,
            Self::Down => Way::Down,
        }
    }
}

/// How delays vary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Distribution {
    Uniform,
    Normal,
    Pareto,
}

impl Distribution {
    /// As both programs name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Normal => "normal",
            Self::Pareto => "pareto",
        }
    }
}

/// Which packets are lost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) enum Loss {
    /// Each for itself, so many percent.
    Random(f64),
    /// In bursts: percent of good packets after which a burst begins, and of bad
    /// ones after which it ends. All of a burst is lost, nothing else.
    Bursts {
        /// From good to bad, `p`.
        begin: f64,
        /// From bad to good, `r`.
        end: f64,
    },
}

/// What is done to packets. Nothing, by default.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Impairment {
    /// Milliseconds, one way.
    pub(crate) delay: f64,
    /// Milliseconds that it varies by, and how.
    pub(crate) jitter: Option<(f64, Distribution)>,
    pub(crate) loss: Option<Loss>,
    /// Percent that are doubled.
    pub(crate) dup: f64,
    /// Percent that are not delayed.
    pub(crate) reorder: f64,
    /// Percent of which a bit is changed.
    pub(crate) corrupt: f64,
    /// Kilobit per second; 0 for as fast as it goes.
    pub(crate) rate: u32,
}

/// Packets of netem's queue, its default, said because it matters to TCP.
const NETEM_LIMIT: u32 = 1000;

/// gw's queue in front of a rate: about as much as netem's holds.
const QUEUE: &str = "1500k";

impl Impairment {
    /// Whether it is none at all.
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The words behind `tc qdisc add dev DEV root`.
    pub(crate) fn netem(&self) -> String {
        let mut words = format!("netem limit {NETEM_LIMIT}");
        if self.delay > 0.0 {
            words += &format!(" delay {}ms", self.delay);
            match self.jitter {
                // netem's is uniform unless it has a table.
                Some((jitter, Distribution::Uniform)) => words += &format!(" {jitter}ms"),
                Some((jitter, table)) => {
                    words += &format!(" {jitter}ms distribution {}", table.name());
                }
                None => {}
            }
        }
        match self.loss {
            Some(Loss::Random(percent)) => words += &format!(" loss random {percent}%"),
            Some(Loss::Bursts { begin, end }) => {
                words += &format!(" loss gemodel {begin}% {end}%");
            }
            None => {}
        }
        for (name, percent) in [
            ("duplicate", self.dup),
            ("reorder", self.reorder),
            ("corrupt", self.corrupt),
        ] {
            if percent > 0.0 {
                words += &format!(" {name} {percent}%");
            }
        }
        if self.rate > 0 {
            words += &format!(" rate {}kbit", self.rate);
        }
        words
    }

    /// The same as a rule of gw's, with `seed`.
    pub(crate) fn rule(&self, way: Way, seed: u64) -> String {
        let mut words = way.name().to_owned();
        if self.delay > 0.0 {
            words += &format!(" delay={}ms", self.delay);
        }
        if let Some((jitter, distribution)) = self.jitter {
            words += &format!(" jitter={jitter}ms dist={}", distribution.name());
        }
        match self.loss {
            Some(Loss::Random(percent)) => words += &format!(" loss={percent}%"),
            Some(Loss::Bursts { begin, end }) => {
                words += &format!(" loss=gemodel,p={begin}%,r={end}%");
            }
            None => {}
        }
        for (name, percent) in [
            ("dup", self.dup),
            ("reorder", self.reorder),
            ("corrupt", self.corrupt),
        ] {
            if percent > 0.0 {
                words += &format!(" {name}={percent}%");
            }
        }
        if self.rate > 0 {
            words += &format!(" rate={}kbit queue={QUEUE}", self.rate);
        }
        words + &format!(" seed={seed}")
    }
}
