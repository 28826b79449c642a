//! What becomes of packets, as values.

use std::time::Duration;

/// What becomes of packets; see docs/impairment.md for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PacketEffect {
    /// Each packet is delayed by so much; at most [`MAX_DELAY`].
    pub delay: Duration,
    /// And by so much more or less, as [`PacketEffect::distribution`] has it.
    pub jitter: Duration,
    /// How the jitter is distributed.
    pub distribution: Distribution,
    /// Whether packets may overtake each other.
    pub order: Order,
    /// Which packets are lost.
    pub loss: Loss,
    /// Of how many a copy is sent as well.
    pub duplicate: Share,
    /// How many skip the delay and the rate.
    pub reorder: Share,
    /// In how many one bit is flipped.
    pub corrupt: Share,
    /// How fast they are sent; `None`: at once.
    pub rate: Option<Rates>,
    /// Bytes that may wait for the rate; `None`: [`Rate::default_queue`].
    pub queue: Option<u64>,
    /// Where the generator starts; `None`: somewhere, and lists say where.
    pub seed: Option<u64>,
}

impl PacketEffect {
    /// True when chance has a part in it.
    #[must_use]
    pub fn draws(&self) -> bool {
        let varies = !self.jitter.is_zero();
        let picks = [self.duplicate, self.reorder, self.corrupt];
        varies || self.loss != Loss::None || picks.iter().any(|share| *share > Share::NONE)
    }
}

/// Greatest delay, and greatest jitter: ten minutes.
pub const MAX_DELAY: Duration = Duration::from_secs(600);

/// How jitter is distributed around the delay. All as `tc netem` has them; a
/// delay never is less than nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Distribution {
    /// Evenly from one jitter less to one more. The default.
    #[default]
    Uniform,
    /// The jitter is the standard deviation; four of it at most.
    Normal,
    /// Mostly less, sometimes much more: Pareto's distribution with exponent 3.
    Pareto,
}

/// Whether packets may overtake each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Order {
    /// A packet with less jitter overtakes, as with `tc netem`. The default.
    #[default]
    Any,
    /// None leaves before the one that came before it.
    Keep,
}

/// Which packets are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Loss {
    /// None. The default.
    #[default]
    None,
    /// Each with this probability.
    Random(Share),
    /// Bursts.
    Bursts(Bursts),
}

/// The model of Gilbert and Elliott: a wire is good or bad, and changes from
/// packet to packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bursts {
    /// `p`: a good one becomes bad.
    pub worsen: Share,
    /// `r`: a bad one becomes good. Bursts have 1/r packets on average.
    pub recover: Share,
    /// `h`: what a bad one lets through. Default 0 %.
    pub bad_passes: Share,
    /// `k`: what a good one lets through. Default 100 %.
    pub good_passes: Share,
}

/// A share, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
pub struct Share(f64);

/// What is from 0 to 1 equals itself.
impl Eq for Share {}

impl Share {
    /// None of them.
    pub const NONE: Self = Self(0.0);
    /// All of them.
    pub const ALL: Self = Self(1.0);

    /// `None` unless `share` is from 0 to 1.
    #[must_use]
    pub fn new(share: f64) -> Option<Self> {
        (0.0..=1.0).contains(&share).then_some(Self(share))
    }

    /// From 0 to 1.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }
}

/// How fast a wire is, in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rates {
    /// From the guest.
    pub up: Rate,
    /// To the guest.
    pub down: Rate,
}

impl Rates {
    /// The same in both directions.
    #[must_use]
    pub const fn both(rate: Rate) -> Self {
        Self {
            up: rate,
            down: rate,
        }
    }
}

/// Bits per second, of frames with their Ethernet headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(u64);

impl Rate {
    /// A frame takes two minutes at this.
    pub const MIN: u64 = 100;
    /// A terabit per second: above it a frame takes no time that matters.
    pub const MAX: u64 = 1_000_000_000_000;

    /// `None` unless `bits` per second is from [`Rate::MIN`] to [`Rate::MAX`].
    #[must_use]
    pub const fn new(bits: u64) -> Option<Self> {
        if bits >= Self::MIN && bits <= Self::MAX {
            Some(Self(bits))
        } else {
            None
        }
    }

    /// Bits per second.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Bytes that may wait for this rate unless something else is asked for: what
    /// it carries in a quarter of a second, 32 KiB to 16 MiB.
    #[must_use]
    pub fn default_queue(self) -> u64 {
        const LEAST: u64 = 32 << 10;
        const MOST: u64 = 16 << 20;
        (self.0 / 8 / 4).clamp(LEAST, MOST)
    }
}
