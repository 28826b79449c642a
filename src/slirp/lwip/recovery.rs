//! Repairing what a link to the guest lost, without waiting for a timer.
//!
//! # Theory of operation
//!
//! lwIP repairs one loss per window fast and every other one by its
//! retransmission timer, of a second and more; and what it sends again is a
//! whole super-frame of up to 64 KiB. So its fast retransmit is never let
//! happen: duplicate acknowledgements are counted here instead, and what is
//! missing is sent again from lwIP's queue, piece by piece, without moving
//! anything in it. lwIP's timer stays as the last resort.
//!
//! **Detection.** Bytes are lost when the guest has three segments above them
//! (RFC 6675 section 5) or has repeated its acknowledgement three times (RFC
//! 5681), unless the acknowledgement is of before the last repair (RFC 6582
//! section 4).
//!
//! **Repair** lasts until all that was in flight when it began is acknowledged
//! (the recovery point of RFC 6582). Every acknowledgement allows an amount to
//! be sent (proportional rate reduction, RFC 6937: never more at once than what
//! has arrived, down to half of what was in flight). Holes come first, lowest
//! first, then new data. A guest without SACK has one hole, at the front, which
//! a partial acknowledgement moves (RFC 6582 section 3.2). A repair that is lost
//! again shows when later data arrives.
//!
//! **The tail.** When nothing at all moves for a tick of lwIP's timer, what was
//! sent last is sent once more, to learn from the answer what is missing (RFC
//! 8985 section 7, with a coarser clock).
//!
//! **Afterwards** the connection keeps a congestion window, by lwIP's rules, that
//! grows by a segment per round trip until it does not limit any more. Only then
//! the link counts as one that loses nothing, and this state goes away. A
//! connection that never lost anything has none.

use super::sack::{Blocks, Range, Scoreboard, before, later};

/// Segments above a hole, or repeated acknowledgements, that tell of a loss.
const THRESHOLD: u32 = 3;

/// What an acknowledgement left behind in lwIP.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    /// First byte not acknowledged.
    pub(super) una: u32,
    /// First byte never sent.
    pub(super) nxt: u32,
    /// What one frame carries, in bytes; not 0.
    pub(super) mss: u32,
    /// What is to be in flight after a loss, in bytes.
    pub(super) reduced: u32,
    /// It repeated the last acknowledgement, as lwIP sees it.
    pub(super) duplicate: bool,
}

impl View {
    const fn in_flight(&self) -> u32 {
        self.nxt.wrapping_sub(self.una)
    }
}

/// What to do after an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing out of the ordinary.
    Ordinary,
    /// A repair began: half of this, in bytes, is what the link can take.
    Began(u32),
    /// A repair goes on.
    Repairing,
    /// What was lost has been repaired.
    Repaired,
}

/// One repair. Amounts in bytes since it began.
#[derive(Debug)]
struct Repair {
    /// What is to be in flight at its end.
    target: u32,
    /// What was when it began; not 0.
    flight: u32,
    delivered: u32,
    sent: u32,
    /// Holes below this have been sent again.
    resent: u32,
    /// What had been sent at all when the last hole was.
    resent_at: u32,
}

/// State of a connection whose link has lost something.
#[derive(Debug)]
pub(super) struct Recovery {
    sacked: Scoreboard,
    /// As of the last acknowledgement.
    una: u32,
    nxt: u32,
    /// Repeated acknowledgements since the last that advanced.
    duplicates: u32,
    /// Where the last repair ends, or ended.
    point: u32,
    repair: Option<Repair>,
    /// A probe was sent since the last progress.
    probed: bool,
    /// What this acknowledgement allows to be sent.
    allowance: u32,
}

impl Recovery {
    pub(super) fn new(una: u32, nxt: u32) -> Self {
        Self {
            sacked: Scoreboard::default(),
            una,
            nxt,
            duplicates: 0,
            point: una.wrapping_sub(1),
            repair: None,
            probed: false,
            allowance: 0,
        }
    }

    /// Bytes above the cumulative acknowledgement that the guest has.
    pub(super) fn sacked(&self) -> u32 {
        self.sacked.bytes()
    }

    pub(super) fn is_repairing(&self) -> bool {
        self.repair.is_some()
    }

    /// True when nothing is missing, as far as is known.
    pub(super) fn is_quiet(&self) -> bool {
        self.repair.is_none() && self.sacked.is_empty() && self.duplicates == 0 && !self.probed
    }

    /// lwIP's timer has fired: it sends everything again, and answers to that
    /// tell nothing new.
    pub(super) fn timed_out(&mut self, view: View) {
        *self = Self::new(view.una, view.nxt);
        self.point = view.nxt;
    }

    /// Learns from an acknowledgement.
    pub(super) fn acknowledged(&mut self, view: View, blocks: &Blocks) -> Verdict {
        let delivered = self.learn(view, blocks);
        if let Some(repair) = &mut self.repair {
            if !before(view.una, self.point) {
                self.repair = None;
                self.duplicates = 0;
                return Verdict::Repaired;
            }
            repair.delivered = repair.delivered.saturating_add(delivered);
            self.continue_repair(view, delivered);
            return Verdict::Repairing;
        }
        if before(self.point, view.una) {
            // Keep it near, so that it never seems to be ahead.
            self.point = view.una.wrapping_sub(1);
        }
        if !self.is_lost(view) {
            return Verdict::Ordinary;
        }
        let flight = self.begin(view);
        self.continue_repair(view, delivered);
        Verdict::Began(flight)
    }

    /// Updates what is known of the guest; returns the bytes that arrived there.
    fn learn(&mut self, view: View, blocks: &Blocks) -> u32 {
        let advanced = view.una.wrapping_sub(self.una);
        let had = self.sacked.bytes();
        self.sacked.acknowledge(view.una);
        for block in blocks {
            self.sacked.insert(*block, view.una, view.nxt);
        }
        if let Some(repair) = &mut self.repair {
            let new = view.nxt.wrapping_sub(self.nxt);
            repair.sent = repair.sent.saturating_add(new);
        }
        (self.una, self.nxt) = (view.una, view.nxt);
        let repeated = self.duplicates.saturating_mul(view.mss);
        if advanced > 0 {
            self.duplicates = 0;
        } else if view.duplicate {
            self.duplicates = self.duplicates.saturating_add(1);
        }
        if had > 0 || !self.sacked.is_empty() {
            return (advanced + self.sacked.bytes()).saturating_sub(had);
        }
        // Repeated acknowledgements told of a segment each, once already.
        match advanced {
            0 if view.duplicate => view.mss,
            0 => 0,
            _ => advanced
                .saturating_sub(repeated)
                .max(view.mss.min(advanced)),
        }
    }

    fn is_lost(&mut self, view: View) -> bool {
        let sacked = self.sacked.bytes();
        if view.in_flight() == 0 {
            self.probed = false;
            return false;
        }
        if sacked > 0 {
            // These tell of data sent after the last repair, if at all.
            let enough = sacked >= THRESHOLD * view.mss || self.duplicates >= THRESHOLD;
            return (enough || self.probed) && !before(view.una, self.point);
        }
        self.duplicates >= THRESHOLD && before(self.point, view.una)
    }

    fn begin(&mut self, view: View) -> u32 {
        let flight = view.in_flight().max(1);
        self.point = view.nxt;
        self.probed = false;
        self.repair = Some(Repair {
            target: view.reduced,
            flight,
            delivered: 0,
            sent: 0,
            resent: view.una,
            resent_at: view.nxt,
        });
        flight
    }

    /// Begins a repair for want of any acknowledgement; returns what was in
    /// flight, or `None` when a repair is under way.
    pub(super) fn begin_unasked(&mut self, view: View) -> Option<u32> {
        self.allowance = view.mss;
        if let Some(repair) = &mut self.repair {
            repair.resent = view.una;
            return None;
        }
        Some(self.begin(view))
    }

    /// A probe was sent.
    pub(super) fn probe(&mut self) {
        self.probed = true;
    }

    /// Works out what may be sent now.
    fn continue_repair(&mut self, view: View, delivered: u32) {
        let View { una, mss, .. } = view;
        let Some(repair) = &mut self.repair else {
            return;
        };
        repair.resent = later(repair.resent, una);
        let newer = self.sacked.top().map_or(0, |top| {
            let above = top.wrapping_sub(repair.resent_at);
            if before(repair.resent_at, top) {
                above
            } else {
                0
            }
        });
        if repair.resent != una && newer >= THRESHOLD * mss {
            // Data sent after the repair has arrived, and the repair has not.
            repair.resent = una;
        }
        let gone = if self.sacked.is_empty() {
            let at_una = if repair.resent == una { mss } else { 0 };
            self.duplicates.saturating_mul(mss).saturating_add(at_una)
        } else {
            self.sacked.bytes() + self.sacked.missing(repair.resent)
        };
        let pipe = view.in_flight().saturating_sub(gone);
        let allowed = if pipe > repair.target {
            let share =
                u64::from(repair.delivered) * u64::from(repair.target) / u64::from(repair.flight);
            u32::try_from(share)
                .unwrap_or(u32::MAX)
                .saturating_sub(repair.sent)
        } else {
            let unspent = repair.delivered.saturating_sub(repair.sent);
            (repair.target - pipe).min(unspent.max(delivered).saturating_add(mss))
        };
        // The first hole is never made to wait (RFC 6582 section 3.2, step 5).
        self.allowance = if repair.resent == una {
            allowed.max(mss)
        } else {
            allowed
        };
    }

    /// The next bytes to send again, if any may be now. To be followed by
    /// [`Recovery::resent`].
    pub(super) fn next_hole(&self, view: View) -> Option<Range> {
        let repair = self.repair.as_ref()?;
        let mut hole = if self.sacked.is_empty() {
            let len = view.mss.min(view.in_flight());
            (repair.resent == view.una && len > 0).then(|| Range {
                left: view.una,
                right: view.una.wrapping_add(len),
            })?
        } else {
            self.sacked.hole(repair.resent)?
        };
        if hole.len() > self.allowance {
            // Whole segments, or nothing.
            let part = self.allowance - self.allowance % view.mss;
            hole.right = hole.left.wrapping_add(part);
        }
        (hole.len() > 0).then_some(hole)
    }

    /// The bytes up to `right` of a hole of [`Recovery::next_hole`] were sent.
    pub(super) fn resent(&mut self, left: u32, right: u32, nxt: u32) {
        if let Some(repair) = &mut self.repair {
            let len = right.wrapping_sub(left);
            self.allowance = self.allowance.saturating_sub(len);
            repair.sent = repair.sent.saturating_add(len);
            repair.resent = right;
            repair.resent_at = nxt;
        }
    }

    /// Bytes of new data that may be sent now.
    pub(super) fn left(&self) -> u32 {
        self.allowance
    }
}
