//! Figures of the whole run, for summaries and reports: looked at between rounds.
//!
//! Bytes over time are looked at every [`FIRST_INTERVAL`], and only while there is
//! something new: a gateway that has nothing to do stays asleep.

use std::time::{Duration, Instant, SystemTime};

use crate::config::{ObserveConfig, Summary};
use crate::observe::rates::{Bytes, FIRST_INTERVAL, Rates};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Sampler {
    /// `None`: nobody wants to know.
    since: Option<Instant>,
    next: Instant,
    rates: Rates,
    peak_buffers: usize,
    began: (Instant, SystemTime),
}

impl Sampler {
    /// As `config` wants it.
    pub(super) fn new(config: &ObserveConfig, now: Instant) -> Self {
        let wanted = config.summary == Summary::AtTheEnd || !config.reports.is_empty();
        Self {
            since: wanted.then_some(now),
            next: now,
            rates: Rates::default(),
            peak_buffers: 0,
            began: (now, SystemTime::now()),
        }
    }

    /// Traffic flows from now on.
    pub(super) fn begin(&mut self, now: Instant) {
        self.since = self.since.map(|_| now);
        self.next = now + FIRST_INTERVAL;
        self.began = (now, SystemTime::now());
    }

    /// Whether anybody wants to know.
    pub(super) const fn is_on(&self) -> bool {
        self.since.is_some()
    }

    /// Looks, after each round.
    pub(super) fn look(&mut self, now: Instant, passed: Bytes, buffers: usize) {
        let Some(since) = self.since else {
            return;
        };
        self.peak_buffers = self.peak_buffers.max(buffers);
        if now < self.next || !self.rates.is_news(passed) {
            return;
        }
        // What has passed since the last look belongs to the interval that ends
        // now, not to the one that begins.
        let at = now
            .duration_since(since)
            .saturating_sub(Duration::from_nanos(1));
        self.rates.look(at, passed);
        let interval = FIRST_INTERVAL.as_nanos();
        let missed = now.duration_since(since).as_nanos() / interval + 1;
        let missed = u32::try_from(missed).unwrap_or(u32::MAX);
        self.next = since + FIRST_INTERVAL.saturating_mul(missed);
    }

    /// When to look next; never without news.
    pub(super) fn next_deadline(&self, passed: Bytes) -> Option<Instant> {
        (self.is_on() && self.rates.is_news(passed)).then_some(self.next)
    }

    /// The last look; when it began, by both clocks, bytes over time, and bytes
    /// that flows held at most.
    pub(super) fn end(
        mut self,
        now: Instant,
        passed: Bytes,
    ) -> ((Instant, SystemTime), Rates, usize) {
        self.next = now;
        self.look(now, passed, 0);
        (self.began, self.rates, self.peak_buffers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(summary: Summary) -> ObserveConfig {
        ObserveConfig {
            summary,
            ..ObserveConfig::default()
        }
    }

    fn down(to_guest: u64) -> Bytes {
        Bytes {
            from_guest: 0,
            to_guest,
        }
    }

    #[test]
    fn it_sleeps_when_there_is_nothing_new() {
        let began = Instant::now();
        let ms = |ms| began + Duration::from_millis(ms);
        let mut sampler = Sampler::new(&config(Summary::AtTheEnd), began);
        sampler.begin(began);
        assert_eq!(sampler.next_deadline(down(0)), None);
        assert_eq!(sampler.next_deadline(down(5)), Some(ms(100)));
        sampler.look(ms(50), down(5), 70);
        assert_eq!(sampler.next_deadline(down(5)), Some(ms(100)));
        sampler.look(ms(100), down(5), 30);
        assert_eq!(sampler.next_deadline(down(5)), None);
        // A long silence; what comes behind it belongs behind it.
        sampler.look(ms(1030), down(6), 30);
        assert_eq!(sampler.next_deadline(down(7)), Some(ms(1100)));
        let (_, rates, peak) = sampler.end(ms(1040), down(7));
        assert_eq!(peak, 70);
        assert_eq!(rates.passed().len(), 11);
        assert_eq!((rates.passed()[0], rates.passed()[10]), (down(5), down(2)));
    }

    #[test]
    fn it_does_nothing_unless_somebody_wants_to_know() {
        let began = Instant::now();
        let mut sampler = Sampler::new(&config(Summary::No), began);
        sampler.begin(began);
        sampler.look(began + Duration::from_secs(1), down(5), 70);
        assert_eq!(sampler.next_deadline(down(5)), None);
        let (_, rates, peak) = sampler.end(began, down(5));
        assert_eq!((rates.passed().len(), peak), (0, 0));
    }
}
