//! One rule in one direction: a wire that packets go along, one behind the other.
//!
//! ```text
//!             ┌ loss ┐   ┌ queue ── rate ┐   ┌ delay ┐
//!  packet ──┬─┤      ├───┤               ├───┤       ├── departs
//!    copy ──┘ └──────┘   └───────────────┘   └───────┘
//! ```
//!
//! A packet's fate is drawn as it comes. When it departs is known then, so
//! nothing waits here: the caller keeps what is under way.

use std::time::{Duration, Instant};

use super::Direction;
use super::dice::{Dice, Fate, Pace, Place};
use super::effect::{Order, PacketEffect, Rate};

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Wire {
    dice: Dice,
    rate: Option<Rate>,
    queue: u64,
    /// When what came so far has been sent.
    free_at: Option<Instant>,
    /// What is left of a nanosecond then, in nanoseconds times bits per second:
    /// so that rounding does not add up.
    remainder: u128,
    /// When the last packet departs.
    last: Option<Instant>,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// It is lost.
    Lost,
    /// There was no room for it.
    QueueFull,
    /// It departs.
    Departs(Departure),
}

/// How a packet departs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Departure {
    pub(super) at: Instant,
    /// Where it is corrupted.
    pub(super) flip: Option<Place>,
    /// Whether it skipped those that wait.
    pub(super) skipped: bool,
}

impl Wire {
    pub(super) fn new(effect: &PacketEffect, seed: u64, way: Direction) -> Self {
        let rate = effect.rate.map(|rates| match way {
            Direction::Up => rates.up,
            Direction::Down => rates.down,
        });
        let default = rate.map_or(0, Rate::default_queue);
        Self {
            dice: Dice::new(seed, way),
            rate,
            queue: effect.queue.unwrap_or(default),
            free_at: None,
            remainder: 0,
            last: None,
        }
    }

    /// A packet of `len` bytes comes; tells what becomes of it, and of its copy
    /// if it has one.
    pub(super) fn send(
        &mut self,
        effect: &PacketEffect,
        now: Instant,
        len: usize,
    ) -> (Sent, Option<Sent>) {
        let throw = self.dice.throw(effect);
        let packet = self.meet(effect, throw.packet, now, len);
        let copy = throw.copy.map(|fate| self.meet(effect, fate, now, len));
        (packet, copy)
    }

    fn meet(&mut self, effect: &PacketEffect, fate: Fate, now: Instant, len: usize) -> Sent {
        let Fate::Passes(passage) = fate else {
            return Sent::Lost;
        };
        let (at, skipped) = match passage.pace {
            Pace::Skips => (now, true),
            Pace::Waits(deviation) => {
                let Some(sent) = self.transmit(now, len) else {
                    return Sent::QueueFull;
                };
                (sent + delay(effect, deviation), false)
            }
        };
        let at = match (effect.order, self.last) {
            (Order::Keep, Some(last)) => at.max(last),
            (Order::Keep | Order::Any, _) => at,
        };
        self.last = Some(at);
        Sent::Departs(Departure {
            at,
            flip: passage.flip,
            skipped,
        })
    }

    /// When the last bit of it has been sent; `None` when there is no room for
    /// it to wait.
    fn transmit(&mut self, now: Instant, len: usize) -> Option<Instant> {
        let Some(rate) = self.rate else {
            return Some(now);
        };
        let bits = u128::from(rate.bits());
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        let start = match self.free_at {
            Some(free_at) if free_at > now => {
                let waits = free_at.duration_since(now).as_nanos() * bits / (8 * NANOS_PER_SECOND);
                if waits + u128::from(len) > u128::from(self.queue) {
                    return None;
                }
                free_at
            }
            // A wire that is free takes any packet.
            _ => {
                self.remainder = 0;
                now
            }
        };
        let work = u128::from(len) * 8 * NANOS_PER_SECOND + self.remainder;
        self.remainder = work % bits;
        let takes = u64::try_from(work / bits).unwrap_or(u64::MAX);
        let sent = start + Duration::from_nanos(takes);
        self.free_at = Some(sent);
        Some(sent)
    }
}

/// The delay of a packet that deviates by so many jitters.
fn delay(effect: &PacketEffect, deviation: f64) -> Duration {
    if effect.jitter.is_zero() {
        return effect.delay;
    }
    let by = effect.jitter.mul_f64(deviation.abs());
    if deviation < 0.0 {
        effect.delay.saturating_sub(by)
    } else {
        effect.delay + by
    }
}
