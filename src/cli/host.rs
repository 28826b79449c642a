//! What of the host's settings stands in the way of pings. `gw doctor` tells it;
//! a gateway says so when a guest pings.

use std::io;

use socket2::{Domain, Protocol, Socket, Type};

/// What it means that there are no ping sockets.
pub(super) const NO_PING: &str = "pings will not leave the gateway: this user's groups are \
                                  outside net.ipv4.ping_group_range";
/// What to do about [`NO_PING`].
pub(super) const NO_PING_REMEDY: &str = "an administrator allows them with \
                                         'sysctl -w net.ipv4.ping_group_range=\"0 2147483647\"'";

/// Whether echo requests can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ping {
    /// There is a kind of socket for them.
    Allowed,
    /// The kernel refuses all kinds.
    Denied,
}

/// Ping sockets, for IPv4 and IPv6 alike, are for the groups of a range that is
/// empty by default (icmp(7)); raw ones are for root, unless it is a container's.
/// Tried, as the gateway will try it.
pub(super) fn ping() -> Ping {
    let denied = |kind| {
        let socket = Socket::new(Domain::IPV4, kind, Some(Protocol::ICMPV4));
        // Anything else, such as no IPv4 in the kernel, is not about permission.
        socket.is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied)
    };
    if denied(Type::DGRAM) && denied(Type::RAW) {
        Ping::Denied
    } else {
        Ping::Allowed
    }
}
