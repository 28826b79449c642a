//! Figures of the whole run, for summaries and reports: looked at between rounds.
//!
//! Bytes over time are looked at every [`FIRST_INTERVAL`], and only while there is
//! something new: a gateway that has nothing to do stays asleep.

use std::time::{Duration, Instant, SystemTime};

use super::Gateway;
use crate::config::{ObserveConfig, Summary};
use crate::observe::rates::{Bytes, FIRST_INTERVAL, Rates};
use crate::observe::report::{Figures, Followed, MAX_FLOW_INTERVALS, MAX_FOLLOWED};
use crate::policy::Protocol;

/// Flows looked at each time. Each costs a system call, and the data path waits
/// meanwhile: a thousandth of its time in all.
const FLOWS_PER_LOOK: usize = 128;

/// What a look has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    /// It is not time yet, or there is nothing new.
    Nothing,
    /// Something passed, and the flows may be looked at.
    Flows,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Sampler {
    /// `None`: nobody wants to know.
    since: Option<Instant>,
    next: Instant,
    rates: Rates,
    peak_buffers: usize,
    began: (Instant, SystemTime),
    /// `None`: only sums are wanted.
    followed: Option<Followed>,
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
            followed: (!config.reports.is_empty()).then(Followed::new),
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
    fn look(&mut self, now: Instant, passed: Bytes, buffers: usize) -> Looked {
        let Some(since) = self.since else {
            return Looked::Nothing;
        };
        self.peak_buffers = self.peak_buffers.max(buffers);
        if now < self.next || !self.rates.is_news(passed) {
            return Looked::Nothing;
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
        match self.followed {
            Some(_) => Looked::Flows,
            None => Looked::Nothing,
        }
    }

    /// So many bytes have passed in each of these flows until now.
    fn follow(&mut self, now: Instant, flows: impl Iterator<Item = (u64, Bytes)>) {
        let (Some(since), Some(followed)) = (self.since, &mut self.followed) else {
            return;
        };
        let at = now
            .duration_since(since)
            .saturating_sub(Duration::from_nanos(1));
        for (id, passed) in flows {
            let there = followed.contains_key(&id);
            if !there && followed.len() >= MAX_FOLLOWED {
                continue;
            }
            let new = || Rates::with_room(MAX_FLOW_INTERVALS);
            let rates = followed.entry(id).or_insert_with(new);
            if rates.seen().is_beyond(passed) {
                // Another flow has the name now.
                *rates = new();
            }
            rates.look(at, passed);
        }
    }

    /// When to look next; never without news.
    pub(super) fn next_deadline(&self, passed: Bytes) -> Option<Instant> {
        (self.is_on() && self.rates.is_news(passed)).then_some(self.next)
    }

    /// The last look.
    fn end(mut self, now: Instant, passed: Bytes) -> Sampled {
        self.next = now;
        self.look(now, passed, 0);
        Sampled {
            began: self.began,
            rates: self.rates,
            peak_buffers: self.peak_buffers,
            followed: self.followed.unwrap_or_default(),
        }
    }
}

/// What there is at the end.
#[derive(Debug)]
struct Sampled {
    /// When traffic began to flow, by both clocks.
    began: (Instant, SystemTime),
    /// Bytes over time.
    rates: Rates,
    /// Bytes that flows held at most.
    peak_buffers: usize,
    /// Bytes over time of flows.
    followed: Followed,
}

impl Gateway {
    /// Bytes of frames until now.
    pub(super) fn passed(&self) -> Bytes {
        Bytes {
            from_guest: self.received.bytes,
            to_guest: self.link.sent().bytes,
        }
    }

    /// Looks at what is for summaries and reports.
    pub(super) fn sample(&mut self, now: Instant) {
        let buffers = self.slirp.memory_used();
        let passed = self.passed();
        if self.sampler.look(now, passed, buffers) == Looked::Flows {
            let flows = self.slirp.flows_after(None).take(FLOWS_PER_LOOK);
            // A socket's datagrams may be those of many flows.
            let flows = flows.filter(|flow| flow.protocol == Protocol::Tcp);
            let bytes = flows.map(|flow| {
                let bytes = Bytes {
                    from_guest: flow.from_guest,
                    to_guest: flow.to_guest,
                };
                (flow.id.raw(), bytes)
            });
            self.sampler.follow(now, bytes);
        }
    }

    /// What there is to say at the end besides flows.
    pub(super) fn figures(mut self) -> Figures {
        let ended = Instant::now();
        let passed = self.passed();
        let (link, dropped) = (self.link_figures(), self.drops_that_occurred());
        let sampled = self.sampler.end(ended, passed);
        Figures {
            began: sampled.began,
            ended,
            link,
            rates: sampled.rates,
            followed: sampled.followed,
            peak_buffers: sampled.peak_buffers,
            dropped,
        }
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
        let Sampled {
            rates,
            peak_buffers,
            ..
        } = sampler.end(ms(1040), down(7));
        assert_eq!(peak_buffers, 70);
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
        let sampled = sampler.end(began, down(5));
        assert_eq!(sampled.rates.passed().len(), 0);
        assert_eq!(sampled.peak_buffers, 0);
    }

    #[test]
    fn flows_are_followed_for_reports_and_within_bounds() {
        let began = Instant::now();
        let ms = |ms| began + Duration::from_millis(ms);
        let mut config = config(Summary::No);
        config.reports.push("r.json".into());
        let mut sampler = Sampler::new(&config, began);
        sampler.begin(began);
        assert_eq!(sampler.look(ms(50), down(5), 0), Looked::Nothing);
        assert_eq!(sampler.look(ms(150), down(5), 0), Looked::Flows);
        sampler.follow(ms(150), [(1, down(5))].into_iter());
        sampler.follow(ms(250), [(1, down(8)), (2, down(1))].into_iter());
        // The name is another flow's.
        sampler.follow(ms(350), [(2, down(0))].into_iter());
        let more = (0..MAX_FOLLOWED as u64 * 2).map(|id| (id + 10, down(1)));
        sampler.follow(ms(400), more);
        let followed = sampler.end(ms(500), down(20)).followed;
        assert_eq!(followed.len(), MAX_FOLLOWED);
        assert_eq!(followed[&1].passed(), [down(0), down(5), down(3)]);
        assert_eq!(followed[&2].passed(), []);
    }
}
