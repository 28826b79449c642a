//! Impairment between the link and the translation core.
//!
//! What comes from the guest and what goes to it passes [`Impairment`]; here it is
//! read, kept until it is due, and handed on. The link is read before what is due
//! is handed on: a frame's time is when it is read, and the kernel holds a few
//! only.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::time::Instant;

use super::line::Wire;
use crate::impair::{Direction, Due, Entered, Impairment, Names, Rule, RuleId, RulesError};
use crate::net::Offload;
use crate::tap::Received;

/// Frames read from the link in one call: a round's share of reading is as long.
const READ_PER_CALL: usize = 16;

/// Frames that are due handed on before the link is looked at again.
const DUE_BETWEEN_READS: u32 = 16;

/// Frames for the guest sent in one call.
const SENT_PER_CALL: usize = 64;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Impaired {
    rules: Impairment,
    link: LinkState,
    /// Frames for the guest that the link did not take when they were due.
    not_sent: u64,
    /// A rule was for the last frame towards the guest.
    took_last: bool,
}

/// What is known of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkState {
    /// It may have a frame.
    Unknown,
    /// It had none; so many frames that were due have been handed on since.
    Empty { since: u32 },
}

impl Impaired {
    pub(super) fn new(names: Rc<dyn Names>) -> Self {
        Self {
            rules: Impairment::new(names),
            link: LinkState::Unknown,
            not_sent: 0,
            took_last: false,
        }
    }

    pub(super) const fn rules(&self) -> &Impairment {
        &self.rules
    }

    /// Replaces all rules; nothing changes where that fails.
    pub(super) fn set(&mut self, mut rules: Vec<Rule>, now: Instant) -> Result<(), RulesError> {
        for rule in &mut rules {
            rule.choose_seed(random_seed);
        }
        self.rules.set(rules, now)
    }

    pub(super) fn add(&mut self, mut rule: Rule, now: Instant) -> Result<RuleId, RulesError> {
        rule.choose_seed(random_seed);
        self.rules.add(rule, now)
    }

    pub(super) fn remove(&mut self, id: RuleId) -> bool {
        self.rules.remove(id)
    }

    /// Lets the schedules begin.
    pub(super) fn start(&mut self, now: Instant) {
        self.rules.start(now);
    }

    /// Adds what was dropped here to drops by reason: `impaired`, what rules
    /// lost; `impair_queue`, what there was no room for; and to `link`, what the
    /// link did not take when it was due.
    pub(super) fn add_drops(&self, drops: &mut BTreeMap<String, u64>) {
        let totals = self.rules.totals();
        for (reason, count) in [
            ("impaired", totals.lost),
            ("impair_queue", totals.queue_dropped),
            ("link", self.not_sent),
        ] {
            if count > 0 {
                *drops.entry(reason.to_owned()).or_default() += count;
            }
        }
    }

    /// As [`Link::recv`](crate::tap::Link::recv).
    pub(super) fn recv(&mut self, wire: &mut Wire, buf: &mut [u8]) -> io::Result<Received> {
        let now = Instant::now();
        self.flush(wire, now);
        if self.link == LinkState::Unknown
            && let Some(past) = self.read(wire, buf, now)?
        {
            return Ok(past);
        }
        if let Some(due) = self.rules.pop(Direction::Up, now) {
            self.link = match self.link {
                LinkState::Empty { since } if since < DUE_BETWEEN_READS => {
                    LinkState::Empty { since: since + 1 }
                }
                LinkState::Empty { .. } | LinkState::Unknown => LinkState::Unknown,
            };
            return hand_on(&due, buf);
        }
        let seen = std::mem::replace(&mut self.link, LinkState::Unknown);
        Err(match seen {
            LinkState::Empty { .. } => io::ErrorKind::WouldBlock.into(),
            LinkState::Unknown => io::ErrorKind::Interrupted.into(),
        })
    }

    /// Takes what the link has, up to a frame that no rule is for: that is given
    /// back.
    fn read(
        &mut self,
        wire: &mut Wire,
        buf: &mut [u8],
        now: Instant,
    ) -> io::Result<Option<Received>> {
        for _ in 0..READ_PER_CALL {
            let received = match wire.recv(buf) {
                Ok(received) => received,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.link = LinkState::Empty { since: 0 };
                    return Ok(None);
                }
                Err(e) => return Err(e),
            };
            let frame = [IoSlice::new(&buf[..received.len])];
            match self
                .rules
                .enter(Direction::Up, now, &received.offload, &frame)
            {
                Entered::Past => return Ok(Some(received)),
                Entered::Taken => {}
            }
        }
        Ok(None)
    }

    /// As [`Link::send`](crate::tap::Link::send), but for what is held: that goes
    /// when it is due, or is lost.
    pub(super) fn send(
        &mut self,
        wire: &mut Wire,
        offload: &Offload,
        frame: &[IoSlice<'_>],
    ) -> io::Result<()> {
        let now = Instant::now();
        match self.rules.enter(Direction::Down, now, offload, frame) {
            Entered::Past => {
                self.took_last = false;
                wire.send(offload, frame)
            }
            Entered::Taken => {
                self.took_last = true;
                self.flush(wire, now);
                Ok(())
            }
        }
    }

    pub(super) const fn took_last(&self) -> bool {
        self.took_last
    }

    /// Sends what is due to the guest.
    fn flush(&mut self, wire: &mut Wire, now: Instant) {
        for _ in 0..SENT_PER_CALL {
            let Some(due) = self.rules.pop(Direction::Down, now) else {
                return;
            };
            let sent = wire.send(&due.offload(), &[IoSlice::new(&due.frame)]);
            self.not_sent += u64::from(sent.is_err());
        }
    }

    /// When [`Impaired::recv`] is to be called though the link has nothing.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.rules.next_due()
    }
}

fn hand_on(due: &Due, buf: &mut [u8]) -> io::Result<Received> {
    let len = due.frame.len();
    // It was read into a buffer like this one.
    let place = buf.get_mut(..len).ok_or(io::ErrorKind::Interrupted)?;
    place.copy_from_slice(&due.frame);
    Ok(Received {
        len,
        offload: due.offload(),
    })
}

/// Where a generator starts for which no rule says it: short enough to be typed.
pub fn random_seed() -> u64 {
    // A host without random numbers has worse problems than a poor seed.
    getrandom::u32()
        .unwrap_or_else(|_| std::process::id())
        .into()
}
