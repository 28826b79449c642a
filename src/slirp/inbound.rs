//! Listeners on the host whose clients are led to the guest: what the rooms
//! above hand over.

use std::net::{SocketAddrV4, SocketAddrV6};
use std::os::fd::OwnedFd;

/// What a listener's socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerKind {
    /// A TCP socket that listens.
    Tcp,
    /// A unix stream socket that listens; its clients appear as the gateway.
    Unix,
    /// A bound UDP socket.
    Udp,
}

/// Where in the guest a listener's clients end up. A client gets the side of
/// its own family; the other one, where that is missing or refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestTarget {
    /// IPv4 side.
    pub v4: Option<SocketAddrV4>,
    /// IPv6 side.
    pub v6: Option<SocketAddrV6>,
}

/// A socket whose clients are led to the guest.
#[derive(Debug)]
pub struct Listener {
    /// Bound, and listening where its kind does that; non-blocking.
    pub socket: OwnedFd,
    /// What it is.
    pub kind: ListenerKind,
    /// Where its clients end up.
    pub target: GuestTarget,
}

/// Names a listener of a [`Slirp`](super::Slirp).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListenerId(pub(super) super::flow::Token);
