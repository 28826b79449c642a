//! What is told of a flow: that it began, what was decided about it, how it ended.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Protocol;

/// Numbers flows as they begin, from 1; never used twice by one gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowNumber(pub u64);

/// Who did something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Party {
    /// The guest.
    Guest,
    /// The host, or whom the host speaks for: a remote, a client of a forward.
    Host,
    /// The gateway itself.
    Gateway,
}

/// Something happened to a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlowEvent {
    /// It began. Comes first.
    Opened(FlowOpened),
    /// It is known what becomes of it: it leads somewhere, or nowhere. Comes at
    /// most once.
    Decided(FlowDecided),
    /// It has ended. Comes last, and once.
    Closed(Box<FlowClosed>),
}

/// A flow began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowOpened {
    /// Its number.
    pub number: FlowNumber,
    /// Its name in the list of flows; `None`: it was turned away and is in no list.
    /// UDP flows of one guest's address and port to several remotes share one.
    pub id: Option<u64>,
    /// When.
    pub at: Instant,
    /// TCP, UDP or echo.
    pub protocol: Protocol,
    /// Who began it: the guest or the host.
    pub by: Party,
    /// The guest's end; its port is the identifier of an echo flow.
    pub guest: SocketAddr,
    /// The other end, as the guest sees it; an echo flow's port is 0.
    pub remote: SocketAddr,
}

/// What becomes of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowDecided {
    /// Its number.
    pub number: FlowNumber,
    /// When.
    pub at: Instant,
    /// What.
    pub verdict: FlowVerdict,
    /// The other end, as the host sees it.
    pub peer: Option<SocketAddr>,
    /// TCP, UDP or echo.
    pub protocol: Protocol,
    /// The guest's end, as it is now.
    pub guest: SocketAddr,
    /// The other end, as the guest sees it.
    pub remote: SocketAddr,
}

/// What became of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FlowVerdict {
    /// It leads to a socket of the network or the host.
    Connected,
    /// It leads to a unix socket.
    Unix,
    /// The gateway's resolver answers.
    Dns,
    /// The other side did not want it.
    Refused,
    /// There is no way there.
    Unreachable,
    /// The other side did not answer.
    NoAnswer,
    /// Policy ignores it.
    Dropped,
    /// A table was full, or the process out of descriptors.
    NoRoom,
    /// An impairment ended it, of this kind: as users write it.
    Impaired(&'static str),
}

/// What a flow carried in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Carried {
    /// Bytes of payload.
    pub bytes: u64,
    /// Packets of the wire's size, headers-only ones included; of UDP the
    /// datagrams, whether or not they were cut into fragments.
    pub packets: u64,
    /// Packets of TCP that were sent again, by the gateway towards the guest and
    /// by the host's kernel from the guest on. What the guest or the remote sent
    /// again is not seen.
    pub retransmits: u64,
}

/// How a flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HowEnded {
    /// Both directions were closed in order.
    Finished,
    /// It was reset.
    Reset,
    /// It was turned away before it was open; the verdict says why.
    TurnedAway,
    /// Nothing moved for too long.
    Idle,
    /// Somebody asked through the control socket.
    Killed,
    /// The other side could not be reached any more: it stopped answering, or a
    /// router said so.
    Lost,
    /// It made room for another.
    Evicted,
    /// The gateway ended.
    Shutdown,
    /// An impairment ended it, of this kind: as users write it.
    Impaired(&'static str),
}

/// A flow has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowClosed {
    /// As it began; with the ends that it had last, where it was led to another
    /// address of the guest.
    pub opened: FlowOpened,
    /// When it ended.
    pub at: Instant,
    /// What became of it; `None`: it ended before anything did.
    pub verdict: Option<FlowVerdict>,
    /// The other end, as the host sees it.
    pub peer: Option<SocketAddr>,
    /// From its beginning to the answer of the side that was asked. TCP only, and
    /// for what leads somewhere.
    pub connect_time: Option<Duration>,
    /// Towards the guest.
    pub to_guest: Carried,
    /// From the guest.
    pub from_guest: Carried,
    /// Smoothed round-trip time between the host and the remote, as the host's
    /// kernel has it. TCP only.
    pub rtt: Option<Duration>,
    /// Between the gateway and the guest: from the gateway's SYN-ACK to the
    /// guest's answer, where the guest began. `None` when that was lost.
    pub guest_rtt: Option<Duration>,
    /// Who ended it.
    pub by: Party,
    /// How.
    pub how: HowEnded,
    /// One direction was closed in order before the end, by this side.
    pub half_closed_by: Option<Party>,
    /// A rule of impairment was for its packets when it began or when it ended, or a
    /// fault changed what became of it.
    pub impaired: bool,
}
