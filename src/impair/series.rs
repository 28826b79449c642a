//! The rules of a gateway as they stand, and what is under way under them.
//!
//! # Theory of operation
//!
//! Rules stand in a row, and a packet that matches several meets one after the
//! other, in both directions in the same order. Those of packets are a [`Wire`]
//! for each direction; a packet is held while it is on one, by the time at which
//! it arrives at the next. That time is exact, however late somebody looks: what
//! comes behind it reckons from there.
//!
//! ```text
//!  frame ── matches? ──(no)──────────────────────────────────► at once, whole
//!              │
//!            cut ── rule ── held ── rule ── held ── … ── due
//! ```
//!
//! A frame that no rule in force is for passes whole and uncopied. Others are cut
//! into frames of the wire's size before anything is drawn, and owned.
//!
//! Rules can change while packets are under way. Those keep the times they have,
//! and meet what is left of the rules that there were when they came.
//!
//! Bounds: [`MAX_RULES`], and [`MAX_HELD_BYTES`](super::MAX_HELD_BYTES) for all
//! that is held.

use std::borrow::Cow;
use std::fmt;
use std::io::IoSlice;
use std::rc::Rc;
use std::time::Instant;

use super::frame::About;
use super::held::{Budget, Held, Intact, Queue};
use super::names::NameCache;
use super::wire::{Departure, Sent, Wire};
use super::{Direction, Effect, MAX_RULES, Names, PacketEffect, Rule};
use crate::net::{Checksum, Medium, Offload};
use crate::wire::segment::Segmenter;

/// Bytes of an Ethernet header: never corrupted.
const ETHERNET: usize = 14;

/// Names a rule; counts up and is never used twice.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct RuleId(pub u64);

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Rules cannot be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// There are [`MAX_RULES`].
    #[error(
        "there can be {MAX_RULES} rules; remove some, or let one be for a whole network or a range of ports"
    )]
    TooMany,
}

/// What a rule has done in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct RuleCounts {
    /// Packets that it was for.
    pub packets: u64,
    /// Bytes in them, Ethernet headers included.
    pub bytes: u64,
    /// Packets and copies that were lost.
    pub lost: u64,
    /// Copies that were made.
    pub duplicated: u64,
    /// Packets that skipped those that wait.
    pub reordered: u64,
    /// Packets with a bit flipped.
    pub corrupted: u64,
    /// Packets that were sent on later than they came.
    pub delayed: u64,
    /// Packets that there was no room for.
    pub queue_dropped: u64,
}

/// Packets that did not arrive because of rules, of all rules that there ever
/// were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Lost.
    pub lost: u64,
    /// There was no room for them.
    pub queue_dropped: u64,
}

/// A rule as it stands.
#[derive(Debug, Clone, Copy)]
pub struct RuleInfo<'r> {
    /// Its name.
    pub id: RuleId,
    /// The rule.
    pub rule: &'r Rule,
    /// Where its generators started; none for what draws nothing.
    pub seed: Option<u64>,
    /// Whether it is in force at the moment.
    pub in_force: bool,
    /// What it did to packets from the guest.
    pub up: RuleCounts,
    /// What it did to packets to the guest.
    pub down: RuleCounts,
}

/// What became of a frame that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    /// No rule is for it: the caller carries it as it is.
    Past,
    /// It is under way, or lost.
    Taken,
}

/// A frame of the wire's size that has come through, every checksum complete.
#[derive(Debug)]
pub struct Due {
    /// The frame.
    pub frame: Vec<u8>,
    /// Whether its checksum is known to be right.
    pub intact: Intact,
}

impl Due {
    /// What is left to do to it.
    #[must_use]
    pub const fn offload(&self) -> Offload {
        let checksum = match self.intact {
            Intact::Vouched => Checksum::Valid,
            Intact::Unchecked | Intact::Corrupted => Checksum::Complete,
        };
        Offload {
            checksum,
            gso: None,
        }
    }
}

/// A rule and its state.
#[derive(Debug)]
struct Live {
    id: RuleId,
    rule: Rule,
    since: Instant,
    /// For packets.
    wires: Option<Wires>,
    up: RuleCounts,
    down: RuleCounts,
}

/// A rule's wires.
#[derive(Debug)]
struct Wires {
    effect: PacketEffect,
    up: Wire,
    down: Wire,
}

impl Live {
    fn new(id: RuleId, rule: Rule, now: Instant) -> Self {
        let wires = match &rule.effect {
            Effect::Packets(effect) => {
                // Without a seed nothing is drawn that matters.
                let seed = effect.seed.unwrap_or(0);
                Some(Wires {
                    effect: *effect,
                    up: Wire::new(effect, seed, Direction::Up),
                    down: Wire::new(effect, seed, Direction::Down),
                })
            }
            Effect::Pass | Effect::Tcp(_) | Effect::Dns(_) => None,
        };
        Self {
            id,
            rule,
            since: now,
            wires,
            up: RuleCounts::default(),
            down: RuleCounts::default(),
        }
    }

    const fn counts(&mut self, way: Direction) -> &mut RuleCounts {
        match way {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Impairment {
    series: Series,
    segmenter: Segmenter,
    /// A frame that came in pieces.
    whole: Vec<u8>,
}

/// Everything but what cuts frames.
#[derive(Debug)]
struct Series {
    rules: Vec<Live>,
    /// Of the rule that was made last.
    last: RuleId,
    names: NameCache,
    up: Queue,
    down: Queue,
    budget: Budget,
    totals: Totals,
}

impl Impairment {
    /// No rules yet.
    #[must_use]
    pub fn new(names: Rc<dyn Names>) -> Self {
        Self {
            series: Series {
                rules: Vec::new(),
                last: RuleId(0),
                names: NameCache::new(names),
                up: Queue::default(),
                down: Queue::default(),
                budget: Budget::default(),
                totals: Totals::default(),
            },
            segmenter: Segmenter::default(),
            whole: Vec::new(),
        }
    }

    /// Replaces all rules; each begins anew. Their seeds are chosen
    /// ([`Rule::choose_seed`]).
    ///
    /// # Errors
    /// [`RulesError`]; nothing has changed then.
    pub fn set(&mut self, rules: Vec<Rule>, now: Instant) -> Result<(), RulesError> {
        if rules.len() > MAX_RULES {
            return Err(RulesError::TooMany);
        }
        self.series.rules.clear();
        for rule in rules {
            self.series.push(rule, now);
        }
        Ok(())
    }

    /// Puts a rule behind the others.
    ///
    /// # Errors
    /// [`RulesError`].
    pub fn add(&mut self, rule: Rule, now: Instant) -> Result<RuleId, RulesError> {
        if self.series.rules.len() >= MAX_RULES {
            return Err(RulesError::TooMany);
        }
        Ok(self.series.push(rule, now))
    }

    /// Takes a rule away; false when there is none of that name.
    pub fn remove(&mut self, id: RuleId) -> bool {
        let before = self.series.rules.len();
        self.series.rules.retain(|live| live.id != id);
        self.series.rules.len() < before
    }

    /// Lets the schedules of all rules begin now.
    pub fn start(&mut self, now: Instant) {
        for live in &mut self.series.rules {
            live.since = now;
        }
    }

    /// A rule as it stands.
    #[must_use]
    pub fn get(&self, id: RuleId, now: Instant) -> Option<RuleInfo<'_>> {
        self.list(now).find(|info| info.id == id)
    }

    /// The rules in their order.
    pub fn list(&self, now: Instant) -> impl Iterator<Item = RuleInfo<'_>> {
        self.series.rules.iter().map(move |live| RuleInfo {
            id: live.id,
            rule: &live.rule,
            seed: live.rule.seed(),
            in_force: live.rule.schedule.is_in_force(live.since, now),
            up: live.up,
            down: live.down,
        })
    }

    /// What did not arrive because of rules.
    #[must_use]
    pub const fn totals(&self) -> Totals {
        self.series.totals
    }

    /// Bytes of packets that are under way.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.series.budget.used()
    }

    /// True when there is nothing to be done: no rules, and nothing under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.series.rules.is_empty() && self.next_due().is_none()
    }

    /// Offers an Ethernet frame that goes `way`; what is gathered stays the
    /// caller's.
    pub fn enter(
        &mut self,
        way: Direction,
        now: Instant,
        offload: &Offload,
        frame: &[IoSlice<'_>],
    ) -> Entered {
        let Some((about, first)) = self.series.first_for(way, now, frame) else {
            return Entered::Past;
        };
        let frame = match frame {
            [whole] => whole,
            pieces => {
                self.whole.clear();
                for piece in pieces {
                    self.whole.extend_from_slice(piece);
                }
                &self.whole[..]
            }
        };
        let intact = match (offload.checksum, offload.gso) {
            (Checksum::Complete, None) => Intact::Unchecked,
            _ => Intact::Vouched,
        };
        let series = &mut self.series;
        let until = series.last;
        let cut = self
            .segmenter
            .each(Medium::Ethernet, offload, frame, |piece| {
                let packet = Packet {
                    frame: Cow::Borrowed(piece),
                    about,
                    intact,
                    until,
                };
                series.meet(way, first, now, packet);
                Ok::<(), std::convert::Infallible>(())
            });
        match cut {
            Ok(Ok(())) => Entered::Taken,
            // It is not what it says it is: who reads it will say so.
            Err(_) => Entered::Past,
        }
    }

    /// The next frame that has come through at `now`.
    pub fn pop(&mut self, way: Direction, now: Instant) -> Option<Due> {
        self.series.pop(way, now)
    }

    /// When there is something to [`Impairment::pop`], in either direction.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        let due = [self.series.up.next_due(), self.series.down.next_due()];
        due.into_iter().flatten().min()
    }
}

/// A packet that meets a rule.
#[derive(Debug)]
struct Packet<'f> {
    frame: Cow<'f, [u8]>,
    about: About,
    intact: Intact,
    until: RuleId,
}

impl Series {
    fn push(&mut self, rule: Rule, now: Instant) -> RuleId {
        self.last = RuleId(self.last.0 + 1);
        self.rules.push(Live::new(self.last, rule, now));
        self.last
    }

    /// What a frame is about, and the place of the first rule that is for it.
    fn first_for(
        &self,
        way: Direction,
        now: Instant,
        frame: &[IoSlice<'_>],
    ) -> Option<(About, usize)> {
        // Before the frame is read: where no rule is in force nothing is done.
        let any = self
            .rules
            .iter()
            .any(|live| live.wires.is_some() && live.is_in_force(way, now));
        if !any {
            return None;
        }
        let about = About::of_pieces(frame, way)?;
        let first = self.next_for(way, now, &about, RuleId(0), self.last)?;
        Some((about, first))
    }

    /// The place of the next rule behind `after` that is for a packet.
    fn next_for(
        &self,
        way: Direction,
        now: Instant,
        about: &About,
        after: RuleId,
        until: RuleId,
    ) -> Option<usize> {
        for (place, live) in self.rules.iter().enumerate() {
            let is_to_be_met = live.id > after && live.id <= until;
            if !is_to_be_met || !live.is_in_force(way, now) || !self.is_for(live, about) {
                continue;
            }
            match live.rule.effect {
                Effect::Pass => return None,
                Effect::Packets(_) => return Some(place),
                Effect::Tcp(_) | Effect::Dns(_) => {}
            }
        }
        None
    }

    fn is_for(&self, live: &Live, about: &About) -> bool {
        let matcher = &live.rule.matcher;
        about.fits(matcher)
            && matcher
                .name
                .as_ref()
                .is_none_or(|name| self.names.any_like(live.id, about.remote, name))
    }

    /// Sends a packet along the wire of the rule at `place`.
    fn meet(&mut self, way: Direction, place: usize, at: Instant, packet: Packet<'_>) {
        let Some(live) = self.rules.get_mut(place) else {
            return;
        };
        let Some(wires) = &mut live.wires else {
            return;
        };
        let len = packet.frame.len();
        let wire = match way {
            Direction::Up => &mut wires.up,
            Direction::Down => &mut wires.down,
        };
        let (sent, copy) = wire.send(&wires.effect, at, len);
        let counts = live.counts(way);
        counts.packets += 1;
        counts.bytes += len as u64;
        counts.duplicated += u64::from(copy.is_some());
        if let Some(copy) = copy {
            let twin = Packet {
                frame: Cow::Borrowed(&packet.frame[..]),
                ..packet
            };
            self.depart(way, place, at, sent, twin);
            self.depart(way, place, at, copy, packet);
        } else {
            self.depart(way, place, at, sent, packet);
        }
    }

    fn depart(
        &mut self,
        way: Direction,
        place: usize,
        at: Instant,
        sent: Sent,
        packet: Packet<'_>,
    ) {
        let Some(live) = self.rules.get_mut(place) else {
            return;
        };
        let after = live.id;
        let counts = live.counts(way);
        let departure = match sent {
            Sent::Lost => {
                counts.lost += 1;
                self.totals.lost += 1;
                return;
            }
            Sent::Departs(departure) if self.budget.take(packet.frame.len()) => departure,
            Sent::QueueFull | Sent::Departs(_) => {
                counts.queue_dropped += 1;
                self.totals.queue_dropped += 1;
                return;
            }
        };
        counts.delayed += u64::from(departure.at > at);
        counts.reordered += u64::from(departure.skipped);
        counts.corrupted += u64::from(departure.flip.is_some());
        let due = departure.at;
        let held = hold(packet, after, departure);
        self.queue(way).push(due, held);
    }

    fn pop(&mut self, way: Direction, now: Instant) -> Option<Due> {
        while let Some((due, held)) = self.queue(way).pop(now) {
            let Held {
                frame,
                about,
                intact,
                after,
                until,
            } = held;
            self.budget.give_back(frame.len());
            let Some(place) = self.next_for(way, due, &about, after, until) else {
                return Some(Due { frame, intact });
            };
            let packet = Packet {
                frame: Cow::Owned(frame),
                about,
                intact,
                until,
            };
            self.meet(way, place, due, packet);
        }
        None
    }

    const fn queue(&mut self, way: Direction) -> &mut Queue {
        match way {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }
}

impl Live {
    fn is_in_force(&self, way: Direction, now: Instant) -> bool {
        self.rule.way.includes(way) && self.rule.schedule.is_in_force(self.since, now)
    }
}

/// Makes a packet one's own, corrupted where it is to be.
fn hold(packet: Packet<'_>, after: RuleId, departure: Departure) -> Held {
    let mut frame = packet.frame.into_owned();
    let mut intact = packet.intact;
    if let Some(place) = departure.flip {
        let bits = frame.len().saturating_sub(ETHERNET) as u64 * 8;
        let bit = place.among(bits);
        let byte = usize::try_from(bit / 8).unwrap_or(usize::MAX);
        if let Some(byte) = frame.get_mut(ETHERNET.saturating_add(byte)) {
            *byte ^= 1 << (bit % 8);
            intact = Intact::Corrupted;
        }
    }
    Held {
        frame,
        about: packet.about,
        intact,
        after,
        until: packet.until,
    }
}

#[cfg(test)]
#[path = "series_tests.rs"]
mod tests;
