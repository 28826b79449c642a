//! How forwards are written, and what that means. [`super::parse`] reads these
//! forms; [`Display`](fmt::Display) writes them, so that what was written can be
//! read again.
//!
//! | `--publish` | listens on the host at | leads to the guest's |
//! |---|---|---|
//! | `8080` | port 8080 of all addresses, both families | port 8080 |
//! | `8080:80/udp` | the same, UDP | port 80 |
//! | `127.0.0.1:8080:80`, `[::1]:8080:80` | that address | port 80 |
//! | `0.0.0.0:8080:80`, `[::]:8080:80` | all addresses of that family | port 80 |
//! | `8000-8010:9000-9010` | eleven ports | eleven ports, in order |
//! | `192.0.2.1%eth0:80`, `%eth0:80`, `[fe80::1%eth0]:80` | as before, clients through `eth0` only | port 80 |
//! | `127.0.0.1::80`, `0:80` | a port that the system chooses | port 80 |
//! | `8080:10.0.2.100:80`, `8080:[fd00::100]:80` | port 8080 | port 80 of that address of the guest |
//! | `unix:/run/x.sock:8080` | a unix stream socket made there | TCP port 8080 |
//! | `systemd:80`, `systemd:NAME:80/udp` | sockets that the service manager passed | port 80 |
//! | `auto`, `auto:127.0.0.1`, `auto,except=22` | see [`AutoPublish`] | the same port |
//!
//! | `--expose-host` | the gateway's address has | it leads to |
//! |---|---|---|
//! | `5432` | TCP port 5432 | port 5432 of the host's loopback |
//! | `5432:15432` | TCP port 15432 | port 5432 of the host's loopback |
//! | `unix:/run/x.sock:8080` | TCP port 8080 | that unix stream socket |

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::spec_error::SpecError;
use crate::policy::{PortRange, Protocol};

/// A forward as it was asked for.
///
/// Serialized as `{"publish": "8080:80/tcp"}` or `{"expose_host": "5432:5432/tcp"}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ForwardSpec {
    /// Host to guest.
    #[serde(rename = "publish")]
    Publish(Publish),
    /// Guest to host.
    #[serde(rename = "expose_host")]
    Expose(Expose),
}

/// A listener on the host that leads to the guest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Publish {
    /// TCP or UDP; TCP for a unix socket.
    pub protocol: Protocol,
    /// Where clients connect to.
    pub host: PublishAt,
    /// The guest's address; `None`: the guest, by the client's family. Always
    /// `None` where `host` has no ports.
    pub guest: Option<IpAddr>,
    /// The guest's ports: as many as the host's.
    pub guest_ports: PortRange,
}

/// Where clients of a [`Publish`] connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PublishAt {
    /// Ports of the host.
    Ports {
        /// The address; `None`: all of the host's, of both families. `0.0.0.0`
        /// and `::` stand for all of one family.
        addr: Option<IpAddr>,
        /// Only clients through this interface.
        interface: Option<String>,
        /// The ports; [`SYSTEMS_CHOICE`] for one that the system chooses.
        ports: PortRange,
    },
    /// A unix stream socket, made for it.
    Unix(PathBuf),
    /// Sockets that the service manager passed: those of this name (a unit may
    /// have several of one name), or all that no other forward names.
    Passed {
        /// The name (`FileDescriptorName=`).
        name: Option<String>,
    },
}

/// In the place of a host's ports: one that the system chooses.
pub const SYSTEMS_CHOICE: PortRange = PortRange::one(0);

/// Ports of the gateway's address that lead to the host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Expose {
    /// TCP or UDP; TCP for a unix socket.
    pub protocol: Protocol,
    /// Ports of the gateway's address.
    pub ports: PortRange,
    /// What they lead to.
    pub to: ExposeTo,
}

/// What an [`Expose`] leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ExposeTo {
    /// Ports of the host's loopback: this and those behind it.
    Loopback(u16),
    /// A unix stream socket of the host; for a single TCP port.
    Unix(PathBuf),
}

/// `--publish auto`: ports on which programs of the guest listen appear on the
/// host, with the same number, for as long as they do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutoPublish {
    /// The host's address; `None`: its loopback, `127.0.0.1` and `::1`.
    pub addr: Option<IpAddr>,
    /// Ports that are left out.
    pub except: Vec<PortRange>,
}

/// What `--publish` takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishOption {
    /// One forward.
    Publish(Publish),
    /// As many as the guest listens on.
    Auto(AutoPublish),
}

impl Publish {
    /// A forward of ports, checked.
    ///
    /// # Errors
    /// When the two ranges differ in length, a guest port is 0, or an address is
    /// not one to listen on or to lead to.
    pub fn ports(
        protocol: Protocol,
        addr: Option<IpAddr>,
        ports: PortRange,
        guest: Option<IpAddr>,
        guest_ports: PortRange,
    ) -> Result<Self, SpecError> {
        let host = PublishAt::Ports {
            addr,
            interface: None,
            ports,
        };
        let publish = Self {
            protocol,
            host,
            guest,
            guest_ports,
        };
        publish.check()?;
        Ok(publish)
    }

    /// How many sockets it takes at most on the host; for passed ones, that are
    /// open already, 0.
    #[must_use]
    pub fn sockets(&self) -> usize {
        match &self.host {
            PublishAt::Ports { ports, .. } => ports.count(),
            PublishAt::Unix(_) => 1,
            PublishAt::Passed { .. } => 0,
        }
    }
}

impl From<Publish> for ForwardSpec {
    fn from(publish: Publish) -> Self {
        Self::Publish(publish)
    }
}

impl From<Expose> for ForwardSpec {
    fn from(expose: Expose) -> Self {
        Self::Expose(expose)
    }
}

/// As the option and its value.
impl fmt::Display for ForwardSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publish(publish) => write!(f, "--publish {publish}"),
            Self::Expose(expose) => write!(f, "--expose-host {expose}"),
        }
    }
}

/// In full: with the guest's port and the protocol.
impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            PublishAt::Ports {
                addr,
                interface,
                ports,
            } => {
                let at = HostAddr {
                    addr: *addr,
                    interface: interface.as_deref(),
                };
                match (at.is_any(), *ports == SYSTEMS_CHOICE) {
                    (true, _) => write!(f, "{ports}:")?,
                    (false, true) => write!(f, "{at}::")?,
                    (false, false) => write!(f, "{at}:{ports}:")?,
                }
                if let Some(guest) = self.guest {
                    write!(f, "{}:", Bracketed(guest))?;
                }
            }
            PublishAt::Unix(path) => {
                return write!(f, "unix:{}:{}", path.display(), self.guest_ports);
            }
            PublishAt::Passed { name: Some(name) } => write!(f, "systemd:{name}:")?,
            PublishAt::Passed { name: None } => f.write_str("systemd:")?,
        }
        write!(f, "{}/{}", self.guest_ports, self.protocol)
    }
}

/// In full: with both ports and the protocol.
impl fmt::Display for Expose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.to {
            ExposeTo::Unix(path) => write!(f, "unix:{}:{}", path.display(), self.ports),
            ExposeTo::Loopback(first) => {
                let host = PortRange {
                    first: *first,
                    last: first.saturating_add(self.ports.last - self.ports.first),
                };
                write!(f, "{host}:{}/{}", self.ports, self.protocol)
            }
        }
    }
}

impl fmt::Display for AutoPublish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("auto")?;
        if let Some(addr) = self.addr {
            write!(f, ":{}", Bracketed(addr))?;
        }
        for (n, range) in self.except.iter().enumerate() {
            write!(f, "{}{range}", if n == 0 { ",except=" } else { "," })?;
        }
        Ok(())
    }
}

impl From<Publish> for String {
    fn from(publish: Publish) -> Self {
        publish.to_string()
    }
}

impl From<Expose> for String {
    fn from(expose: Expose) -> Self {
        expose.to_string()
    }
}

impl TryFrom<String> for Publish {
    type Error = SpecError;

    fn try_from(text: String) -> Result<Self, SpecError> {
        text.parse()
    }
}

impl TryFrom<String> for Expose {
    type Error = SpecError;

    fn try_from(text: String) -> Result<Self, SpecError> {
        text.parse()
    }
}

/// An address and interface of the host as they are written.
#[derive(Debug, Clone, Copy)]
pub(super) struct HostAddr<'a> {
    pub(super) addr: Option<IpAddr>,
    pub(super) interface: Option<&'a str>,
}

impl HostAddr<'_> {
    /// True when nothing is to be written.
    pub(super) const fn is_any(&self) -> bool {
        self.addr.is_none() && self.interface.is_none()
    }
}

impl fmt::Display for HostAddr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.addr, self.interface) {
            (Some(IpAddr::V6(addr)), Some(interface)) => write!(f, "[{addr}%{interface}]"),
            (Some(IpAddr::V6(addr)), None) => write!(f, "[{addr}]"),
            (Some(addr), Some(interface)) => write!(f, "{addr}%{interface}"),
            (Some(addr), None) => write!(f, "{addr}"),
            (None, Some(interface)) => write!(f, "%{interface}"),
            (None, None) => Ok(()),
        }
    }
}

/// An address, IPv6 in brackets.
struct Bracketed(IpAddr);

impl fmt::Display for Bracketed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(addr) => write!(f, "{addr}"),
            IpAddr::V6(addr) => write!(f, "[{addr}]"),
        }
    }
}
