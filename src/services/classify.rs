//! The first look at a frame: is it one the gateway answers itself?
//!
//! Every packet of the guest passes here, so only the few bytes that decide are
//! read, at fixed places; nothing is verified. Whoever takes the packet does that.

use etherparse::IpNumber;

use super::{dhcp, dhcpv6, ndp};

/// ICMPv6 types of multicast listener discovery (RFC 3810 section 5, RFC 2710).
const MLD_TYPES: [u8; 4] = [130, 131, 132, 143];

/// What of IPv4 is answered here.
pub(super) enum Own4 {
    Dhcp,
    Membership,
}

/// Looks at protocol and port of an IPv4 packet, nothing else.
#[inline]
pub(super) fn classify_v4(packet: &[u8]) -> Option<Own4> {
    let header: &[u8; 20] = packet.first_chunk()?;
    match IpNumber(header[9]) {
        IpNumber::UDP => {
            let is_fragment = header[6] & 0x3f != 0 || header[7] != 0;
            let transport = usize::from(header[0] & 0x0f) * 4;
            (!is_fragment && has_port(packet, transport, dhcp::SERVER_PORT)).then_some(Own4::Dhcp)
        }
        IpNumber::IGMP => Some(Own4::Membership),
        _ => None,
    }
}

/// What of IPv6 is answered here.
pub(super) enum Own6 {
    /// Neighbour or router discovery, with its ICMPv6 type.
    Discovery(u8),
    Dhcp,
    Membership,
}

/// Looks at next header, type and port of an IPv6 packet, nothing else.
///
/// Discovery behind extension headers or in fragments is not taken (RFC 6980).
#[inline]
pub(super) fn classify_v6(packet: &[u8]) -> Option<Own6> {
    let (header, rest) = packet.split_first_chunk::<40>()?;
    match IpNumber(header[6]) {
        IpNumber::IPV6_ICMP => match *rest.first()? {
            icmp_type @ ndp::ROUTER_SOLICITATION..=ndp::REDIRECT => {
                Some(Own6::Discovery(icmp_type))
            }
            _ => None,
        },
        IpNumber::UDP => has_port(packet, 40, dhcpv6::SERVER_PORT).then_some(Own6::Dhcp),
        // A listener report comes behind a hop-by-hop header of eight bytes.
        IpNumber::IPV6_HEADER_HOP_BY_HOP => {
            let is_icmp =
                IpNumber(*rest.first()?) == IpNumber::IPV6_ICMP && rest.get(1) == Some(&0);
            (is_icmp && MLD_TYPES.contains(rest.get(8)?)).then_some(Own6::Membership)
        }
        _ => None,
    }
}

/// True when the UDP header at `offset` has this destination port.
#[inline]
fn has_port(packet: &[u8], offset: usize, port: u16) -> bool {
    packet.get(offset + 2..offset + 4) == Some(&port.to_be_bytes()[..])
}
