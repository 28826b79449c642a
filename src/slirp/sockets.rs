//! Sockets on the host's side: made non-blocking, bound where the user asked.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::getsockopt_impl;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use rustix::net::sockopt::{set_ip_mtu_discover, set_ipv6_mtu_discover};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::tcp::Progress;
use crate::config::Outbound;

/// Makes host sockets.
#[derive(Debug, Clone, Default)]
pub struct HostSockets {
    /// Where IPv4 flows leave; `None`: the host's routes decide.
    pub outbound4: Option<Outbound<Ipv4Addr>>,
    /// Where IPv6 flows leave.
    pub outbound6: Option<Outbound<Ipv6Addr>>,
}

/// An outbound address or interface that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// Not an address of this host.
    #[error(
        "cannot send from {address}: {source}; --outbound-addr takes an address of this host, see 'ip addr'"
    )]
    Address {
        /// The address.
        address: IpAddr,
        /// What the host says.
        source: io::Error,
    },
    /// No such interface.
    #[error(
        "cannot send through '{name}': {source}; --outbound-addr takes an interface of this host, see 'ip link'"
    )]
    Interface {
        /// Its name.
        name: String,
        /// What the host says.
        source: io::Error,
    },
}

impl HostSockets {
    /// Checks that the outbound addresses and interfaces exist.
    ///
    /// # Errors
    /// [`OutboundError`] for the first that does not.
    pub fn check(&self) -> Result<(), OutboundError> {
        let any4: SocketAddr = (Ipv4Addr::UNSPECIFIED, 0).into();
        let any6: SocketAddr = (Ipv6Addr::UNSPECIFIED, 0).into();
        let failed = |outbound: Outbound<IpAddr>, source| match outbound {
            Outbound::Address(address) => OutboundError::Address { address, source },
            Outbound::Interface(name) => OutboundError::Interface { name, source },
        };
        if let Some(outbound) = &self.outbound4 {
            let made = self.socket(any4, Type::DGRAM, Protocol::UDP);
            made.map_err(|e| failed(outbound.clone().map(IpAddr::from), e))?;
        }
        if let Some(outbound) = &self.outbound6 {
            let made = self.socket(any6, Type::DGRAM, Protocol::UDP);
            made.map_err(|e| failed(outbound.clone().map(IpAddr::from), e))?;
        }
        Ok(())
    }

    /// Starts a TCP connection to `to`.
    ///
    /// # Errors
    /// What `connect(2)` says at once.
    pub(crate) fn connect_tcp(&self, to: SocketAddr) -> io::Result<(OwnedFd, Progress)> {
        let socket = self.socket(to, Type::STREAM, Protocol::TCP)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&to.into()) {
            Ok(()) => Ok((socket.into(), Progress::Connected)),
            Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {
                Ok((socket.into(), Progress::Pending))
            }
            Err(e) => Err(e),
        }
    }

    /// Connects to a unix stream socket of the host. That happens at once or
    /// not at all.
    ///
    /// # Errors
    /// `ECONNREFUSED` for whatever the reason is: the guest can know no other.
    pub(crate) fn connect_unix(&self, path: &Path) -> io::Result<(OwnedFd, Progress)> {
        let refused = |error: io::Error| {
            tracing::debug!(path = %path.display(), %error, "an exposed socket cannot be reached");
            io::Error::from_raw_os_error(libc::ECONNREFUSED)
        };
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        let address = SockAddr::unix(path).map_err(refused)?;
        socket.connect(&address).map_err(refused)?;
        Ok((socket.into(), Progress::Connected))
    }

    /// A UDP socket for every destination of `to`'s family. ICMP errors are
    /// queued on it (`IP_RECVERR`), and equal datagrams may arrive together
    /// (`UDP_GRO`).
    ///
    /// # Errors
    /// When the process is out of descriptors, or the outbound address is gone.
    pub(crate) fn udp(&self, to: SocketAddr) -> io::Result<OwnedFd> {
        let socket = self.socket(to, Type::DGRAM, Protocol::UDP)?;
        queue_errors(&socket, to.ip())?;
        // Without it datagrams come one by one: slower, not wrong.
        let _ = setsockopt(&socket, sockopt::UdpGroSegment, &true);
        Ok(socket.into())
    }

    /// A socket that sends echo requests, and whether the kernel checks
    /// identifiers for us.
    ///
    /// # Errors
    /// `EACCES` when neither ping sockets nor raw sockets are allowed.
    pub(crate) fn echo(&self, to: IpAddr) -> io::Result<(OwnedFd, EchoKind)> {
        let protocol = if to.is_ipv4() {
            Protocol::ICMPV4
        } else {
            Protocol::ICMPV6
        };
        let at = SocketAddr::new(to, 0);
        let ping = self
            .socket(at, Type::DGRAM, protocol)
            .map(|s| (s, EchoKind::Ping));
        let (socket, kind) = ping.or_else(|denied| {
            self.socket(at, Type::RAW, protocol)
                .map(|s| (s, EchoKind::Raw))
                .map_err(|_| denied)
        })?;
        queue_errors(&socket, to)?;
        Ok((socket.into(), kind))
    }

    fn socket(&self, to: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        let kind = kind.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(to), kind, Some(protocol))?;
        if !to.ip().is_loopback() {
            self.bind(&socket, to.ip())?;
        }
        Ok(socket)
    }

    fn bind(&self, socket: &Socket, to: IpAddr) -> io::Result<()> {
        match to {
            IpAddr::V4(_) => self.outbound4.as_ref().map_or(Ok(()), |o| o.bind(socket)),
            IpAddr::V6(_) => self.outbound6.as_ref().map_or(Ok(()), |o| o.bind(socket)),
        }
    }
}

/// How echo replies come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EchoKind {
    /// Only ours, identifier rewritten by the kernel.
    Ping,
    /// Everybody's; IPv4's with the IP header in front.
    Raw,
}

fn queue_errors(socket: &Socket, to: IpAddr) -> io::Result<()> {
    if to.is_ipv4() {
        setsockopt(socket, sockopt::Ipv4RecvErr, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv6RecvErr, &true)?;
    }
    Ok(())
}

/// Sets the time to live or hop limit of what the socket sends.
pub(crate) fn set_hop_limit(socket: &OwnedFd, to: IpAddr, hops: u8) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if to.is_ipv4() {
        socket.set_ttl_v4(hops.into())
    } else {
        socket.set_unicast_hops_v6(hops.into())
    }
}

/// Whether the host's kernel may fragment what the socket sends. It may not
/// when the guest forbade it: then the guest hears of the path's MTU instead.
pub(crate) fn set_dont_fragment(socket: &OwnedFd, to: IpAddr, df: bool) -> io::Result<()> {
    use rustix::net::sockopt::{Ipv4PathMtuDiscovery as V4, Ipv6PathMtuDiscovery as V6};
    if to.is_ipv4() {
        set_ip_mtu_discover(socket, if df { V4::DO } else { V4::DONT })?;
    } else {
        set_ipv6_mtu_discover(socket, if df { V6::DO } else { V6::DONT })?;
    }
    Ok(())
}

/// What the host's kernel knows of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct HostTcp {
    /// Smoothed round-trip time; `None` before there was a sample.
    pub(crate) rtt: Option<Duration>,
    /// Segments that it has sent again.
    pub(crate) retransmits: u64,
}

impl HostTcp {
    /// Asks for `socket`'s; nothing for one that is not of TCP.
    pub(crate) fn of(socket: impl AsFd) -> Self {
        let Ok(info) = getsockopt(&socket, TcpInfoOption) else {
            return Self::default();
        };
        Self {
            rtt: (info.rtt > 0).then(|| Duration::from_micros(info.rtt.into())),
            retransmits: info.total_retransmits.into(),
        }
    }
}

/// The part of Linux's `struct tcp_info` that every kernel since 2.6 has: it fills
/// as much as it is given room for.
#[repr(C)]
#[derive(Clone, Copy)]
struct TcpInfo {
    _states: [u8; 8],
    _timers_to_receive_threshold: [u32; 15],
    /// In microseconds.
    rtt: u32,
    _rtt_variance_to_receive_space: [u32; 7],
    total_retransmits: u32,
}

#[derive(Clone, Copy)]
struct TcpInfoOption;

getsockopt_impl!(
    TcpInfoOption,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    TcpInfo,
    sockopt::GetStruct<TcpInfo>
);
