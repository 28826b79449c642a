//! Asking for a station's hardware address: ARP (RFC 826) and neighbour
//! solicitation (RFC 4861 section 4.3), as whole frames.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{ArpEthIpv4Packet, ArpOperation, ArpPacketSlice, EtherType};

use super::{ethernet, icmp};
use crate::net::MacAddr;

/// ICMPv6 type of a neighbour solicitation and its code.
const NEIGHBOUR_SOLICITATION: [u8; 2] = [135, 0];

/// Hop limit that proves a message has not been forwarded (RFC 4861 section 7.1.1).
const HOP_LIMIT: u8 = 255;

/// Option with the sender's hardware address, of eight bytes (RFC 4861 section 4.6.1).
const SOURCE_LINK_LAYER: [u8; 2] = [1, 1];

/// A frame that asks for `target`'s hardware address on behalf of the station
/// `mac` with the address `sender`.
///
/// `None` when the addresses differ in IP version.
#[must_use]
pub fn query(mac: MacAddr, sender: IpAddr, target: IpAddr) -> Option<Vec<u8>> {
    match (sender, target) {
        (IpAddr::V4(sender), IpAddr::V4(target)) => Some(arp_request(mac, sender, target)),
        (IpAddr::V6(sender), IpAddr::V6(target)) => solicitation(mac, sender, target),
        _ => None,
    }
}

fn arp_request(mac: MacAddr, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let request = ArpEthIpv4Packet {
        operation: ArpOperation::REQUEST,
        sender_mac: mac.0,
        sender_ipv4: sender.octets(),
        target_mac: [0; 6],
        target_ipv4: target.octets(),
    };
    let everybody = MacAddr([0xff; 6]);
    ethernet::frame(everybody, mac, EtherType::ARP, &request.to_bytes())
}

fn solicitation(mac: MacAddr, sender: Ipv6Addr, target: Ipv6Addr) -> Option<Vec<u8>> {
    let group = solicited_node(target);
    let mut body = target.octets().to_vec();
    body.extend_from_slice(&SOURCE_LINK_LAYER);
    body.extend_from_slice(&mac.0);
    let kind = NEIGHBOUR_SOLICITATION;
    // Always fits: it is 64 bytes long.
    let packet = icmp::v6_message(sender, group, HOP_LIMIT, kind, [0; 4], &body).ok()?;
    let to = MacAddr::for_ipv6_multicast(group);
    Some(ethernet::frame(to, mac, EtherType::IPV6, &packet))
}

/// The solicited-node group of `addr` (RFC 4291 section 2.7.1).
#[must_use]
pub fn solicited_node(addr: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = addr.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | (high & 0xff), low)
}

/// Who sent an ARP packet, the payload of a frame: requests, replies and
/// announcements all say it.
#[must_use]
pub fn arp_sender(packet: &[u8]) -> Option<(Ipv4Addr, MacAddr)> {
    let slice = ArpPacketSlice::from_slice(packet).ok()?;
    let arp = slice.to_packet().try_eth_ipv4().ok()?;
    Some((arp.sender_ipv4.into(), MacAddr(arp.sender_mac)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    #[test]
    fn an_arp_query_asks_everybody() {
        let (sender, target) = (Ipv4Addr::new(10, 0, 2, 2), Ipv4Addr::new(10, 0, 2, 100));
        let frame = query(MAC, sender.into(), target.into()).expect("one family");
        assert_eq!(frame[..6], [0xff; 6]);
        let packet = SlicedPacket::from_ethernet(&frame).expect("well-formed");
        let Some(NetSlice::Arp(arp)) = packet.net else {
            panic!("no ARP");
        };
        let arp = arp.to_packet().try_eth_ipv4().expect("IPv4");
        assert_eq!(arp.operation, ArpOperation::REQUEST);
        assert_eq!(Ipv4Addr::from(arp.target_ipv4), target);
        assert_eq!(arp_sender(&frame[14..]), Some((sender, MAC)));
    }

    #[test]
    fn a_solicitation_goes_to_the_group_and_says_who_asks() {
        let sender: Ipv6Addr = "fe80::2".parse().expect("address");
        let target: Ipv6Addr = "fd00::1:2:3456:789a".parse().expect("address");
        let frame = query(MAC, sender.into(), target.into()).expect("one family");
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x56, 0x78, 0x9a]);
        let packet = SlicedPacket::from_ethernet(&frame).expect("well-formed");
        let (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(message))) =
            (packet.net, packet.transport)
        else {
            panic!("no ICMPv6");
        };
        let header = ip.header();
        assert_eq!(header.destination_addr(), solicited_node(target));
        assert_eq!(header.hop_limit(), 255);
        assert!(message.is_checksum_valid(header.source(), header.destination()));
        let bytes = message.slice();
        assert_eq!(bytes[0], 135);
        assert_eq!(bytes[8..24], target.octets());
        assert_eq!(bytes[24..32], [1, 1, 2, 0, 0, 0, 0, 2]);
    }

    #[test]
    fn families_do_not_mix() {
        let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
        assert_eq!(query(MAC, v4, v6), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_as_arp_without_harm(bytes: Vec<u8>) {
            let _ = arp_sender(&bytes);
        }
    }
}
