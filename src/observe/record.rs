//! What is known of a flow, joined: what the translation core told, the name that
//! the guest looked up, the process, the time of day.

use std::sync::Arc;
use std::time::SystemTime;

use super::process::Process;
use crate::policy::{FlowClosed, FlowDecided, FlowOpened};

/// Who a flow is about, as far as that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// When it began.
    pub began: SystemTime,
    /// The name that the guest resolved the remote's address from, last before
    /// the flow began.
    pub name: Option<Arc<str>>,
    /// The process whose socket it is.
    pub process: Option<Arc<Process>>,
}

/// One thing that happened, for [`Sink`]s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A flow began.
    Opened {
        /// What the core says.
        flow: FlowOpened,
        /// Who it is about.
        identity: Identity,
    },
    /// It is known what becomes of it.
    Decided {
        /// What the core says.
        flow: FlowDecided,
        /// When.
        at: SystemTime,
    },
    /// It has ended.
    Closed {
        /// What the core says; with all that was said when it began.
        flow: Box<FlowClosed>,
        /// As it was when the flow began.
        identity: Identity,
        /// When.
        at: SystemTime,
    },
    /// This is not all: so many things happened faster than they were taken.
    Lost {
        /// Flows of which nothing is told, or events of flows of which the rest
        /// is.
        events: u64,
        /// When it was noticed.
        at: SystemTime,
    },
}

/// Takes records. All sinks are called by one thread, the observer's, one after
/// the other: what one takes long for, the others wait for, but never the traffic.
pub trait Sink: Send {
    /// Something happened.
    fn record(&mut self, record: &Record);

    /// No more records are there for the moment: what was put together may go
    /// out. Called after every batch, and at least every
    /// [`FLUSH_INTERVAL`](super::FLUSH_INTERVAL) while there are records.
    fn flush(&mut self) {}

    /// True while something could not go out yet: [`Sink::flush`] is called again
    /// after [`FLUSH_INTERVAL`](super::FLUSH_INTERVAL).
    fn is_waiting(&self) -> bool {
        false
    }

    /// There will be no more records. Called once.
    fn finish(&mut self) {
        self.flush();
    }
}
