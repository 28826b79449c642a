//! What was dropped, and why.

/// Why a packet was not carried. One counter each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum DropReason {
    /// Shorter than its headers say, or nonsense in them.
    Malformed,
    /// A checksum is wrong.
    Checksum,
    /// Neither IPv4, IPv6 nor ARP, or a protocol that is not translated.
    Protocol,
    /// The source is not an address that a guest may have.
    Source,
    /// Addressed to the guest's network, where nobody has the address.
    NoNeighbour,
    /// The guest's hardware address is not known yet.
    NoHardwareAddress,
    /// The memory budget is used up.
    Memory,
    /// A table of flows is full.
    TableFull,
    /// The host refused a socket (out of descriptors, for example).
    HostSocket,
    /// The host did not take or answer a packet for a reason of its own.
    HostError,
    /// Fragments that overlap, are incomplete or too many.
    Fragment,
    /// An ICMP error that was not sent because many were, lately.
    ErrorLimit,
    /// The link did not take a frame.
    Link,
    /// The guest did not want a client of a forwarded port.
    Refused,
    /// The guest did not answer a client of a forwarded port.
    NoAnswer,
    /// A fault of the user's: a flow or datagram that it turned away, or a segment
    /// of a flow that is dead to the guest.
    Fault,
}

/// Number of [`DropReason`] reasons.
const REASONS: usize = DropReason::Fault as usize + 1;

/// Counts of everything worth counting; they only grow.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    drops: [u64; REASONS],
}

impl Counters {
    /// Counts one packet dropped for `reason`.
    pub fn drop(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
    }

    /// Packets dropped for `reason` so far.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// Every reason there is, with its count.
    pub fn reasons(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        use DropReason::{
            Checksum, ErrorLimit, Fault, Fragment, HostError, HostSocket, Link, Malformed, Memory,
            NoAnswer, NoHardwareAddress, NoNeighbour, Protocol, Refused, Source, TableFull,
        };
        [
            Malformed,
            Checksum,
            Protocol,
            Source,
            NoNeighbour,
            NoHardwareAddress,
            Memory,
            TableFull,
            HostSocket,
            HostError,
            Fragment,
            ErrorLimit,
            Link,
            Refused,
            NoAnswer,
            Fault,
        ]
        .into_iter()
        .map(|reason| (reason, self.dropped(reason)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_listed() {
        let counters = Counters {
            drops: [1; REASONS],
        };
        assert_eq!(counters.reasons().count(), REASONS);
    }
}
