//! Tests of whole frames: what is answered, how, and what is left alone.

use std::net::Ipv6Addr;

use dhcproto::v6::{DhcpOption, Message, MessageType, OptionCode};
use dhcproto::{Decodable, Encodable};
use etherparse::icmpv6::NdpOptionsIterator;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;
use crate::net::Mtu;
use crate::wire::icmp;

mod advertisements;
mod arp;
mod dhcpv6;
mod discovery;
mod fuzz;
mod interop;
mod others;

const GATEWAY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const GUEST_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
const OTHER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x77]);
const ALL_ROUTERS: Ipv6Addr = ndp::ALL_ROUTERS;

pub(super) fn plan() -> AddressPlan {
    AddressPlan {
        v4: Some(PlanV4::new("10.0.2.0/24".parse().expect("net")).expect("plan")),
        v6: Some(PlanV6::new("fd00::/64".parse().expect("net")).expect("plan")),
        gateway_mac: GATEWAY_MAC,
        mtu: Mtu::ETHERNET,
    }
}

fn config(search: &[&str]) -> NeighbourhoodConfig {
    let search = search.iter().map(|s| (*s).to_owned()).collect();
    NeighbourhoodConfig {
        search,
        ..NeighbourhoodConfig::new(plan())
    }
}

/// A neighbourhood and a clock.
struct Bench {
    gateway: Neighbourhood,
    now: Instant,
}

impl Bench {
    fn new(config: NeighbourhoodConfig) -> Self {
        let now = Instant::now();
        Self {
            gateway: Neighbourhood::new(config, now),
            now,
        }
    }

    fn handle(&mut self, frame: &[u8]) -> (Handled, Vec<Vec<u8>>) {
        let mut out = Vec::new();
        let handled = self
            .gateway
            .handle(self.now, frame, TransportChecksum::Verify, &mut out);
        assert_eq!(
            handled == Handled::Answered,
            out.len() == 1,
            "{handled:?}: {out:?}"
        );
        (handled, out)
    }

    /// The one answer to `frame`, its checksums checked.
    fn answer(&mut self, frame: &[u8]) -> Vec<u8> {
        let (handled, mut out) = self.handle(frame);
        let answer = out
            .pop()
            .unwrap_or_else(|| panic!("no answer: {handled:?}"));
        assert_well_formed(&answer);
        answer
    }

    fn ignored(&mut self, frame: &[u8]) -> Reason {
        match self.handle(frame).0 {
            Handled::Ignored(reason) => reason,
            other => panic!("not ignored: {other:?}"),
        }
    }

    /// Advances to the next deadline; the advertisement sent then.
    fn next_advertisement(&mut self) -> (Duration, Vec<u8>) {
        let deadline = self.gateway.next_deadline().expect("advertisements");
        let waited = deadline.saturating_duration_since(self.now);
        self.now = self.now.max(deadline);
        let mut out = Vec::new();
        self.gateway.poll(self.now, &mut out);
        let frame = out.pop().expect("an advertisement is due");
        assert!(out.is_empty());
        assert_well_formed(&frame);
        (waited, frame)
    }
}

/// Checks an answer's headers and checksums with an independent parser.
fn assert_well_formed(frame: &[u8]) {
    let sliced = SlicedPacket::from_ethernet(frame).expect("well-formed");
    assert_eq!(frame[6..12], GATEWAY_MAC.0, "comes from the gateway");
    match (&sliced.net, &sliced.transport) {
        (Some(NetSlice::Arp(_)), None) => {}
        (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(found))) => {
            let header = ip.header().to_header();
            assert_eq!(header.calc_header_checksum(), header.header_checksum);
            let sum = found
                .to_header()
                .calc_checksum_ipv4(&header, found.payload());
            assert_eq!(sum, Ok(found.checksum()));
        }
        (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Udp(found))) => {
            let header = ip.header().to_header();
            let sum = found
                .to_header()
                .calc_checksum_ipv6(&header, found.payload());
            assert_eq!(sum, Ok(found.checksum()));
        }
        (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(found))) => {
            assert!(found.is_checksum_valid(ip.header().source(), ip.header().destination()));
            assert_eq!(ip.header().hop_limit(), 255);
        }
        other => panic!("not an answer of ours: {other:?}"),
    }
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().expect("address")
}

/// An ARP request from the guest's station.
fn arp_request(sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1];
    packet.extend_from_slice(&GUEST_MAC.0);
    packet.extend_from_slice(&sender);
    packet.extend_from_slice(&[0; 6]);
    packet.extend_from_slice(&target);
    ethernet::frame(MacAddr::BROADCAST, GUEST_MAC, EtherType::ARP, &packet)
}

/// A neighbour solicitation from the guest's station.
fn solicitation(src: &str, dst: Ipv6Addr, target: &str, options: &[u8]) -> Vec<u8> {
    let mut body = v6(target).octets().to_vec();
    body.extend_from_slice(options);
    discovery(v6(src), dst, 255, 135, &body)
}

fn discovery(src: Ipv6Addr, dst: Ipv6Addr, hops: u8, kind: u8, body: &[u8]) -> Vec<u8> {
    let packet = icmp::v6_message(src, dst, hops, [kind, 0], [0; 4], body).expect("fits");
    let to = if dst.is_multicast() {
        MacAddr::for_ipv6_multicast(dst)
    } else {
        GATEWAY_MAC
    };
    ethernet::frame(to, GUEST_MAC, EtherType::IPV6, &packet)
}

const OWN: [&str; 3] = ["fd00::2", "fe80::2", "fd00::3"];
const SOURCE_OPTION: [u8; 8] = [1, 1, 2, 0, 0, 0, 0, 9];

/// Destination, ICMPv6 bytes 4 to 8 and payload of a discovery answer.
fn take_apart(frame: &[u8]) -> (Ipv6Addr, Ipv6Addr, [u8; 4], Vec<u8>) {
    let sliced = SlicedPacket::from_ethernet(frame).expect("well-formed");
    let (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(found))) =
        (&sliced.net, &sliced.transport)
    else {
        panic!("not ICMPv6: {sliced:?}");
    };
    let (src, dst) = (ip.header().source_addr(), ip.header().destination_addr());
    (src, dst, found.bytes5to8(), found.payload().to_vec())
}

fn gateway_solicitation() -> Vec<u8> {
    solicitation(
        "fe80::9",
        ndp::solicited_node(v6("fd00::2")),
        "fd00::2",
        &SOURCE_OPTION,
    )
}

fn router_solicitation(src: &str, options: &[u8]) -> Vec<u8> {
    discovery(v6(src), ALL_ROUTERS, 255, 133, options)
}

fn dhcpv6_frame(dst: &str, message: &[u8]) -> Vec<u8> {
    let from = SocketAddr::new(v6("fe80::9").into(), 546);
    let to = SocketAddr::new(v6(dst).into(), 547);
    let packet = udp::datagram(from, to, 1, message).expect("fits");
    let station = if v6(dst).is_multicast() {
        MacAddr::for_ipv6_multicast(v6(dst))
    } else {
        GATEWAY_MAC
    };
    ethernet::frame(station, GUEST_MAC, EtherType::IPV6, &packet)
}

fn information_request(options: impl IntoIterator<Item = DhcpOption>) -> Vec<u8> {
    let mut message = Message::new_with_id(MessageType::InformationRequest, [1, 2, 3]);
    message.set_opts(options.into_iter().collect());
    message.to_vec().expect("encodes")
}

fn udp_frame(src: &str, dst: &str) -> Vec<u8> {
    let packet = udp::datagram(
        src.parse().expect("src"),
        dst.parse().expect("dst"),
        64,
        b"hello",
    );
    let ethertype = if dst.starts_with('[') {
        EtherType::IPV6
    } else {
        EtherType::IPV4
    };
    ethernet::frame(GATEWAY_MAC, GUEST_MAC, ethertype, &packet.expect("fits"))
}
