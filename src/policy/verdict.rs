//! From a flow's destination to its [`Verdict`].

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use crate::net::AddressPlan;

/// An inclusive range of ports, `first <= last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl PortRange {
    /// Just this port.
    #[must_use]
    pub const fn one(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }

    /// How many ports there are: at least one.
    #[must_use]
    pub fn count(self) -> usize {
        usize::from(self.last.saturating_sub(self.first)) + 1
    }

    /// True when `port` is one of them.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// True when the two have a port in common.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// All of them, in order.
    pub fn ports(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }
}

/// As users write it: `80`, `8000-8010`.
impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// What of the host's loopback the gateway address reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostLoopback {
    /// Nothing. The default.
    Closed,
    /// Every port.
    Open,
    /// These ports only.
    Ports(Vec<PortRange>),
}

/// Transport protocol of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP or ICMPv6 echo; ports are 0.
    Echo,
}

/// As users write it behind a port.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Echo => "echo",
        })
    }
}

/// What happens to a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Joined to a host socket that talks to this address.
    Connect(SocketAddr),
    /// Joined to this unix stream socket of the host.
    ConnectUnix(Arc<Path>),
    /// Answered by the gateway's resolver.
    Dns,
    /// Answered by the gateway itself (echo to its own addresses).
    Local,
    /// Told that the network cannot be reached (ICMP type 3 code 0, ICMPv6 type 1 code 0).
    Unreachable,
    /// Ignored.
    Drop,
}

/// What a port of the gateway's address leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostTarget {
    /// This port of the host's loopback address, of the flow's family.
    Loopback(u16),
    /// This unix stream socket of the host; for TCP only.
    Unix(Arc<Path>),
}

/// Ports of the gateway's address that lead to chosen places on the host,
/// whatever [`HostLoopback`] says.
#[derive(Debug, Clone, Default)]
pub struct Exposed(HashMap<(Protocol, u16), HostTarget>);

impl Exposed {
    /// Lets `port` lead to `target`; gives back what it led to before.
    pub fn insert(
        &mut self,
        protocol: Protocol,
        port: u16,
        target: HostTarget,
    ) -> Option<HostTarget> {
        self.0.insert((protocol, port), target)
    }

    /// Closes `port` again.
    pub fn remove(&mut self, protocol: Protocol, port: u16) -> Option<HostTarget> {
        self.0.remove(&(protocol, port))
    }

    /// What `port` leads to.
    #[must_use]
    pub fn get(&self, protocol: Protocol, port: u16) -> Option<&HostTarget> {
        self.0.get(&(protocol, port))
    }

    /// Ports in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when the gateway's address leads nowhere in particular.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The rules of one gateway.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The guest's network.
    pub plan: AddressPlan,
    /// What the gateway address reaches.
    pub host_loopback: HostLoopback,
    /// Ports of the gateway address that lead somewhere of their own.
    pub exposed: Exposed,
    /// Whether the resolver answers at the plan's DNS address.
    pub dns: bool,
}

impl HostLoopback {
    /// True when `port` may be reached.
    #[must_use]
    pub fn allows(&self, port: u16) -> bool {
        match self {
            Self::Closed => false,
            Self::Open => true,
            Self::Ports(ranges) => ranges.iter().any(|range| range.contains(port)),
        }
    }
}

impl Policy {
    /// Decides about a flow towards `remote`.
    #[must_use]
    pub fn verdict(&self, protocol: Protocol, remote: SocketAddr) -> Verdict {
        let addr = remote.ip();
        if self.plan.is_gateway(addr) {
            return self.towards_gateway(protocol, remote);
        }
        if self.plan.is_dns(addr) {
            return match (protocol, self.dns) {
                (Protocol::Echo, _) => Verdict::Local,
                (_, true) if remote.port() == 53 => Verdict::Dns,
                (_, true) => Verdict::Unreachable,
                (_, false) => Verdict::Drop,
            };
        }
        if self.plan.is_local(addr) {
            // Neighbours that do not exist: nobody answers, as on any network.
            return Verdict::Drop;
        }
        if is_forwardable(addr) {
            Verdict::Connect(remote)
        } else {
            Verdict::Unreachable
        }
    }

    fn towards_gateway(&self, protocol: Protocol, remote: SocketAddr) -> Verdict {
        if protocol == Protocol::Echo {
            return Verdict::Local;
        }
        let port = match self.exposed.get(protocol, remote.port()) {
            Some(HostTarget::Unix(path)) => return Verdict::ConnectUnix(Arc::clone(path)),
            Some(HostTarget::Loopback(port)) => *port,
            None if self.host_loopback.allows(remote.port()) => remote.port(),
            None => return Verdict::Unreachable,
        };
        let loopback: IpAddr = match remote {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        Verdict::Connect(SocketAddr::new(loopback, port))
    }
}

/// True when a guest may name `addr` as a destination on the host's side.
///
/// Everything that the host's kernel would take for itself without being an
/// address of its network interfaces is refused: loopback, the unspecified
/// address (which Linux treats as loopback), IPv4 in IPv6, link-local scopes.
fn is_forwardable(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => {
            let first = a.octets()[0];
            !(first == 0 || first == 127 || first >= 224)
        }
        IpAddr::V6(a) => {
            let s = a.segments();
            let embeds_ipv4 = s[..5] == [0; 5]; // ::/80: unspecified, ::1, mapped, compatible
            !(embeds_ipv4 || a.is_multicast() || s[0] & 0xffc0 == 0xfe80)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{MacAddr, Mtu, PlanV4, PlanV6};

    fn policy(host_loopback: HostLoopback, dns: bool) -> Policy {
        let plan = AddressPlan {
            v4: Some(PlanV4::new("10.0.2.0/24".parse().expect("net")).expect("plan")),
            v6: Some(PlanV6::new("fd00::/64".parse().expect("net")).expect("plan")),
            gateway_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            mtu: Mtu::ETHERNET,
        };
        Policy {
            plan,
            host_loopback,
            exposed: Exposed::default(),
            dns,
        }
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("socket address")
    }

    #[test]
    fn table() {
        use Protocol::{Echo, Tcp, Udp};
        let closed = policy(HostLoopback::Closed, true);
        let some = policy(
            HostLoopback::Ports(vec![PortRange {
                first: 8000,
                last: 8010,
            }]),
            false,
        );
        for (policy, protocol, to, verdict) in [
            (
                &closed,
                Tcp,
                "192.0.2.1:80",
                Verdict::Connect(at("192.0.2.1:80")),
            ),
            (
                &closed,
                Udp,
                "[2001:db8::1]:53",
                Verdict::Connect(at("[2001:db8::1]:53")),
            ),
            (&closed, Tcp, "10.0.2.2:80", Verdict::Unreachable),
            (&closed, Echo, "10.0.2.2:0", Verdict::Local),
            (&closed, Echo, "[fd00::3]:0", Verdict::Local),
            (&closed, Udp, "10.0.2.3:53", Verdict::Dns),
            (&closed, Tcp, "[fd00::3]:53", Verdict::Dns),
            (&closed, Tcp, "10.0.2.3:80", Verdict::Unreachable),
            (&closed, Tcp, "10.0.2.77:80", Verdict::Drop),
            (&closed, Tcp, "127.0.0.1:80", Verdict::Unreachable),
            (&closed, Tcp, "0.0.0.0:80", Verdict::Unreachable),
            (&closed, Tcp, "[::1]:80", Verdict::Unreachable),
            (&closed, Tcp, "[::]:80", Verdict::Unreachable),
            (&closed, Tcp, "[::ffff:127.0.0.1]:80", Verdict::Unreachable),
            (&closed, Tcp, "[::127.0.0.1]:80", Verdict::Unreachable),
            (&closed, Tcp, "[fe80::1]:80", Verdict::Drop),
            (&closed, Tcp, "255.255.255.255:80", Verdict::Unreachable),
            (
                &some,
                Tcp,
                "10.0.2.2:8010",
                Verdict::Connect(at("127.0.0.1:8010")),
            ),
            (
                &some,
                Tcp,
                "[fd00::2]:8000",
                Verdict::Connect(at("[::1]:8000")),
            ),
            (&some, Tcp, "10.0.2.2:8011", Verdict::Unreachable),
            (&some, Udp, "10.0.2.3:53", Verdict::Drop),
        ] {
            assert_eq!(
                policy.verdict(protocol, at(to)),
                verdict,
                "{protocol:?} {to}"
            );
        }
    }

    #[test]
    fn exposed_ports_lead_where_they_were_told() {
        let mut policy = policy(HostLoopback::Closed, true);
        let socket: Arc<Path> = Path::new("/run/x.sock").into();
        let exposed = &mut policy.exposed;
        exposed.insert(Protocol::Tcp, 80, HostTarget::Loopback(8080));
        exposed.insert(Protocol::Tcp, 81, HostTarget::Unix(Arc::clone(&socket)));
        for (protocol, to, verdict) in [
            (
                Protocol::Tcp,
                "10.0.2.2:80",
                Verdict::Connect(at("127.0.0.1:8080")),
            ),
            (
                Protocol::Tcp,
                "[fd00::2]:80",
                Verdict::Connect(at("[::1]:8080")),
            ),
            (Protocol::Tcp, "10.0.2.2:81", Verdict::ConnectUnix(socket)),
            (Protocol::Udp, "10.0.2.2:80", Verdict::Unreachable),
            (Protocol::Tcp, "10.0.2.2:8080", Verdict::Unreachable),
        ] {
            assert_eq!(policy.verdict(protocol, at(to)), verdict, "{to}");
        }
        assert!(policy.exposed.remove(Protocol::Tcp, 80).is_some());
        assert_eq!(
            policy.verdict(Protocol::Tcp, at("10.0.2.2:80")),
            Verdict::Unreachable
        );
    }
}
