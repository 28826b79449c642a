//! What is told of the gateway's flows: the flow log, statistics, metrics, reports,
//! and which process of the guest a flow belongs to.

mod spec;

pub use self::spec::{LogTarget, MetricsAt, ObserveSpecError};
