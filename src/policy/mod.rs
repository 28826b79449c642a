//! What may happen to a flow. Pure: no input or output, tested by table.

mod verdict;

pub use verdict::{Exposed, HostLoopback, HostTarget, Policy, PortRange, Protocol, Verdict};
