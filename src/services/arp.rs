//! ARP (RFC 826) for the gateway's and the resolver's address.
//!
//! Every other address is someone else's to answer for, the guest's own above
//! all: an answer to its probe (RFC 5227) would make it give the address up.

use std::net::IpAddr;

use etherparse::{ArpEthIpv4Packet, ArpOperation, ArpPacketSlice};

use super::neighbourhood::Reason;
use crate::net::{AddressPlan, MacAddr};

/// Answers `packet`, the payload of an ARP frame: the reply's payload.
pub(super) fn answer(
    plan: &AddressPlan,
    packet: &[u8],
) -> Result<[u8; ArpEthIpv4Packet::LEN], Reason> {
    let request = parse(packet).ok_or(Reason::Malformed)?;
    let sender = IpAddr::from(request.sender_ipv4);
    let target = IpAddr::from(request.target_ipv4);
    let is_ours = |addr| plan.is_gateway(addr) || plan.is_dns(addr);
    let is_request = request.operation == ArpOperation::REQUEST;
    // A reply, or a gratuitous request (RFC 5227 section 3).
    if !is_request || sender == target {
        return Err(Reason::Announcement);
    }
    let sender_mac = MacAddr(request.sender_mac);
    if is_ours(sender) || sender_mac == plan.gateway_mac || !sender_mac.is_unicast() {
        return Err(Reason::Spoofed);
    }
    if !is_ours(target) {
        return Err(Reason::NotForGateway);
    }
    let reply = ArpEthIpv4Packet {
        operation: ArpOperation::REPLY,
        sender_mac: plan.gateway_mac.0,
        sender_ipv4: request.target_ipv4,
        target_mac: request.sender_mac,
        target_ipv4: request.sender_ipv4,
    };
    Ok(reply.to_bytes())
}

/// Takes apart what says that it is for IPv4 over Ethernet.
fn parse(packet: &[u8]) -> Option<ArpEthIpv4Packet> {
    let slice = ArpPacketSlice::from_slice(packet).ok()?;
    slice.to_packet().try_eth_ipv4().ok()
}
