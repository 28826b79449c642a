//! The congestion window of a connection whose link is a wire: one that loses,
//! delays and queues packets because it was told to.
//!
//! # Theory of operation
//!
//! A TAP loses nothing, so that usually there is no congestion to avoid and the
//! guest's window alone limits what is in flight. Where packets are impaired a
//! sender must behave as those do that the guest meets elsewhere, or throughput
//! over the impaired link says nothing about one over a real one. So this does
//! what Linux does by default: CUBIC (RFC 9438) with its constants, ten segments
//! to begin with (RFC 6928), and slow start that ends when round trips become
//! longer (RFC 9406 section 4.2). Repairs of losses are [`Recovery`]'s; this says
//! how much is to be in flight between them.
//!
//! Windows are in bytes, the arithmetic is in segments, times are in milliseconds
//! of lwIP's clock, which wraps.
//!
//! **Round trips** are measured by the first segment that is sent in each: it
//! waits for what was in flight before, and not for those that are sent with it.
//! Never by one that may have been sent twice (RFC 6298 section 3).
//!
//! [`Recovery`]: super::recovery::Recovery

use super::sack::before;

/// Segments in flight at first (RFC 6928).
const INITIAL: u32 = 10;

/// Fewest segments in flight after a loss.
const LEAST: u32 = 2;

/// What a loss leaves of the window (RFC 9438 section 4.6); Linux's 717/1024.
const BETA: f64 = 717.0 / 1024.0;

/// How fast the window grows (RFC 9438 section 5), in segments per cubed second.
const C: f64 = 0.4;

/// What Reno's estimate gains by a window's acknowledgements, in segments: 3 (1 -
/// beta) / (1 + beta) (RFC 9438 section 4.3).
const RENO: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

/// A window never grows by more than a half in a round trip.
const LEAST_COUNT: f64 = 2.0;

/// And by a twentieth at least while no loss has shown where its end is.
const SEARCHING_COUNT: f64 = 20.0;

/// Slow start is not left below this, in segments.
const HYSTART_LEAST: u32 = 16;

/// Round trips that are longer by this part of the shortest end slow start, within
/// these bounds in milliseconds.
const HYSTART_PART: u32 = 8;
const HYSTART_BOUNDS: (u32, u32) = (4, 16);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Congestion {
    /// Bytes of a segment; not 0.
    mss: u32,
    window: u32,
    /// Where slow start ends.
    threshold: u32,
    /// Bytes acknowledged towards the next segment of the window.
    credit: f64,
    /// Segments in flight before the last loss; 0 without one.
    largest: f64,
    epoch: Option<Epoch>,
    /// First byte not acknowledged, as of the last acknowledgement.
    una: u32,
    /// First byte never sent.
    nxt: u32,
    /// A round trip is over when all up to here is acknowledged.
    round_end: u32,
    timing: Timing,
    shortest: Option<u32>,
    /// lwIP's timer had fired at the last acknowledgement.
    is_timed_out: bool,
}

/// A stretch without losses.
#[derive(Debug, Clone, Copy)]
struct Epoch {
    began: u32,
    /// Seconds from then until the window is at `origin` again.
    k: f64,
    origin: f64,
    /// What Reno would have, in segments.
    reno: f64,
}

/// The measurement of a round trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timing {
    /// Done, or spoilt.
    Idle,
    /// The next segment begins one.
    Due,
    /// One is under way: the segment that ends before `end`.
    Sent { end: u32, at: u32 },
}

impl Congestion {
    /// For segments of `mss` bytes.
    pub(super) fn new(mss: u32, una: u32, nxt: u32) -> Self {
        let mss = mss.max(1);
        Self {
            mss,
            window: INITIAL.saturating_mul(mss),
            threshold: u32::MAX,
            credit: 0.0,
            largest: 0.0,
            epoch: None,
            una,
            nxt,
            round_end: nxt,
            timing: Timing::Due,
            shortest: None,
            is_timed_out: false,
        }
    }

    /// Bytes that may be in flight.
    pub(super) fn window(&self) -> u32 {
        self.window
    }

    /// What is to be in flight after a loss now, in bytes.
    pub(super) fn reduced(&self) -> u32 {
        let share = self.bytes(self.segments(self.window) * BETA);
        share.max(LEAST.saturating_mul(self.mss))
    }

    /// Learns from an acknowledgement up to `una`, while `nxt` is the first byte
    /// never sent, before anything is sent because of it. `is_open`: no loss is
    /// being repaired or suspected, so that the window may grow.
    pub(super) fn acknowledged(&mut self, una: u32, nxt: u32, is_open: bool, now: u32) {
        let advanced = una.wrapping_sub(self.una);
        if !before(self.una, una) {
            return;
        }
        let flight = nxt.wrapping_sub(self.una);
        self.una = una;
        self.measure(una, now);
        if !before(una, self.round_end) {
            self.round_end = nxt;
            if self.timing == Timing::Idle {
                self.timing = Timing::Due;
            }
        }
        if is_open && self.is_limiting(flight) {
            if self.window < self.threshold {
                let most = self.threshold - self.window;
                self.window = self.window.saturating_add(advanced.min(most));
            } else {
                self.grow(advanced, now);
            }
        }
    }

    /// New data was sent, up to `nxt`.
    pub(super) fn sent(&mut self, nxt: u32, now: u32) {
        let new = nxt.wrapping_sub(self.nxt);
        if !before(self.nxt, nxt) {
            return;
        }
        if self.timing == Timing::Due {
            let end = self.nxt.wrapping_add(new.min(self.mss));
            self.timing = Timing::Sent { end, at: now };
        }
        self.nxt = nxt;
    }

    /// Something was sent again: the answer may be to either.
    pub(super) fn resent(&mut self) {
        self.timing = Timing::Idle;
    }

    /// A loss begins to be repaired.
    pub(super) fn lost(&mut self) {
        let segments = self.segments(self.window);
        // Others want their share: fast convergence (RFC 9438 section 4.7).
        self.largest = if segments < self.largest {
            segments * f64::midpoint(1.0, BETA)
        } else {
            segments
        };
        self.threshold = self.reduced();
        self.epoch = None;
        self.credit = 0.0;
        self.timing = Timing::Idle;
    }

    /// The loss is repaired.
    pub(super) fn repaired(&mut self) {
        self.window = self.threshold;
    }

    /// Whether lwIP repeats what is in flight because its timer has fired: all
    /// begins again with one segment, once.
    pub(super) fn timer(&mut self, has_fired: bool) {
        if has_fired && !self.is_timed_out {
            self.lost();
            self.window = self.mss;
        }
        self.is_timed_out = has_fired;
    }

    fn segments(&self, bytes: u32) -> f64 {
        f64::from(bytes) / f64::from(self.mss)
    }

    fn bytes(&self, segments: f64) -> u32 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates, and is not negative"
        )]
        let bytes = (segments * f64::from(self.mss)) as u32;
        bytes
    }

    /// Whether it is the window that keeps more from being in flight (RFC 7661
    /// section 4.3); in slow start half of it is enough.
    fn is_limiting(&self, flight: u32) -> bool {
        let share = if self.window < self.threshold {
            flight.saturating_mul(2)
        } else {
            flight.saturating_add(self.mss.saturating_mul(2))
        };
        share >= self.window
    }

    fn measure(&mut self, una: u32, now: u32) {
        let Timing::Sent { end, at } = self.timing else {
            return;
        };
        if before(una, end) {
            return;
        }
        self.timing = Timing::Idle;
        let took = now.wrapping_sub(at).max(1);
        let shortest = self.shortest.map_or(took, |known| known.min(took));
        self.shortest = Some(shortest);
        let (least, most) = HYSTART_BOUNDS;
        let longer = shortest + (shortest / HYSTART_PART).clamp(least, most);
        let enough = self.window >= HYSTART_LEAST.saturating_mul(self.mss);
        if self.window < self.threshold && enough && took >= longer {
            self.threshold = self.window;
        }
    }

    /// Grows the window after slow start (RFC 9438 section 4).
    fn grow(&mut self, advanced: u32, now: u32) {
        let window = self.segments(self.window);
        let largest = self.largest;
        let epoch = self.epoch.get_or_insert_with(|| {
            let missing = (largest - window).max(0.0);
            Epoch {
                began: now,
                k: libm::cbrt(missing / C),
                origin: largest.max(window),
                reno: window,
            }
        });
        epoch.reno += f64::from(advanced) / f64::from(self.mss) / window * RENO;
        // Where the curve will be when what is sent now is acknowledged.
        let ahead = self.shortest.unwrap_or_default();
        let t = f64::from(now.wrapping_sub(epoch.began).saturating_add(ahead)) / 1000.0;
        let target = epoch.origin + C * libm::pow(t - epoch.k, 3.0);
        // Acknowledged segments for one more in flight.
        let mut count = if target > window {
            window / (target - window)
        } else {
            100.0 * window
        };
        if largest == 0.0 {
            count = count.min(SEARCHING_COUNT);
        }
        if epoch.reno > window {
            count = count.min(window / (epoch.reno - window));
        }
        self.credit += f64::from(advanced) / count.max(LEAST_COUNT);
        if self.credit >= f64::from(self.mss) {
            let segments = libm::floor(self.credit / f64::from(self.mss));
            self.credit -= segments * f64::from(self.mss);
            self.window = self.window.saturating_add(self.bytes(segments));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1000;

    /// Fills the window.
    fn fill(c: &mut Congestion, now: u32) {
        let nxt = c.una.wrapping_add(c.window() / MSS * MSS);
        c.sent(nxt, now);
    }

    /// Acknowledges a full window, at time `now`, while there is always more to be
    /// sent. What was sent first took 100 ms.
    fn round(c: &mut Congestion, now: u32) {
        fill(c, now.wrapping_sub(100));
        for _ in 0..c.window() / MSS {
            c.acknowledged(c.una.wrapping_add(MSS), c.nxt, true, now);
            fill(c, now);
        }
    }

    #[test]
    fn slow_start_doubles_up_to_the_threshold() {
        let mut c = Congestion::new(MSS, 5, 5);
        assert_eq!(c.window(), 10 * MSS);
        round(&mut c, 100);
        assert!(c.window() > 18 * MSS, "{}", c.window());
        c.threshold = 30 * MSS;
        round(&mut c, 200);
        assert!((30 * MSS..32 * MSS).contains(&c.window()), "{}", c.window());
    }

    #[test]
    fn slow_start_ends_when_round_trips_become_longer() {
        let mut c = Congestion::new(MSS, 0, 0);
        round(&mut c, 100);
        assert_eq!((c.shortest, c.threshold), (Some(100), u32::MAX));
        c.sent(c.una.wrapping_add(20 * MSS), 200);
        // An eighth longer and more.
        let nxt = c.nxt;
        c.acknowledged(c.una.wrapping_add(MSS), nxt, true, 320);
        assert_eq!(c.threshold, c.window());
    }

    #[test]
    fn after_a_loss_it_is_back_where_it_was_after_k() {
        let mut c = Congestion::new(MSS, 0, 0);
        c.window = 500 * MSS;
        c.threshold = 500 * MSS;
        c.lost();
        c.repaired();
        assert_eq!(c.window(), c.reduced_from(500));
        // The cube root of 500 * 0.3 / 0.4: 7.2 s, in which Reno gains 38.
        let k = libm::cbrt(500.0 * (1.0 - BETA) / C);
        let mut now = 0;
        while f64::from(now) < k * 1000.0 {
            now += 100;
            round(&mut c, now);
        }
        let window = c.segments(c.window());
        assert!((490.0..505.0).contains(&window), "{window}");
    }

    #[test]
    fn small_windows_grow_as_renos_do() {
        let mut c = Congestion::new(MSS, 0, 0);
        c.window = 10 * MSS;
        c.lost();
        c.repaired();
        let start = c.segments(c.window());
        for n in 1..=20 {
            round(&mut c, n * 20);
        }
        let grown = c.segments(c.window()) - start;
        // RENO is 0.53 per round trip.
        assert!((8.0..13.0).contains(&grown), "{grown}");
    }

    #[test]
    fn it_does_not_grow_while_it_does_not_limit() {
        let mut c = Congestion::new(MSS, 0, 0);
        c.acknowledged(MSS, 2 * MSS, true, 10);
        assert_eq!(c.window(), 10 * MSS);
    }

    #[test]
    fn a_window_is_never_below_two_segments_but_after_a_timeout() {
        let mut c = Congestion::new(MSS, 0, 0);
        for _ in 0..20 {
            c.lost();
            c.repaired();
        }
        assert_eq!(c.window(), LEAST * MSS);
        c.timer(true);
        c.timer(true);
        assert_eq!(c.window(), MSS);
    }

    impl Congestion {
        fn reduced_from(&self, segments: u32) -> u32 {
            self.bytes(f64::from(segments) * BETA)
        }
    }
}
