//! What flows did, counted as it happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::observe::names;
use crate::observe::record::{Record, Sink};
use crate::observe::tally::connect_time;

/// Upper bounds of the histogram of times to connect.
pub const BUCKETS: [Duration; 13] = [
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2500),
    Duration::from_secs(5),
    Duration::from_secs(10),
];

/// A counter for each of these names.
#[derive(Debug)]
struct Named<const N: usize> {
    names: [&'static str; N],
    counts: [AtomicU64; N],
}

impl<const N: usize> Named<N> {
    fn new(names: [&'static str; N]) -> Self {
        Self {
            names,
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    fn count(&self, name: &str) {
        if let Some(at) = self.names.iter().position(|known| *known == name) {
            self.counts[at].fetch_add(1, Relaxed);
        }
    }

    fn read(&self) -> Vec<(&'static str, u64)> {
        let counts = self.counts.iter().map(|count| count.load(Relaxed));
        self.names.into_iter().zip(counts).collect()
    }
}

/// Counted by the observer's thread, read by whoever asks. They only grow.
#[derive(Debug)]
pub struct FlowCounts {
    opened: Named<3>,
    verdicts: Named<{ names::VERDICTS.len() }>,
    ended: Named<{ names::ENDS.len() }>,
    /// Of each bucket by itself; the last is for what is above all bounds.
    connect: [AtomicU64; BUCKETS.len() + 1],
    connect_micros: AtomicU64,
    retransmits: AtomicU64,
    lost: AtomicU64,
}

/// The counts at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) opened: Vec<(&'static str, u64)>,
    pub(super) verdicts: Vec<(&'static str, u64)>,
    pub(super) ended: Vec<(&'static str, u64)>,
    pub(super) connect: [u64; BUCKETS.len() + 1],
    pub(super) connect_time: Duration,
    pub(super) retransmits: u64,
    pub(super) lost: u64,
}

impl Default for FlowCounts {
    fn default() -> Self {
        Self {
            opened: Named::new(["tcp", "udp", "echo"]),
            verdicts: Named::new(names::VERDICTS),
            ended: Named::new(names::ENDS),
            connect: std::array::from_fn(|_| AtomicU64::new(0)),
            connect_micros: AtomicU64::new(0),
            retransmits: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }
}

impl FlowCounts {
    /// A sink that counts here.
    #[must_use]
    pub fn sink(self: &Arc<Self>) -> Box<dyn Sink> {
        Box::new(CountingSink(Arc::clone(self)))
    }

    pub(super) fn read(&self) -> Counted {
        Counted {
            opened: self.opened.read(),
            verdicts: self.verdicts.read(),
            ended: self.ended.read(),
            connect: std::array::from_fn(|at| self.connect[at].load(Relaxed)),
            connect_time: Duration::from_micros(self.connect_micros.load(Relaxed)),
            retransmits: self.retransmits.load(Relaxed),
            lost: self.lost.load(Relaxed),
        }
    }

    fn record(&self, record: &Record) {
        match record {
            Record::Opened { flow, .. } => self.opened.count(names::protocol(flow.protocol)),
            Record::Decided { .. } => {}
            Record::Closed { flow, .. } => {
                self.verdicts.count(names::verdict(flow.verdict));
                self.ended.count(names::ended(flow.how));
                let retransmits = flow.to_guest.retransmits + flow.from_guest.retransmits;
                self.retransmits.fetch_add(retransmits, Relaxed);
                if let Some(time) = connect_time(flow) {
                    self.connected(time);
                }
            }
            Record::Lost { events, .. } => {
                self.lost.fetch_add(*events, Relaxed);
            }
        }
    }

    fn connected(&self, time: Duration) {
        let bucket = BUCKETS.iter().position(|bound| time <= *bound);
        self.connect[bucket.unwrap_or(BUCKETS.len())].fetch_add(1, Relaxed);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.connect_micros.fetch_add(micros, Relaxed);
    }
}

struct CountingSink(Arc<FlowCounts>);

impl Sink for CountingSink {
    fn record(&mut self, record: &Record) {
        self.0.record(record);
    }
}
