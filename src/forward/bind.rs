//! Makes the host's sockets of a publication.
//!
//! One socket for each port. Where no address is given it is one IPv6 socket
//! that takes IPv4 clients too, so that a port costs one descriptor; a host
//! without IPv6 gets an IPv4 socket. A range is bound as a whole or not at all.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;

use nix::net::if_::if_nametoindex;
use serde::{Serialize, Serializer};
use socket2::{Domain, Socket, Type};

use super::holder::{self, Holder};
use super::spec::{HostAddr, Publish, PublishAt, SYSTEMS_CHOICE};
use super::table::Origin;
use super::{HostSocket, SocketKind};
use crate::policy::{PortRange, Protocol};

/// Connections that wait to be accepted, of one port; the kernel's own limit
/// (`net.core.somaxconn`) is the same by default.
pub const BACKLOG: i32 = 4096;

/// Where ports below are the administrator's.
const PORT_START: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// Where clients of a forward connect to. Written (and serialized) as
/// `*:8080`, `127.0.0.1:8000-8010`, `[::1%eth0]:80`, `unix:/run/x.sock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BoundAt {
    /// Ports.
    Ports {
        /// The address; `None`: all of the host's, of both families.
        addr: Option<IpAddr>,
        /// Only clients through this interface.
        interface: Option<String>,
        /// The ports, those that the system chose among them.
        ports: PortRange,
    },
    /// A unix stream socket.
    Unix(PathBuf),
}

/// Sockets and where they are.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) sockets: Vec<HostSocket>,
    pub(super) at: BoundAt,
}

/// Whether it is worth to look up who holds a port: reading /proc takes
/// milliseconds, during which no traffic flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inquiry {
    LookUp,
    Skip,
}

/// Why a socket cannot be had; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another program has the port.
    #[error(
        "port {port} is in use by {holder}; stop that program, or choose another host port, \
         like {}:{guest_port}", other_port(*.port)
    )]
    InUse {
        /// The host's port.
        port: u16,
        /// The guest's, for the example.
        guest_port: u16,
        /// Who has it.
        holder: Holder,
    },
    /// The port is the administrator's.
    #[error(
        "this user may not listen on port {port}, which is below {start}: as root, \
         'sysctl net.ipv4.ip_unprivileged_port_start={port}' opens it to every user, \
         'setcap cap_net_bind_service=+ep {program}' to gw alone; or choose a higher host port, \
         like {}:{guest_port}", higher_port(*.port)
    )]
    Low {
        /// The host's port.
        port: u16,
        /// The guest's, for the example.
        guest_port: u16,
        /// Ports from here on are anybody's.
        start: u16,
        /// Where this program is.
        program: String,
    },
    /// The address is not the host's.
    #[error("this host has no address {0}; 'ip address' lists those it has")]
    NoAddress(IpAddr),
    /// There is no such interface.
    #[error("this host has no interface '{0}'; 'ip link' lists those it has")]
    NoInterface(String),
    /// Only root may name an interface.
    #[error(
        "this user may not bind to interface '{0}' (before Linux 5.7 only root may); leave it out, or give an address of it"
    )]
    InterfaceDenied(String),
    /// The host has no IPv6.
    #[error("this host has no IPv6; give an IPv4 address, or none")]
    NoIpv6,
    /// Out of descriptors.
    #[error("no more files can be opened; raise the limit (ulimit -n), or publish fewer ports")]
    TooManyFiles,
    /// Any other reason.
    #[error("cannot listen on port {port}: {source}")]
    Port {
        /// The host's port.
        port: u16,
        /// Why not.
        source: io::Error,
    },
    /// What is there is not a socket.
    #[error("'{}' is there already and is not a socket; choose another path, or remove it", .0.display())]
    NotASocket(PathBuf),
    /// Somebody listens at a path.
    #[error("a program listens at '{}' already; choose another path, or stop it", .0.display())]
    PathInUse(PathBuf),
    /// The folder is missing.
    #[error("the folder of '{}' does not exist; make it first", .0.display())]
    NoFolder(PathBuf),
    /// Any other reason for a path.
    #[error("cannot make a socket at '{}': {source}", .path.display())]
    Path {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A port to suggest in place of one that is taken.
fn other_port(port: u16) -> u16 {
    let next = if port < 1024 { port + 8000 } else { port };
    next.checked_add(1).unwrap_or(8080)
}

/// A port to suggest in place of one that is the administrator's.
const fn higher_port(port: u16) -> u16 {
    match port.checked_add(8000) {
        Some(port) => port,
        None => 50000,
    }
}

/// Binds the ports of `publish`, which has some and has been checked.
pub(super) fn ports(publish: &Publish, inquiry: Inquiry) -> Result<Bound, BindError> {
    let PublishAt::Ports {
        addr,
        interface,
        ports,
    } = &publish.host
    else {
        // What has no ports has no socket of a port.
        return Err(BindError::Port {
            port: 0,
            source: io::ErrorKind::InvalidInput.into(),
        });
    };
    let mut binder = Binder {
        protocol: publish.protocol,
        at: At::new(*addr, interface.as_deref())?,
        interface: interface.as_deref(),
    };
    let mut sockets = Vec::with_capacity(ports.count());
    let mut chosen = *ports;
    for (port, guest_port) in ports.ports().zip(publish.guest_ports.ports()) {
        let socket = binder
            .bind(port)
            .map_err(|e| binder.explain(e, port, guest_port, inquiry))?;
        if *ports == SYSTEMS_CHOICE {
            let port = socket.local_addr().ok().and_then(|a| a.as_socket());
            chosen = PortRange::one(port.map_or(0, |a| a.port()));
        }
        sockets.push(HostSocket {
            socket: socket.into(),
            kind: binder.kind(),
            guest: publish.guest,
            port: guest_port,
        });
    }
    let at = BoundAt::Ports {
        addr: binder.at.named(),
        interface: interface.clone(),
        ports: chosen,
    };
    Ok(Bound { sockets, at })
}

/// What sockets are bound to, but for the port.
#[derive(Debug, Clone, Copy)]
enum At {
    /// All addresses of both families, in one socket.
    Any,
    /// One address, or all of one family; for IPv6 with its scope.
    Addr(IpAddr, u32),
}

impl At {
    fn new(addr: Option<IpAddr>, interface: Option<&str>) -> Result<Self, BindError> {
        let scope = match (addr, interface) {
            (Some(IpAddr::V6(a)), Some(name)) if a.is_unicast_link_local() => {
                if_nametoindex(name).map_err(|_| BindError::NoInterface(name.to_owned()))?
            }
            _ => 0,
        };
        Ok(addr.map_or(Self::Any, |addr| Self::Addr(addr, scope)))
    }

    const fn named(self) -> Option<IpAddr> {
        match self {
            Self::Any => None,
            Self::Addr(addr, _) => Some(addr),
        }
    }

    fn socket_addr(self, port: u16) -> SocketAddr {
        match self {
            Self::Any => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port),
            Self::Addr(IpAddr::V4(addr), _) => SocketAddr::new(addr.into(), port),
            Self::Addr(IpAddr::V6(addr), scope) => SocketAddrV6::new(addr, port, 0, scope).into(),
        }
    }
}

/// Binds one port after the other.
#[derive(Debug)]
struct Binder<'a> {
    protocol: Protocol,
    at: At,
    interface: Option<&'a str>,
}

impl Binder<'_> {
    fn bind(&mut self, port: u16) -> io::Result<Socket> {
        let result = self.bind_at(port);
        match (self.at, result) {
            (At::Any, Err(e)) if is_without_ipv6(&e) => {
                self.at = At::Addr(Ipv4Addr::UNSPECIFIED.into(), 0);
                self.bind_at(port)
            }
            (_, result) => result,
        }
    }

    fn bind_at(&self, port: u16) -> io::Result<Socket> {
        let addr = self.at.socket_addr(port);
        let kind = match self.protocol {
            Protocol::Udp => Type::DGRAM,
            Protocol::Tcp | Protocol::Echo => Type::STREAM,
        };
        let socket = Socket::new(Domain::for_address(addr), kind.nonblocking(), None)?;
        if addr.is_ipv6() {
            socket.set_only_v6(!matches!(self.at, At::Any))?;
        }
        // Of two UDP sockets that share a port one would starve; for TCP it only
        // lets connections of an earlier run linger.
        if self.protocol == Protocol::Tcp {
            socket.set_reuse_address(true)?;
        }
        if let Some(name) = self.interface {
            socket.bind_device(Some(name.as_bytes()))?;
        }
        socket.bind(&addr.into())?;
        if self.protocol == Protocol::Tcp {
            socket.listen(BACKLOG)?;
        }
        Ok(socket)
    }

    const fn kind(&self) -> SocketKind {
        match self.protocol {
            Protocol::Udp => SocketKind::Udp,
            Protocol::Tcp | Protocol::Echo => SocketKind::Tcp,
        }
    }

    fn explain(&self, error: io::Error, port: u16, guest_port: u16, inquiry: Inquiry) -> BindError {
        match (error.raw_os_error(), self.at, self.interface) {
            (Some(libc::EADDRINUSE), ..) => BindError::InUse {
                port,
                guest_port,
                holder: match inquiry {
                    Inquiry::LookUp => holder::of(self.protocol, self.at.socket_addr(port)),
                    Inquiry::Skip => Holder::Unknown,
                },
            },
            (Some(libc::EACCES), ..) if port < port_start() => BindError::Low {
                port,
                guest_port,
                start: port_start(),
                program: program(),
            },
            (Some(libc::EADDRNOTAVAIL), At::Addr(addr, _), _) => BindError::NoAddress(addr),
            (Some(libc::EAFNOSUPPORT), At::Addr(IpAddr::V6(_), _), _) => BindError::NoIpv6,
            (Some(libc::ENODEV), _, Some(name)) => BindError::NoInterface(name.to_owned()),
            (Some(libc::EPERM), _, Some(name)) => BindError::InterfaceDenied(name.to_owned()),
            (Some(libc::EMFILE | libc::ENFILE), ..) => BindError::TooManyFiles,
            _ => BindError::Port {
                port,
                source: error,
            },
        }
    }
}

/// What a kernel without IPv6 says to an IPv6 socket or address.
fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT)
    )
}

/// The first port that is anybody's.
fn port_start() -> u16 {
    let text = std::fs::read_to_string(PORT_START).unwrap_or_default();
    text.trim().parse().unwrap_or(1024)
}

/// Where this program is, as a user would write it.
fn program() -> String {
    let path = std::env::current_exe();
    path.map_or_else(|_| "$(which gw)".to_owned(), |p| p.display().to_string())
}

impl Inquiry {
    pub(super) const fn for_origin(origin: Origin) -> Self {
        match origin {
            Origin::CommandLine => Self::LookUp,
            Origin::Control | Origin::Auto => Self::Skip,
        }
    }
}

impl BoundAt {
    /// True when it has one of these ports.
    #[must_use]
    pub const fn has_port(&self, wanted: PortRange) -> bool {
        match self {
            Self::Ports { ports, .. } => ports.overlaps(wanted),
            Self::Unix(_) => false,
        }
    }
}

impl fmt::Display for BoundAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ports {
                addr,
                interface,
                ports,
            } => {
                let at = HostAddr {
                    addr: *addr,
                    interface: interface.as_deref(),
                };
                let all = if addr.is_none() { "*" } else { "" };
                write!(f, "{all}{at}:{ports}")
            }
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Serialize for BoundAt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
#[path = "bind_tests.rs"]
mod tests;
