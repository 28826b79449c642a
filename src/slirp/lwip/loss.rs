//! What a connection does about losses: between lwIP and [`Recovery`].

use std::ptr::NonNull;

use lwip_sys as sys;

use super::buffer::CHUNK;
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
        View {
            una: p.lastack,
            nxt: p.snd_nxt,
            mss: self.frame_mss().into(),
            duplicate: p.dupacks > 0,
        }
    }

    /// The length of segments that are queued from now on, in bytes. lwIP fills up
    /// the last that waits, and does not bear that it is longer than that.
    pub(super) fn segment_size(&self, p: &sys::tcp_pcb) -> u16 {
        let shared = self.shared();
        let size = if shared.recovery.borrow().is_none() {
            SEGMENT
        } else {
            self.frame_mss().saturating_mul(SMALL_SEGMENT).min(SEGMENT)
        };
        let size = if p.unsent.is_null() {
            size
        } else {
            size.max(shared.queued.get())
        };
        shared.queued.set(size);
        size
    }

    /// Prepares for a segment of the guest.
    pub(super) fn before_input(&self, pcb: NonNull<sys::tcp_pcb>) {
        // SAFETY: live, and no other reference to it exists.
        let p = unsafe { &mut *pcb.as_ptr() };
        let mut recovery = self.shared().recovery.borrow_mut();
        if recovery.is_none() && timed_out(p) && p.state >= sys::ESTABLISHED {
            *recovery = Some(Box::new(Recovery::new(p.lastack, p.snd_nxt)));
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
        let nothing_lost = p.dupacks == 0 && blocks.is_empty() && !timed_out(p);
        if nothing_lost && self.shared().recovery.borrow().is_none() {
            // There is no congestion to avoid: the guest's window alone limits
            // what is in flight.
            p.cwnd = sys::TCP_SND_BUF;
            return;
        }
        p.mss = SEGMENT;
        if self.judge(p, blocks) {
            self.resend_holes(pcb);
        }
    }

    /// Lets the recovery see the acknowledgement; true when something is to be
    /// sent because of it.
    fn judge(&self, p: &mut sys::tcp_pcb, blocks: &Blocks) -> bool {
        let view = self.view(p);
        p.dupacks = 0; // lwIP's own fast retransmit stays out of it
        let mut slot = self.shared().recovery.borrow_mut();
        let recovery = slot.get_or_insert_with(|| Box::new(Recovery::new(view.una, view.nxt)));
        if p.flags & sys::TF_RTO != 0 {
            recovery.timed_out(view);
            p.cwnd = p.cwnd.max(LEAST_WINDOW);
            return false;
        }
        match recovery.acknowledged(view, blocks) {
            Verdict::Ordinary => {
                if recovery.is_quiet() && is_unlimited(p) {
                    *slot = None;
                }
                false
            }
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
    }
}

/// A repair of `flight` bytes begins.
fn begin(p: &mut sys::tcp_pcb, flight: u32) {
    p.ssthresh = (flight / 2).max(LEAST_WINDOW);
    p.bytes_acked = 0;
    if p.rtime > 0 {
        p.rtime = 0; // as lwIP's own fast retransmit does
    }
}
