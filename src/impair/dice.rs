//! What befalls a packet, drawn from a seeded generator.
//!
//! The generator is xoshiro256++ (Blackman and Vigna, 2019), seeded through
//! SplitMix64; the direction to the guest starts 2^128 draws further on. Every
//! packet costs fifteen draws (one for whether there is a copy, seven for each of
//! the two), whatever a rule asks for and whatever befalls it: a rule that also
//! corrupts loses the packets that it lost without.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::effect::{Bursts, Distribution, Loss, PacketEffect, Share};

/// Draws for one packet of the two that there may be.
const DRAWS_OF_ONE: usize = 7;

/// Draws for the packets of one rule in one direction.
#[derive(Debug)]
pub(super) struct Dice {
    generator: Xoshiro256PlusPlus,
    wire: Condition,
}

/// How a wire is, for [`Bursts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Good,
    Bad,
}

/// What befalls a packet, and a copy of it if there is one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Throw {
    pub(super) packet: Fate,
    pub(super) copy: Option<Fate>,
}

/// What befalls one packet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fate {
    Lost,
    Passes(Passage),
}

/// How a packet that is not lost fares.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Passage {
    /// Which bit is flipped, as a place in the packet.
    pub(super) flip: Option<Place>,
    pub(super) pace: Pace,
}

/// When a packet is sent on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Pace {
    /// At once, past those that wait.
    Skips,
    /// After the delay and so much of the jitter, in jitters.
    Waits(f64),
}

/// A place in something whose size is known later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u64);

impl Place {
    /// One of `count`, each as likely.
    pub(super) fn among(self, count: u64) -> u64 {
        let scaled = (u128::from(self.0) * u128::from(count)) >> 64;
        u64::try_from(scaled).unwrap_or(0)
    }
}

impl Dice {
    pub(super) fn new(seed: u64, way: super::Direction) -> Self {
        let mut generator = Xoshiro256PlusPlus::seed_from_u64(seed);
        if way == super::Direction::Down {
            generator.jump();
        }
        Self {
            generator,
            wire: Condition::Good,
        }
    }

    /// What befalls the next packet.
    pub(super) fn throw(&mut self, effect: &PacketEffect) -> Throw {
        let copied = hit(self.generator.next_u64(), effect.duplicate);
        let first = self.draw();
        let second = self.draw();
        Throw {
            packet: self.fate(effect, first),
            copy: copied.then(|| self.fate(effect, second)),
        }
    }

    fn draw(&mut self) -> [u64; DRAWS_OF_ONE] {
        std::array::from_fn(|_| self.generator.next_u64())
    }

    fn fate(&mut self, effect: &PacketEffect, draws: [u64; DRAWS_OF_ONE]) -> Fate {
        let [change, lose, skip, corrupt, place, jitter, jitter2] = draws;
        let lost = match effect.loss {
            Loss::None => false,
            Loss::Random(share) => hit(lose, share),
            Loss::Bursts(bursts) => self.burst(&bursts, change, lose),
        };
        if lost {
            return Fate::Lost;
        }
        let pace = if hit(skip, effect.reorder) {
            Pace::Skips
        } else {
            Pace::Waits(deviation(effect.distribution, jitter, jitter2))
        };
        Fate::Passes(Passage {
            flip: hit(corrupt, effect.corrupt).then_some(Place(place)),
            pace,
        })
    }

    /// The packet meets the wire as it is; then the wire changes or not.
    fn burst(&mut self, bursts: &Bursts, change: u64, lose: u64) -> bool {
        let (passes, changes, other) = match self.wire {
            Condition::Good => (bursts.good_passes, bursts.worsen, Condition::Bad),
            Condition::Bad => (bursts.bad_passes, bursts.recover, Condition::Good),
        };
        if hit(change, changes) {
            self.wire = other;
        }
        !hit(lose, passes)
    }
}

/// From 0 to less than 1: the upper 53 bits, all of which a double holds.
fn unit(draw: u64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "it has 53 bits: nothing is lost"
    )]
    let upper = (draw >> 11) as f64;
    upper / (1_u64 << 53) as f64
}

/// True for this share of draws: for none of them, and for all, exactly.
fn hit(draw: u64, share: Share) -> bool {
    unit(draw) < share.get()
}

/// Greatest deviation, in jitters: what the tables of `tc netem` hold.
const MOST: f64 = 4.0;

/// A deviation from the delay, in jitters. The functions are `libm`'s, which are
/// the same on every machine.
fn deviation(distribution: Distribution, a: u64, b: u64) -> f64 {
    match distribution {
        Distribution::Uniform => 2.0 * unit(a) - 1.0,
        // Box and Muller (1958).
        Distribution::Normal => {
            let radius = libm::sqrt(-2.0 * libm::log(1.0 - unit(a)));
            let angle = std::f64::consts::TAU * unit(b);
            (radius * libm::cos(angle)).clamp(-MOST, MOST)
        }
        // As the table `pareto` of `tc netem`: exponent 3, its mean of 1.5 taken
        // away, scaled by its variance.
        Distribution::Pareto => {
            let pareto = 1.0 / libm::cbrt(1.0 - unit(a));
            ((pareto - 1.5) / 0.75).min(MOST)
        }
    }
}
