//! What is told of the gateway's flows: the flow log, statistics, metrics, reports,
//! and which process of the guest a flow belongs to.
//!
//! # Theory of operation
//!
//! The translation core's events are joined with names and processes by the
//! [`Observer`], a thread of its own, and go as [`Record`]s to every [`Sink`].

mod observer;
pub mod process;
mod record;
mod spec;

pub use self::observer::{FINISH_DEADLINE, FLUSH_INTERVAL, MAX_QUEUED, Observer};
pub use self::record::{Identity, Record, Sink};
pub use self::spec::{LogTarget, MetricsAt, ObserveSpecError};
