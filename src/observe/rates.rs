//! Bytes over time, in a bounded number of intervals.
//!
//! # Theory of operation
//! What passed is counted elsewhere; here the counts are looked at from time to
//! time, and what has come since the last look belongs to the interval of this
//! one. When there is no interval left, neighbours become one and intervals are
//! twice as long from then on: so the plot of a second is as fine as that of a
//! day, and the sums stay exact.

use std::time::Duration;

/// Intervals: as many as a plot has pixels for, more or less.
pub const MAX_INTERVALS: usize = 600;

/// Length of an interval in the beginning.
pub const FIRST_INTERVAL: Duration = Duration::from_millis(100);

/// Bytes in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bytes {
    /// From the guest.
    pub from_guest: u64,
    /// Towards the guest.
    pub to_guest: u64,
}

impl Bytes {
    fn add(&mut self, other: Self) {
        self.from_guest = self.from_guest.saturating_add(other.from_guest);
        self.to_guest = self.to_guest.saturating_add(other.to_guest);
    }

    /// Whether counts that only grow cannot go from these to `later`.
    #[must_use]
    pub const fn is_beyond(self, later: Self) -> bool {
        self.from_guest > later.from_guest || self.to_guest > later.to_guest
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            from_guest: self.from_guest.saturating_sub(earlier.from_guest),
            to_guest: self.to_guest.saturating_sub(earlier.to_guest),
        }
    }
}

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rates {
    interval: Duration,
    /// Intervals at most.
    room: usize,
    passed: Vec<Bytes>,
    seen: Bytes,
}

impl Default for Rates {
    fn default() -> Self {
        Self::with_room(MAX_INTERVALS)
    }
}

impl Rates {
    /// With so many intervals at most.
    #[must_use]
    pub const fn with_room(room: usize) -> Self {
        Self {
            interval: FIRST_INTERVAL,
            room,
            passed: Vec::new(),
            seen: Bytes {
                from_guest: 0,
                to_guest: 0,
            },
        }
    }

    /// `total` bytes have passed until `at`, counted from the beginning.
    pub fn look(&mut self, at: Duration, total: Bytes) {
        let new = total.since(self.seen);
        self.seen = total;
        if new == Bytes::default() {
            return;
        }
        let mut place = self.place(at);
        while place >= self.room.max(1) {
            self.halve();
            place = self.place(at);
        }
        if place >= self.passed.len() {
            self.passed.resize(place + 1, Bytes::default());
        }
        self.passed[place].add(new);
    }

    /// Whether `total` says more than the last look.
    #[must_use]
    pub fn is_news(&self, total: Bytes) -> bool {
        total != self.seen
    }

    /// What has passed until the last look.
    #[must_use]
    pub const fn seen(&self) -> Bytes {
        self.seen
    }

    /// Length of an interval.
    #[must_use]
    pub const fn interval(&self) -> Duration {
        self.interval
    }

    /// What passed in each interval, up to the last one in which anything did.
    #[must_use]
    pub fn passed(&self) -> &[Bytes] {
        &self.passed
    }

    fn place(&self, at: Duration) -> usize {
        let place = at.as_nanos() / self.interval.as_nanos().max(1);
        usize::try_from(place).unwrap_or(usize::MAX)
    }

    fn halve(&mut self) {
        self.interval = self.interval.saturating_mul(2);
        self.passed = self
            .passed
            .chunks(2)
            .map(|pair| {
                let mut both = Bytes::default();
                pair.iter().for_each(|one| both.add(*one));
                both
            })
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn down(to_guest: u64) -> Bytes {
        Bytes {
            from_guest: 0,
            to_guest,
        }
    }

    #[test]
    fn intervals_double_when_they_run_out() {
        let mut rates = Rates::default();
        rates.look(Duration::from_millis(50), down(10));
        rates.look(Duration::from_millis(150), down(30));
        assert_eq!(rates.passed(), [down(10), down(20)]);
        // The 601st.
        rates.look(Duration::from_secs(60), down(31));
        assert_eq!(rates.interval(), Duration::from_millis(200));
        assert_eq!(rates.passed().len(), 301);
        assert_eq!(rates.passed()[0], down(30));
        assert_eq!(rates.passed()[300], down(1));
        // A machine that slept for a month.
        rates.look(Duration::from_secs(30 * 86400), down(32));
        assert!(rates.passed().len() <= MAX_INTERVALS);
        assert_eq!(rates.passed()[0], down(31));
    }

    #[test]
    fn nothing_new_is_no_news() {
        let mut rates = Rates::default();
        assert!(!rates.is_news(down(0)));
        assert!(rates.is_news(down(1)));
        rates.look(Duration::ZERO, down(1));
        rates.look(Duration::from_secs(1), down(1));
        assert!(!rates.is_news(down(1)));
        assert_eq!(rates.passed(), [down(1)]);
    }

    proptest! {
        #[test]
        fn sums_are_exact_and_bounded(
            looks in prop::collection::vec((0u64..1 << 50, 0u64..1 << 40, 0u64..1 << 40), 0..200)
        ) {
            let mut rates = Rates::default();
            let (mut at, mut total) = (0, Bytes::default());
            for (later, up, down) in looks {
                at += later;
                total.add(Bytes { from_guest: up, to_guest: down });
                rates.look(Duration::from_nanos(at), total);
                prop_assert!(rates.passed().len() <= MAX_INTERVALS);
            }
            let mut sum = Bytes::default();
            rates.passed().iter().for_each(|passed| sum.add(*passed));
            prop_assert_eq!(sum, total);
        }
    }
}
