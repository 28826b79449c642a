//! What may happen to a flow. Pure: no input or output, tested by table.

mod verdict;

pub use verdict::{HostLoopback, Policy, PortRange, Protocol, Verdict};
