//! Neighbour discovery (RFC 4861): the checks every message passes, and
//! neighbour solicitations for the gateway's addresses.

use std::net::Ipv6Addr;

use etherparse::icmpv6::{NdpOptionSlice, NdpOptionsIterator};

use super::neighbourhood::Reason;
use crate::net::{MacAddr, PlanV6};
use crate::wire::BuildError;
use crate::wire::icmp;
pub(super) use crate::wire::neighbour::solicited_node;

/// ICMPv6 types (RFC 4861 section 4).
pub(super) const ROUTER_SOLICITATION: u8 = 133;
pub(super) const ROUTER_ADVERTISEMENT: u8 = 134;
pub(super) const NEIGHBOUR_SOLICITATION: u8 = 135;
pub(super) const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
pub(super) const REDIRECT: u8 = 137;

/// Hop limit that proves a message has not been forwarded.
pub(super) const HOP_LIMIT: u8 = 255;

/// All nodes on the link.
pub(super) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// All routers on the link.
pub(super) const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// Option types (RFC 4861 section 4.6).
pub(super) const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;

/// Flags of a neighbour advertisement (RFC 4861 section 4.4).
const FLAG_ROUTER: u8 = 0x80;
const FLAG_SOLICITED: u8 = 0x40;
const FLAG_OVERRIDE: u8 = 0x20;

/// A neighbour discovery message whose hop limit, checksum and code are right.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    /// Source address.
    pub(super) src: Ipv6Addr,
    /// Destination address.
    pub(super) dst: Ipv6Addr,
    /// Everything behind the first eight bytes (which hold nothing of use).
    pub(super) body: &'a [u8],
}

/// An answer: an IPv6 packet and the station it goes to.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) to: MacAddr,
    pub(super) packet: Vec<u8>,
}

/// Answers a neighbour solicitation from the station `from`.
pub(super) fn answer(
    plan: &PlanV6,
    mac: MacAddr,
    message: Message<'_>,
    from: MacAddr,
) -> Result<Answer, Reason> {
    let (target, options) = message
        .body
        .split_first_chunk::<16>()
        .ok_or(Reason::Malformed)?;
    let target = Ipv6Addr::from(*target);
    let link_layer = source_link_layer(options)?;
    let detecting_duplicates = message.src.is_unspecified();
    // RFC 4861 section 7.1.1.
    if target.is_multicast()
        || (detecting_duplicates && (link_layer.is_some() || message.dst != solicited_node(target)))
    {
        return Err(Reason::Malformed);
    }
    if is_own(plan, message.src) {
        return Err(Reason::Spoofed);
    }
    if !is_own(plan, target) {
        return Err(Reason::NotForGateway);
    }
    let (dst, to, solicited) = if detecting_duplicates {
        // RFC 4861 section 7.2.4: to all nodes, not solicited.
        (ALL_NODES, MacAddr::for_ipv6_multicast(ALL_NODES), 0)
    } else {
        (message.src, link_layer.unwrap_or(from), FLAG_SOLICITED)
    };
    let mut body = target.octets().to_vec();
    body.extend_from_slice(&link_layer_option(TARGET_LINK_LAYER, mac));
    let flags = [FLAG_ROUTER | FLAG_OVERRIDE | solicited, 0, 0, 0];
    let packet = packet(target, dst, NEIGHBOUR_ADVERTISEMENT, flags, &body)
        .map_err(|_| Reason::Unanswerable)?;
    Ok(Answer { to, packet })
}

/// True for an address the gateway answers for.
pub(super) fn is_own(plan: &PlanV6, addr: Ipv6Addr) -> bool {
    addr == plan.gateway || addr == plan.gateway_link_local || addr == plan.dns
}

/// Checks all options; the address in the source link-layer option, if any.
pub(super) fn source_link_layer(options: &[u8]) -> Result<Option<MacAddr>, Reason> {
    let mut found = None;
    for option in NdpOptionsIterator::from_slice(options) {
        // RFC 4861 section 6.1.1: an option of length zero voids the message.
        let option = option.map_err(|_| Reason::Malformed)?;
        if let NdpOptionSlice::SourceLinkLayerAddress(address) = option {
            let bytes = address
                .link_layer_address()
                .try_into()
                .map_err(|_| Reason::Malformed)?;
            let mac = MacAddr(bytes);
            if !mac.is_unicast() {
                return Err(Reason::Malformed);
            }
            found = Some(mac);
        }
    }
    Ok(found)
}

/// A source or target link-layer address option.
pub(super) fn link_layer_option(option_type: u8, MacAddr(mac): MacAddr) -> [u8; 8] {
    let [a, b, c, d, e, f] = mac;
    [option_type, 1, a, b, c, d, e, f]
}

/// A neighbour discovery packet: hop limit 255, code 0.
pub(super) fn packet(
    src: Ipv6Addr,
    dst: Ipv6Addr,
    icmp_type: u8,
    rest: [u8; 4],
    body: &[u8],
) -> Result<Vec<u8>, BuildError> {
    icmp::v6_message(src, dst, HOP_LIMIT, [icmp_type, 0], rest, body)
}
