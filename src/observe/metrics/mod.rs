//! `--metrics`: figures for Prometheus.
//!
//! # Theory of operation
//! A client's task reads a request (HTTP/1.1, by `hyper`) and asks the gateway's
//! loop for a [`Snapshot`] through a bounded channel, as clients of the control
//! socket do; the loop answers between two rounds and never waits. What is counted
//! by flows comes from the observer's thread, in [`FlowCounts`]. The text is made
//! in the client's task.
//!
//! One request for each connection, and a deadline for all of it: whoever reads
//! slowly or says nothing holds one of [`MAX_CLIENTS`] places, and not for long.
//!
//! `docs/metrics.md` lists what is served; a test compares it with [`CATALOGUE`].

mod counts;
mod server;
mod text;

use std::collections::BTreeMap;
use std::time::SystemTime;

use tokio::sync::{mpsc, oneshot};

pub use self::counts::{BUCKETS, FlowCounts};
pub use self::server::{DEADLINE, Listener, MAX_CLIENTS, serve};
pub use self::text::{CATALOGUE, Family, Kind, text};
use super::report::Link;

/// Questions that wait for the loop.
const MAX_QUESTIONS: usize = 16;

/// What the loop knows at a moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// When the gateway began to serve.
    pub began: SystemTime,
    /// Open flows by protocol.
    pub flows: BTreeMap<&'static str, usize>,
    /// Bytes that flows hold, and may hold.
    pub buffers: (usize, usize),
    /// Frames that the gateway took and gave.
    pub link: Link,
    /// Packets that were not carried, by reason: all reasons there are.
    pub dropped: BTreeMap<String, u64>,
    /// The links that guests are behind.
    pub ports: Vec<Port>,
    /// What waits, by queue.
    pub queues: BTreeMap<&'static str, usize>,
    /// Bytes of packets that impairments hold.
    pub held: usize,
    /// Captures that run.
    pub captures: Vec<Capture>,
}

/// A capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// Its number.
    pub id: u32,
    /// Packets in its files.
    pub packets: u64,
    /// Packets that it lost.
    pub lost: u64,
}

/// A link that guests are behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Frames that came in.
    pub received: u64,
    /// Frames that went out.
    pub sent: u64,
    /// Frames that the link did not take.
    pub not_sent: u64,
    /// Frames that came in and were none.
    pub malformed: u64,
}

/// Takes the loop's answer; nobody may be left to receive it.
pub type Question = oneshot::Sender<Snapshot>;

/// Asks the gateway's loop.
#[derive(Debug, Clone)]
pub struct Asker(mpsc::Sender<Question>);

impl Asker {
    /// An asker, and where its loop takes the questions from.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Question>) {
        let (sender, receiver) = mpsc::channel(MAX_QUESTIONS);
        (Self(sender), receiver)
    }

    /// Asks; `None` when there is no loop any more.
    async fn ask(&self) -> Option<Snapshot> {
        let (reply, answer) = oneshot::channel();
        self.0.send(reply).await.ok()?;
        answer.await.ok()
    }
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
