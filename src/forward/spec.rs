//! How forwards are written: `[ADDR:]PORT[-PORT][:GUESTPORT[-GUESTPORT]][/tcp|udp]`
//! and its relatives.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::policy::{PortRange, Protocol};

/// A forward as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForwardSpec {
    /// Host to guest.
    Publish(Publish),
    /// Guest to host.
    Expose(Expose),
}

/// A listener on the host that leads to the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where clients connect to.
    pub host: PublishAt,
    /// The guest's address; `None`: the guest, by the client's family.
    pub guest: Option<IpAddr>,
    /// The guest's ports: as many as the host's.
    pub guest_ports: PortRange,
}

/// Where clients of a [`Publish`] connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishAt {
    /// Ports of the host.
    Ports {
        /// The address; `None`: all of the host's, of both families.
        addr: Option<IpAddr>,
        /// Only clients through this interface.
        interface: Option<String>,
        /// The ports.
        ports: PortRange,
    },
    /// A unix stream socket, made for it.
    Unix(PathBuf),
}

/// Ports of the gateway's address that lead to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expose {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Ports of the gateway's address.
    pub ports: PortRange,
    /// What they lead to.
    pub to: ExposeTo,
}

/// What an [`Expose`] leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExposeTo {
    /// Ports of the host's loopback: this and those behind it.
    Loopback(u16),
    /// A unix stream socket of the host; for a single TCP port.
    Unix(PathBuf),
}

impl fmt::Display for ForwardSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publish(publish) => write!(f, "{publish:?}"),
            Self::Expose(expose) => write!(f, "{expose:?}"),
        }
    }
}
