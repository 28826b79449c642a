//! The SYN of a connection that the host has not answered yet.

use std::net::IpAddr;

use nix::errno::Errno;

use super::super::Core;
use super::super::counters::DropReason;
use super::super::egress::Problem;
use super::super::flow::FlowKey;
use super::super::lwip::{FrameBuf, Ingress};
use super::Arrival;

/// A SYN that waits for the host. It may carry data, so it counts towards the
/// memory budget.
#[derive(Debug)]
pub(super) struct HeldSyn {
    /// The IP packet, without padding.
    packet: FrameBuf,
    /// Where its TCP header is.
    tcp: usize,
}

/// Keeps a SYN until the host has answered.
pub(super) fn hold(core: &Core, arrival: &Arrival<'_>) -> HeldSyn {
    let packet = arrival.ip.packet.clone();
    let tcp = arrival.ip.payload.start - packet.start;
    HeldSyn {
        packet: core.pool.copy_of(&arrival.bytes[packet]),
        tcp,
    }
}

impl HeldSyn {
    /// The SYN, for lwIP to answer.
    pub(super) fn ingress(&self, core: &Core, key: FlowKey) -> Ingress {
        // An IP packet has at most 65535 bytes.
        let packet = self.packet.bytes();
        let len = u16::try_from(packet.len() - self.tcp).unwrap_or(u16::MAX);
        let frame = core.pool.copy_of(packet);
        let (guest, remote): (IpAddr, IpAddr) = (key.guest().ip(), key.remote().ip());
        Ingress {
            frame,
            start: self.tcp,
            len,
            guest,
            remote,
        }
    }
}

/// Tells the guest why its SYN led nowhere; see the table above.
pub(super) fn failed(core: &mut Core, key: FlowKey, held: HeldSyn, errno: Option<i32>) {
    match errno.map_or(Errno::UnknownErrno, Errno::from_raw) {
        Errno::ECONNREFUSED | Errno::ECONNRESET => {
            let syn = held.ingress(core, key);
            core.stack.refuse(syn);
        }
        Errno::ETIMEDOUT => {}
        errno => match Problem::from_errno(errno) {
            Some(problem) => core.problem(problem, held.packet.bytes()),
            None => core.drop(DropReason::HostSocket),
        },
    }
}
