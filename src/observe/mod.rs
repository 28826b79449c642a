//! What is told of the gateway's flows: the flow log, statistics, metrics, reports,
//! and which process of the guest a flow belongs to.
//!
//! # Theory of operation
//!
//! The translation core's events are joined with names and processes by the
//! [`Observer`], a thread of its own, and go as [`Record`]s to every [`Sink`].

pub mod human;
mod log;
pub mod metrics;
pub mod names;
mod observer;
pub mod process;
pub mod rates;
mod record;
pub mod report;
mod spec;
pub mod tally;
#[cfg(test)]
mod testing;

pub use self::log::{FlowLog, FlowLogError};
pub use self::observer::{FINISH_DEADLINE, FLUSH_INTERVAL, MAX_QUEUED, Observer};
pub use self::record::{Identity, Record, Sink};
pub use self::spec::{LogTarget, MetricsAt, ObserveSpecError};
