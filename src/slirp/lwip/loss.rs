//! What a connection does about losses: between lwIP and [`Recovery`].

use std::ptr::NonNull;

use lwip_sys as sys;

use super::buffer::CHUNK;
use super::congestion::Congestion;
use super::connection::Connection;
use super::recovery::{Recovery, Verdict, View};
use super::resend::resend;
use super::sack::{Blocks, Range};

/// lwIP sends a queued segment whole or not at all, so that the congestion
/// window is never below the longest, in bytes.
const LEAST_WINDOW: u32 = SEGMENT as u32;

#[expect(clippy::cast_possible_truncation, reason = "CHUNK is below 65536")]
const SEGMENT: u16 = CHUNK as u16;

/// Frames in a segment that is queued while the link loses something.
const SMALL_SEGMENT: u16 = 4;

/// Least frame to count with, in bytes, whatever the guest announced.
const LEAST_MSS: u16 = 48;

/// What a connection had in flight at a tick of the timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Mark {
    una: u32,
    nxt: u32,
    /// A probe was sent since.
    probed: bool,
}

/// True while lwIP repeats everything after its timer fired.
fn timed_out(p: &sys::tcp_pcb) -> bool {
    p.flags & sys::TF_RTO != 0 || p.nrtx > 0
}

/// The congestion window that does not limit.
fn is_unlimited(p: &sys::tcp_pcb) -> bool {
    let enough = p.snd_wnd_max.saturating_add(LEAST_WINDOW);
    p.cwnd >= enough.min(sys::TCP_SND_BUF)
}

impl Connection {
    /// The guest's segments in bytes, for the arithmetic of congestion.
    fn frame_mss(&self) -> u16 {
        self.mss().clamp(LEAST_MSS, SEGMENT)
    }

    fn view(&self, p: &sys::tcp_pcb) -> View {
        let mss = u32::from(self.frame_mss());
        let flight = p.snd_nxt.wrapping_sub(p.lastack);
        let congestion = self.shared().congestion.borrow();
        let reduced = congestion.as_ref().map(|c| c.reduced());
        View {
            una: p.lastack,
            nxt: p.snd_nxt,
            mss,
            duplicate: p.dupacks > 0,
            reduced: reduced.unwrap_or_else(|| (flight / 2).max(2 * mss)),
        }
    }

    /// Lets `act` see the congestion window, if there is one to be kept.
    fn with_congestion(&self, act: impl FnOnce(&mut Congestion)) {
        if let Some(congestion) = &mut *self.shared().congestion.borrow_mut() {
            act(congestion);
        }
    }

    /// Keeps a congestion window while there is a wire. True if there is.
    fn settle(&self, p: &mut sys::tcp_pcb) -> bool {
        let wire = self.shared().wire.get();
        let mut congestion = self.shared().congestion.borrow_mut();
        if wire && congestion.is_none() {
            let mss = self.frame_mss();
            *congestion = Some(Box::new(Congestion::new(mss.into(), p.lastack, p.snd_nxt)));
            p.mss = mss;
        } else if !wire && congestion.is_some() {
            *congestion = None;
            p.mss = SEGMENT;
        }
        if let Some(congestion) = &mut *congestion {
            congestion.timer(timed_out(p));
        }
        wire
    }

    /// New data may have been sent.
    pub(super) fn note_sent(&self, pcb: NonNull<sys::tcp_pcb>) {
        // SAFETY: live.
        let nxt = unsafe { (*pcb.as_ptr()).snd_nxt };
        self.with_congestion(|congestion| congestion.sent(nxt, now()));
    }

    /// The length of segments that are queued from now on, in bytes. lwIP fills up
    /// the last that waits, and does not bear that it is longer than that.
    pub(super) fn segment_size(&self, p: &sys::tcp_pcb) -> u16 {
        let shared = self.shared();
        let size = self.wanted_size();
        let size = if p.unsent.is_null() {
            size
        } else {
            size.max(shared.queued.get())
        };
        shared.queued.set(size);
        size
    }

    fn wanted_size(&self) -> u16 {
        if self.shared().wire.get() {
            return self.frame_mss();
        }
        if self.shared().recovery.borrow().is_none() {
            return SEGMENT;
        }
        self.frame_mss().saturating_mul(SMALL_SEGMENT).min(SEGMENT)
    }

    /// True when segments wait that are too long for the wire that has come up: what
    /// follows is to be shorter, for which they have to be gone.
    pub(super) fn waits_for_shorter(&self, p: &sys::tcp_pcb) -> bool {
        self.shared().wire.get()
            && !p.unsent.is_null()
            && self.shared().queued.get() > self.frame_mss()
    }

    /// Prepares for a segment of the guest.
    pub(super) fn before_input(&self, pcb: NonNull<sys::tcp_pcb>) {
        // SAFETY: live, and no other reference to it exists.
        let p = unsafe { &mut *pcb.as_ptr() };
        let mut recovery = self.shared().recovery.borrow_mut();
        if recovery.is_none() && timed_out(p) && p.state >= sys::ESTABLISHED {
            *recovery = Some(Box::new(Recovery::new(p.lastack, p.snd_nxt)));
        }
        if self.shared().congestion.borrow().is_some() {
            // All of it is decided after the input: until then lwIP sends a
            // segment at most, and that only when none is in flight.
            p.cwnd = 0;
            p.ssthresh = 0;
            p.bytes_acked = 0;
            return;
        }
        let Some(recovery) = &*recovery else { return };
        if p.state < sys::ESTABLISHED {
            return;
        }
        if recovery.is_repairing() && p.flags & sys::TF_RTO == 0 {
            // What may be sent is decided after the input.
            p.cwnd = 0;
        } else if p.cwnd >= p.ssthresh {
            // Congestion avoidance grows by one of these per round trip.
            p.mss = self.frame_mss();
        }
    }

    /// Looks after what the segment did, and what it said of losses.
    pub(super) fn after_input(&self, blocks: &Blocks) {
        let Some(pcb) = self.shared().pcb() else {
            return;
        };
        // SAFETY: live.
        let p = unsafe { &mut *pcb.as_ptr() };
        if p.state < sys::ESTABLISHED {
            return;
        }
        let wire = self.settle(p);
        let nothing_lost = p.dupacks == 0 && blocks.is_empty() && !timed_out(p);
        if nothing_lost && self.shared().recovery.borrow().is_none() {
            if wire {
                self.follow(p, Growth::Allowed);
                self.push(pcb);
            } else {
                // There is no congestion to avoid: the guest's window alone
                // limits what is in flight.
                p.cwnd = sys::TCP_SND_BUF;
            }
            return;
        }
        if !wire {
            p.mss = SEGMENT;
        }
        if self.judge(p, blocks) {
            self.resend_holes(pcb);
        }
    }

    /// Has lwIP's window follow the one that is kept for the wire, after an
    /// acknowledgement.
    fn follow(&self, p: &mut sys::tcp_pcb, growth: Growth) {
        let sacked = self.shared().recovery.borrow().as_ref().map(|r| r.sacked());
        self.with_congestion(|congestion| {
            let may_grow = growth == Growth::Allowed;
            congestion.acknowledged(p.lastack, p.snd_nxt, may_grow, now());
            // What the guest has is not in flight, whatever lwIP counts.
            p.cwnd = congestion
                .window()
                .saturating_add(sacked.unwrap_or_default());
        });
        // SAFETY: live; the queue is lwIP's.
        let first = unsafe { p.unsent.as_ref() };
        if let Some(first) = first.filter(|_| p.unacked.is_null()) {
            // One that was queued before there was a wire is longer than the
            // window may be, and goes whole or not at all.
            p.cwnd = p.cwnd.max(first.len.into());
        }
    }

    /// Lets the recovery see the acknowledgement; true when something is to be
    /// sent because of it.
    fn judge(&self, p: &mut sys::tcp_pcb, blocks: &Blocks) -> bool {
        let view = self.view(p);
        p.dupacks = 0; // lwIP's own fast retransmit stays out of it
        let wire = self.shared().congestion.borrow().is_some();
        let mut slot = self.shared().recovery.borrow_mut();
        let recovery = slot.get_or_insert_with(|| Box::new(Recovery::new(view.una, view.nxt)));
        if p.flags & sys::TF_RTO != 0 {
            recovery.timed_out(view);
            drop(slot);
            p.cwnd = p.cwnd.max(LEAST_WINDOW);
            if wire {
                self.follow(p, Growth::Allowed);
            }
            return wire;
        }
        let verdict = recovery.acknowledged(view, blocks);
        let is_quiet = recovery.is_quiet();
        if verdict == Verdict::Ordinary && is_quiet && (wire || is_unlimited(p)) {
            *slot = None;
        }
        drop(slot);
        if wire {
            self.judge_wire(p, verdict, is_quiet);
            return true;
        }
        match verdict {
            Verdict::Ordinary => false,
            Verdict::Began(flight) => {
                begin(p, flight);
                true
            }
            Verdict::Repairing => true,
            Verdict::Repaired => {
                p.cwnd = p.ssthresh;
                p.bytes_acked = 0;
                true
            }
        }
    }

    /// What a verdict means for the window that is kept for a wire.
    fn judge_wire(&self, p: &mut sys::tcp_pcb, verdict: Verdict, is_quiet: bool) {
        match verdict {
            Verdict::Ordinary => {}
            Verdict::Began(flight) => {
                begin(p, flight);
                self.with_congestion(Congestion::lost);
            }
            Verdict::Repairing => {}
            Verdict::Repaired => self.with_congestion(Congestion::repaired),
        }
        let growth = match verdict {
            Verdict::Ordinary if is_quiet => Growth::Allowed,
            _ => Growth::Not,
        };
        self.follow(p, growth);
    }

    /// Sends what the recovery says is missing, then what else may be sent.
    fn resend_holes(&self, pcb: NonNull<sys::tcp_pcb>) {
        // SAFETY: live; nothing here calls lwIP before the end.
        let p = unsafe { &mut *pcb.as_ptr() };
        if let Some(recovery) = &mut *self.shared().recovery.borrow_mut()
            && recovery.is_repairing()
        {
            let view = self.view(p);
            while let Some(hole) = recovery.next_hole(view) {
                // SAFETY: live, the queue is lwIP's.
                let Some(end) = (unsafe { resend(p, hole, self.mss()) }) else {
                    break;
                };
                recovery.resent(hole.left, end, p.snd_nxt);
                p.rttest = 0; // Karn: the answer may be to either
                self.with_congestion(Congestion::resent);
            }
            let in_flight = p.snd_nxt.wrapping_sub(p.lastack);
            p.cwnd = in_flight.saturating_add(recovery.left());
        }
        self.push(pcb);
    }

    /// At a tick of the timer: asks the guest what is missing, when nothing has
    /// moved since the last tick.
    pub(super) fn probe(&self, pcb: NonNull<sys::tcp_pcb>) {
        // SAFETY: live; no other reference to it exists.
        let p = unsafe { &mut *pcb.as_ptr() };
        let mark = Mark {
            una: p.lastack,
            nxt: p.snd_nxt,
            probed: false,
        };
        let waiting = !p.unacked.is_null() && p.state >= sys::ESTABLISHED;
        let slow = p.sa >> 3 > 0; // a round trip of half a second or more
        let last = self.shared().mark.replace(mark);
        if !waiting || slow || (last.una, last.nxt) != (mark.una, mark.nxt) {
            return;
        }
        self.shared().mark.set(Mark {
            probed: true,
            ..mark
        });
        if !last.probed {
            self.send_probe(p);
        }
    }

    fn send_probe(&self, p: &mut sys::tcp_pcb) {
        let view = self.view(p);
        let mut slot = self.shared().recovery.borrow_mut();
        let recovery = slot.get_or_insert_with(|| Box::new(Recovery::new(view.una, view.nxt)));
        let whole = Range {
            left: view.una,
            right: view.nxt,
        };
        let len = whole.len().min(view.mss);
        if timed_out(p) {
            // lwIP repeats whole segments. A guest may want only the rest of
            // one, such as a FIN behind data that it has.
            let right = view.una.wrapping_add(len);
            // SAFETY: live, the queue is lwIP's.
            unsafe { resend(p, Range { right, ..whole }, self.mss()) };
        } else if p.flags & sys::TF_SACK != 0 && !recovery.is_repairing() {
            recovery.probe();
            let last = Range {
                left: view.nxt.wrapping_sub(len),
                ..whole
            };
            // SAFETY: live, the queue is lwIP's.
            unsafe { resend(p, last, self.mss()) };
        } else {
            if let Some(flight) = recovery.begin_unasked(view) {
                begin(p, flight);
                p.cwnd = flight;
                self.with_congestion(Congestion::lost);
            }
            let first = Range {
                right: view.una.wrapping_add(len),
                ..whole
            };
            // SAFETY: as above.
            if let Some(end) = unsafe { resend(p, first, self.mss()) } {
                recovery.resent(first.left, end, p.snd_nxt);
            }
        }
        p.rttest = 0;
        self.with_congestion(Congestion::resent);
    }
}

/// Whether an acknowledgement lets the window grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Growth {
    Allowed,
    /// A loss is being repaired, or suspected.
    Not,
}

/// lwIP's clock, in milliseconds; wraps.
fn now() -> u32 {
    // SAFETY: a plain load on the owning thread.
    unsafe { sys::gw_lwip_now_ms }
}

/// A repair of `flight` bytes begins.
fn begin(p: &mut sys::tcp_pcb, flight: u32) {
    p.ssthresh = (flight / 2).max(LEAST_WINDOW);
    p.bytes_acked = 0;
    if p.rtime > 0 {
        p.rtime = 0; // as lwIP's own fast retransmit does
    }
}
