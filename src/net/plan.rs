//! Who has which address on the guest's network.
//!
//! The layout is the one every tool of this field uses, so that scripts and
//! engines can compute it: in a network such as `10.0.2.0/24` the gateway is
//! `.2`, the resolver `.3`, the first DHCP lease `.15` and a statically
//! configured guest `.100`; likewise `fd00::2`, `fd00::3` and `fd00::100`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::{MacAddr, Mtu};

/// The addresses on the guest's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressPlan {
    /// IPv4 side; `None` when switched off.
    pub v4: Option<PlanV4>,
    /// IPv6 side; `None` when switched off.
    pub v6: Option<PlanV6>,
    /// The gateway's own Ethernet address.
    pub gateway_mac: MacAddr,
    /// The link's MTU.
    pub mtu: Mtu,
}

/// The gateway's Ethernet address on a network: the same whenever it is started, so
/// that guests who outlive it need not learn another, and two gateways on one wire
/// differ as their IP addresses do. `52:55:` and the IPv4 address; without IPv4
/// `52:56:` and four bytes of the IPv6 network.
#[must_use]
pub fn gateway_mac(v4: Option<&PlanV4>, v6: Option<&PlanV6>) -> MacAddr {
    let v6 = || {
        let prefix = v6.map_or([0; 16], |plan| plan.gateway.octets());
        [0x52, 0x56, prefix[0], prefix[1], prefix[6], prefix[7]]
    };
    let bytes = v4.map_or_else(v6, |plan| {
        let [a, b, c, d] = plan.gateway.octets();
        [0x52, 0x55, a, b, c, d]
    });
    MacAddr(bytes)
}

/// IPv4 part of an [`AddressPlan`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanV4 {
    /// The network, truncated to its prefix.
    pub net: Ipv4Net,
    /// The gateway, host 2 of the network.
    pub gateway: Ipv4Addr,
    /// The resolver, host 3 of the network.
    pub dns: Ipv4Addr,
    /// First address that DHCP hands out, host 15.
    pub dhcp_first: Ipv4Addr,
    /// Addresses that DHCP hands out, from that one on. Default 64: as many
    /// guests as one host runs, and below [`PlanV4::guest`].
    pub dhcp_count: u8,
    /// The guest when configured statically, host 100.
    pub guest: Ipv4Addr,
}

/// IPv6 part of an [`AddressPlan`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanV6 {
    /// The network, truncated to its prefix.
    pub net: Ipv6Net,
    /// The gateway, `::2`.
    pub gateway: Ipv6Addr,
    /// The gateway's link-local address, `fe80::2`: source of router advertisements.
    pub gateway_link_local: Ipv6Addr,
    /// The resolver, `::3`.
    pub dns: Ipv6Addr,
    /// The guest when configured statically, `::100`.
    pub guest: Ipv6Addr,
}

/// A network that no address plan fits into.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The text has host bits set.
    #[error("'{given}' is a host address; write the network address, {network}")]
    NotANetwork {
        /// What was given.
        given: String,
        /// The network it lies in.
        network: String,
    },
    /// The prefix leaves no room for the guest at host 100, or is 0.
    #[error("a prefix length of {0} does not fit; choose 1 to 25 for IPv4")]
    PrefixV4(u8),
    /// SLAAC needs a /64 (RFC 4862).
    #[error("a prefix length of {0} does not fit; SLAAC needs 64 for IPv6")]
    PrefixV6(u8),
    /// Not a unicast network.
    #[error(
        "'{0}' is not a network guests can have; choose a private one, such as 10.0.2.0/24 or fd00::/64"
    )]
    NotUnicast(String),
}

impl PlanV4 {
    /// Lays the plan out in `net`.
    ///
    /// # Errors
    /// When the prefix is not 1..=25, host bits are set, or the network is
    /// multicast, loopback or reserved.
    pub fn new(net: Ipv4Net) -> Result<Self, PlanError> {
        if !(1..=25).contains(&net.prefix_len()) {
            return Err(PlanError::PrefixV4(net.prefix_len()));
        }
        if net.trunc() != net {
            return Err(PlanError::NotANetwork {
                given: net.to_string(),
                network: net.trunc().to_string(),
            });
        }
        let base = net.network();
        if base.is_multicast()
            || base.is_loopback()
            || base.is_unspecified()
            || base.octets()[0] >= 240
        {
            return Err(PlanError::NotUnicast(net.to_string()));
        }
        let host = |n: u32| Ipv4Addr::from(u32::from(base) + n);
        Ok(Self {
            net,
            gateway: host(2),
            dns: host(3),
            dhcp_first: host(15),
            dhcp_count: 64,
            guest: host(100),
        })
    }
}

impl PlanV6 {
    /// Lays the plan out in `net`.
    ///
    /// # Errors
    /// When the prefix is not 64, host bits are set, or the network is
    /// multicast, link-local, loopback or unspecified.
    pub fn new(net: Ipv6Net) -> Result<Self, PlanError> {
        if net.prefix_len() != 64 {
            return Err(PlanError::PrefixV6(net.prefix_len()));
        }
        if net.trunc() != net {
            return Err(PlanError::NotANetwork {
                given: net.to_string(),
                network: net.trunc().to_string(),
            });
        }
        let base = net.network();
        let first = base.segments()[0];
        // 0000::/8 holds ::1, the unspecified address and the IPv4-mapped range.
        if base.is_multicast() || first & 0xffc0 == 0xfe80 || first & 0xff00 == 0 {
            return Err(PlanError::NotUnicast(net.to_string()));
        }
        let host = |n: u128| Ipv6Addr::from(u128::from(base) + n);
        Ok(Self {
            net,
            gateway: host(2),
            gateway_link_local: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2),
            dns: host(3),
            guest: host(0x100),
        })
    }
}

impl AddressPlan {
    /// True when `addr` is the gateway's (not the resolver's).
    #[must_use]
    pub fn is_gateway(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(a) => self.v4.is_some_and(|p| p.gateway == a),
            IpAddr::V6(a) => self
                .v6
                .is_some_and(|p| p.gateway == a || p.gateway_link_local == a),
        }
    }

    /// The gateway's address of the same family as `other`; `None` when that
    /// family is switched off.
    #[must_use]
    pub fn gateway_beside(&self, other: IpAddr) -> Option<IpAddr> {
        match other {
            IpAddr::V4(_) => self.v4.map(|p| p.gateway.into()),
            IpAddr::V6(_) => self.v6.map(|p| p.gateway.into()),
        }
    }

    /// True when `addr` is the resolver's.
    #[must_use]
    pub fn is_dns(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(a) => self.v4.is_some_and(|p| p.dns == a),
            IpAddr::V6(a) => self.v6.is_some_and(|p| p.dns == a),
        }
    }

    /// True when `addr` lies in the guest's network (or is link-local, IPv6).
    #[must_use]
    pub fn is_local(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(a) => self.v4.is_some_and(|p| p.net.contains(&a)),
            IpAddr::V6(a) => self
                .v6
                .is_some_and(|p| p.net.contains(&a) || a.segments()[0] & 0xffc0 == 0xfe80),
        }
    }

    /// True when a guest may use `addr` as its source: unicast, in the guest's
    /// network, and none of the gateway's own.
    #[must_use]
    pub fn is_guest(&self, addr: IpAddr) -> bool {
        if !self.is_local(addr) || self.is_gateway(addr) || self.is_dns(addr) {
            return false;
        }
        match addr {
            IpAddr::V4(a) => self
                .v4
                .is_some_and(|p| a != p.net.network() && a != p.net.broadcast()),
            IpAddr::V6(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_layout_is_what_the_field_expects() {
        let v4 = PlanV4::new("10.0.2.0/24".parse().expect("net")).expect("plan");
        assert_eq!(v4.gateway, Ipv4Addr::new(10, 0, 2, 2));
        assert_eq!(v4.dns, Ipv4Addr::new(10, 0, 2, 3));
        assert_eq!(v4.dhcp_first, Ipv4Addr::new(10, 0, 2, 15));
        assert_eq!(v4.guest, Ipv4Addr::new(10, 0, 2, 100));
        let v6 = PlanV6::new("fd00::/64".parse().expect("net")).expect("plan");
        assert_eq!(v6.gateway.to_string(), "fd00::2");
        assert_eq!(v6.dns.to_string(), "fd00::3");
        assert_eq!(v6.guest.to_string(), "fd00::100");
    }

    #[test]
    fn the_gateways_hardware_address_is_that_of_its_network() {
        let v4 = |net: &str| PlanV4::new(net.parse().expect("net")).expect("plan");
        let v6 = PlanV6::new("fd12:3456:789a:1::/64".parse().expect("net")).expect("plan");
        let mac = |v4: Option<PlanV4>| gateway_mac(v4.as_ref(), Some(&v6)).to_string();
        assert_eq!(mac(Some(v4("10.0.2.0/24"))), "52:55:0a:00:02:02");
        assert_eq!(mac(Some(v4("10.0.3.0/24"))), "52:55:0a:00:03:02");
        assert_eq!(mac(None), "52:56:fd:12:00:01");
        assert!(gateway_mac(None, None).is_unicast());
    }

    #[test]
    fn networks_without_room_are_refused() {
        for net in [
            "10.0.2.0/26",
            "10.0.2.100/24",
            "127.0.0.0/8",
            "224.0.0.0/24",
            "240.0.0.0/24",
            "0.0.0.0/0",
        ] {
            assert!(PlanV4::new(net.parse().expect("net")).is_err(), "{net}");
        }
        for net in ["fd00::/48", "fd00::1/64", "fe80::/64", "ff02::/64", "::/64"] {
            assert!(PlanV6::new(net.parse().expect("net")).is_err(), "{net}");
        }
    }
}
