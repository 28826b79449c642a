//! What may happen to a flow, and what is told of it. Pure: no input or output,
//! tested by table.

mod flow;
mod verdict;

pub use flow::{
    Carried, FlowClosed, FlowDecided, FlowEvent, FlowNumber, FlowOpened, FlowVerdict, HowEnded,
    Party,
};
pub use verdict::{Exposed, HostLoopback, HostTarget, Policy, PortRange, Protocol, Verdict};
