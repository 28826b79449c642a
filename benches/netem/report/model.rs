//! What is measured and what came of it: the words between the machine inside
//! and the report outside, and the contents of netem.json.

use serde::{Deserialize, Serialize};

use super::impairment::{Direction, Impairment, Way};

/// What impairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Contender {
    /// `tc netem` on both ends of a veth.
    Netem,
    /// `gw --impair`.
    Gw,
}

impl Contender {
    pub(crate) const BOTH: [Self; 2] = [Self::Netem, Self::Gw];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Netem => "netem",
            Self::Gw => "gw",
        }
    }
}

/// What is sent, and counted where it arrives.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) enum Load {
    /// Datagrams with a number and the time, one every so often.
    Train {
        direction: Direction,
        count: u32,
        /// Microseconds from one to the next.
        interval: u32,
        /// Bytes of UDP payload, at least 16.
        payload: u16,
    },
    /// One TCP stream, IPv4.
    Stream {
        direction: Direction,
        /// From the connection's being open.
        seconds: u16,
    },
}

impl Load {
    pub(crate) fn direction(self) -> Direction {
        match self {
            Self::Train { direction, .. } | Self::Stream { direction, .. } => direction,
        }
    }
}

/// One order to the machine inside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) contender: Contender,
    pub(crate) way: Way,
    pub(crate) impairment: Impairment,
    pub(crate) load: Load,
    /// Of gw's generators; netem of this kernel has none.
    pub(crate) seed: u64,
    /// The kernel's congestion control, at both ends.
    pub(crate) congestion: String,
}

/// What arrived of a train.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Arrivals {
    pub(crate) sent: u32,
    /// Different ones that arrived whole.
    pub(crate) arrived: u32,
    /// Copies beyond the first.
    pub(crate) copies: u32,
    /// Datagrams that arrived with other contents than were sent.
    pub(crate) damaged: u32,
    /// Those that took less than half of the delay that was set.
    pub(crate) early: u32,
    /// How often one is missing whose predecessor arrived: bursts of losses.
    pub(crate) bursts: u32,
    /// Milliseconds on the way: of first copies, unless they are `early`.
    pub(crate) mean: f64,
    /// Their standard deviation.
    pub(crate) deviation: f64,
    /// Their quantiles in steps of a hundredth, least and greatest included.
    pub(crate) quantiles: Vec<f64>,
    /// Kilobit per second of Ethernet frames from the first arrival to the last.
    pub(crate) rate: f64,
    /// What became of each datagram, as a digest.
    pub(crate) fate: String,
}

/// What arrived of a stream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stream {
    /// Bytes of payload within the time.
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    /// Segments that the kernel of the sender's end sent again. gw, where it is
    /// the sender, is not asked.
    pub(crate) resent: u64,
}

impl Stream {
    /// Megabit per second.
    pub(crate) fn goodput(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
        let bits = self.bytes as f64 * 8.0;
        bits / self.seconds / 1e6
    }
}

/// What came of an order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Train(Arrivals),
    Stream(Stream),
}
