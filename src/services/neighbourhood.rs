//! The gateway as a neighbour: what it answers on the guest's link by itself.
//!
//! # Theory of operation
//! [`Neighbourhood::handle`] sees every frame from the guest before the stack
//! does. It first looks, at fixed places, whether the frame is one of
//!
//! - ARP;
//! - IPv4: a datagram to port 67 (DHCP), IGMP;
//! - IPv6: neighbour and router discovery, multicast listener reports, a datagram
//!   to port 547 (DHCPv6);
//!
//! and leaves everything else alone ([`Handled::NotMine`]) after a few
//! comparisons. What is its own is then checked in full and answered by whole
//! Ethernet frames, or ignored for a named [`Reason`], which the caller counts.
//!
//! The only timer is that of the periodic router advertisements: the caller
//! calls [`Neighbourhood::poll`] at [`Neighbourhood::next_deadline`].
//!
//! ```
//! # use std::time::Instant;
//! # use gw::net::{AddressPlan, Mtu, PlanV4};
//! use gw::services::neighbourhood::{Handled, Neighbourhood, NeighbourhoodConfig, TransportChecksum};
//!
//! # let net = "10.0.2.0/24".parse().expect("a network");
//! let plan = AddressPlan {
//!     v4: Some(PlanV4::new(net).expect("a plan")),
//!     v6: None,
//!     gateway_mac: "02:00:00:00:00:02".parse().expect("an address"),
//!     mtu: Mtu::ETHERNET,
//! };
//! let now = Instant::now();
//! let mut gateway = Neighbourhood::new(NeighbourhoodConfig::new(plan), now);
//! // Who has 10.0.2.2? Tell 10.0.2.15.
//! let request = [
//!     [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, 0x08, 0x06].as_slice(),
//!     &[0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 10, 0, 2, 15],
//!     &[0, 0, 0, 0, 0, 0, 10, 0, 2, 2],
//! ]
//! .concat();
//! let mut out = Vec::new();
//! let handled = gateway.handle(now, &request, TransportChecksum::Verify, &mut out);
//! assert_eq!((handled, out.len()), (Handled::Answered, 1));
//! ```
//!
//! State is bounded: sixteen leases and one search list. Each frame causes at most
//! one answer, and none that is much longer than what a guest may ask for anyway,
//! so nothing here limits rates but multicast advertisements.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use etherparse::{EtherType, IpNumber, Ipv4Slice, Ipv6Slice, UdpSlice};

use super::classify::{Own4, Own6, classify_v4, classify_v6};
pub use super::dhcp::Lease;
use super::dhcp::{self, Outcome};
use super::ra::{Advertiser, Solicited};
use super::search::SearchList;
use super::{arp, dhcpv6, ndp};
use crate::net::{AddressPlan, MacAddr, PlanV4, PlanV6};
use crate::wire::ethernet::{self, Frame};
use crate::wire::{checksum, udp};

/// Default of [`NeighbourhoodConfig::lease_time`]: one day.
pub const DEFAULT_LEASE_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Longest lease that has an end: the protocol's 32 bits of seconds, all ones
/// meaning "for ever" (RFC 2131 section 3.3).
const MAX_LEASE_TIME: Duration = Duration::from_secs(u32::MAX as u64 - 1);

/// Time to live of datagrams to guests on the link.
const TTL: u8 = 64;

/// Settings of a [`Neighbourhood`].
#[derive(Debug, Clone)]
pub struct NeighbourhoodConfig {
    /// Addresses, MTU and the gateway's MAC. An IP version that is off in the
    /// plan is not served.
    pub plan: AddressPlan,
    /// Whether guests are told the plan's resolver.
    pub announce_dns: bool,
    /// Search domains told to guests, in order. Names that are not letters,
    /// digits, hyphens and underscores, repeated ones, and what exceeds 32 names
    /// or 960 bytes are left out. Empty: none.
    pub search: Vec<String>,
    /// Longest DHCP lease granted, cut to the 136 years that the protocol can
    /// tell. Default [`DEFAULT_LEASE_TIME`].
    pub lease_time: Duration,
}

impl NeighbourhoodConfig {
    /// The defaults for `plan`: the resolver announced, no search domains, leases
    /// of a day.
    #[must_use]
    pub const fn new(plan: AddressPlan) -> Self {
        Self {
            plan,
            announce_dns: true,
            search: Vec::new(),
            lease_time: DEFAULT_LEASE_TIME,
        }
    }
}

/// The configuration in the form the services use.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) plan: AddressPlan,
    pub(super) announce_dns: bool,
    pub(super) search: SearchList,
    pub(super) lease_time: Duration,
}

/// Whether a frame's transport checksum is to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportChecksum {
    /// It is complete in the frame and must be right.
    Verify,
    /// The link vouches for it; the field may hold anything (a checksum left to
    /// offload, virtio's `NEEDS_CSUM` or `DATA_VALID`).
    Vouched,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handled {
    /// An answer was pushed.
    Answered,
    /// It took effect; no answer is due, or the answer comes from
    /// [`Neighbourhood::poll`].
    Accepted,
    /// It was for this module, and nothing happens.
    Ignored(Reason),
    /// It is for someone else: the stack.
    NotMine,
}

/// Why a frame was ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Reason {
    /// Cut short or against its protocol's rules.
    Malformed,
    /// A checksum is wrong.
    BadChecksum,
    /// About an address that is not the gateway's.
    NotForGateway,
    /// The sender uses an address of the gateway.
    Spoofed,
    /// Tells about its sender (gratuitous ARP, neighbour advertisement) or
    /// pretends to be a router.
    Announcement,
    /// Multicast group membership.
    Membership,
    /// A DHCP message for another server.
    OtherServer,
    /// A DHCP message through a relay.
    Relayed,
    /// A DHCPv6 message that asks for addresses.
    Stateless,
    /// All DHCP leases are taken.
    NoFreeAddress,
    /// A release or decline of an address the client does not have.
    NoSuchLease,
    /// A kind of message that is not served, such as BOOTP.
    Unsupported,
    /// The answer could not be built.
    Unanswerable,
}

impl Reason {
    /// A name for counters and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::BadChecksum => "bad-checksum",
            Self::NotForGateway => "not-for-gateway",
            Self::Spoofed => "spoofed",
            Self::Announcement => "announcement",
            Self::Membership => "membership",
            Self::OtherServer => "other-dhcp-server",
            Self::Relayed => "relayed-dhcp",
            Self::Stateless => "stateful-dhcpv6",
            Self::NoFreeAddress => "no-free-lease",
            Self::NoSuchLease => "no-such-lease",
            Self::Unsupported => "unsupported",
            Self::Unanswerable => "unanswerable",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The gateway's answers on the guest's link.
#[derive(Debug)]
pub struct Neighbourhood {
    settings: Settings,
    v4: Option<(PlanV4, dhcp::Server)>,
    v6: Option<(PlanV6, Advertiser)>,
}

impl Neighbourhood {
    /// Starts at `now`; the first router advertisement is due at once.
    #[must_use]
    pub fn new(config: NeighbourhoodConfig, now: Instant) -> Self {
        let NeighbourhoodConfig {
            plan,
            announce_dns,
            search,
            lease_time,
        } = config;
        let search = SearchList::new(&search);
        let lease_time = lease_time.min(MAX_LEASE_TIME);
        let settings = Settings {
            plan,
            announce_dns,
            search,
            lease_time,
        };
        let v4 = settings
            .plan
            .v4
            .map(|plan| (plan, dhcp::Server::new(&settings, &plan)));
        let mac = settings.plan.gateway_mac;
        let v6 = settings
            .plan
            .v6
            .map(|plan| (plan, Advertiser::new(mac, now)));
        Self { settings, v4, v6 }
    }

    /// Takes in a whole Ethernet frame from the guest; an answer, a whole frame
    /// too, is pushed on `out`.
    pub fn handle(
        &mut self,
        now: Instant,
        frame: &[u8],
        sum: TransportChecksum,
        out: &mut Vec<Vec<u8>>,
    ) -> Handled {
        let Some(frame) = Frame::parse(frame) else {
            return Handled::NotMine;
        };
        let done = match frame.ethertype {
            EtherType::ARP => self.arp(&frame, out),
            EtherType::IPV4 => match classify_v4(frame.payload) {
                Some(Own4::Dhcp) => self.dhcp(now, &frame, sum, out),
                Some(Own4::Membership) => Err(Reason::Membership),
                None => return Handled::NotMine,
            },
            EtherType::IPV6 => match classify_v6(frame.payload) {
                Some(Own6::Discovery(icmp_type)) => {
                    self.discovery(now, &frame, icmp_type, sum, out)
                }
                Some(Own6::Dhcp) => self.dhcpv6(&frame, sum, out),
                Some(Own6::Membership) => Err(Reason::Membership),
                None => return Handled::NotMine,
            },
            _ => return Handled::NotMine,
        };
        done.unwrap_or_else(Handled::Ignored)
    }

    /// Pushes the router advertisement that is due by `now`, if any.
    pub fn poll(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        let Some((plan, advertiser)) = &mut self.v6 else {
            return;
        };
        if advertiser.deadline() > now {
            return;
        }
        if let Ok(packet) = advertiser.packet(&self.settings, plan, ndp::ALL_NODES) {
            let to = MacAddr::for_ipv6_multicast(ndp::ALL_NODES);
            out.push(self.settings.frame(to, EtherType::IPV6, &packet));
        }
        advertiser.multicast_sent(now);
    }

    /// When [`Self::poll`] has something to do next; `None`: never.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.v6
            .as_ref()
            .map(|(_, advertiser)| advertiser.deadline())
    }

    /// Changes the search list: guests that use router advertisements hear of
    /// it within seconds ([`Self::next_deadline`] moves), the others when they
    /// renew their lease or ask.
    pub fn set_search(&mut self, search: &[String]) {
        let search = SearchList::new(search);
        if search == self.settings.search {
            return;
        }
        if let Some((_, advertiser)) = &mut self.v6 {
            advertiser.search_changed(&self.settings.search, &search);
        }
        self.settings.search = search;
    }

    /// The DHCP leases given, by address; compare [`Lease::expires`] with the
    /// time, since those that ran out stay until their address is needed.
    pub fn leases(&self) -> impl Iterator<Item = Lease> + '_ {
        self.v4.iter().flat_map(|(_, server)| server.leases())
    }

    fn arp(&self, frame: &Frame<'_>, out: &mut Vec<Vec<u8>>) -> Result<Handled, Reason> {
        self.settings.check_stations(frame)?;
        let reply = arp::answer(&self.settings.plan, frame.payload)?;
        out.push(self.settings.frame(frame.src, EtherType::ARP, &reply));
        Ok(Handled::Answered)
    }

    fn dhcp(
        &mut self,
        now: Instant,
        frame: &Frame<'_>,
        sum: TransportChecksum,
        out: &mut Vec<Vec<u8>>,
    ) -> Result<Handled, Reason> {
        let Some((plan, server)) = &mut self.v4 else {
            return Ok(Handled::NotMine);
        };
        let packet = Ipv4Slice::from_slice(frame.payload).map_err(|_| Reason::Malformed)?;
        let header = packet.header();
        let (src, dst) = (header.source_addr(), header.destination_addr());
        if dst != Ipv4Addr::BROADCAST && dst != plan.gateway && dst != plan.net.broadcast() {
            // Some other network's server, beyond the gateway.
            return Ok(Handled::NotMine);
        }
        self.settings.check_stations(frame)?;
        if !checksum::Sum::new().bytes(header.slice()).is_valid() {
            return Err(Reason::BadChecksum);
        }
        if src == plan.gateway || src == plan.dns {
            return Err(Reason::Spoofed);
        }
        let message = udp_payload(packet.payload().payload, src.into(), dst.into(), sum)?;
        let reply = match server.handle(now, &self.settings, plan, message)? {
            Outcome::Noted => return Ok(Handled::Accepted),
            Outcome::Reply(reply) => reply,
        };
        let from = SocketAddr::new(plan.gateway.into(), dhcp::SERVER_PORT);
        let to = SocketAddr::new(reply.to.into(), dhcp::CLIENT_PORT);
        let packet =
            udp::datagram(from, to, TTL, &reply.message).map_err(|_| Reason::Unanswerable)?;
        out.push(self.settings.frame(reply.station, EtherType::IPV4, &packet));
        Ok(Handled::Answered)
    }

    fn discovery(
        &mut self,
        now: Instant,
        frame: &Frame<'_>,
        icmp_type: u8,
        sum: TransportChecksum,
        out: &mut Vec<Vec<u8>>,
    ) -> Result<Handled, Reason> {
        let Some((plan, advertiser)) = &mut self.v6 else {
            return Ok(Handled::NotMine);
        };
        self.settings.check_stations(frame)?;
        let message = discovery_message(frame.payload, sum)?;
        let for_us = ndp::is_own(plan, message.dst)
            || message.dst == ndp::ALL_NODES
            || message.dst == ndp::ALL_ROUTERS;
        let answer = match icmp_type {
            ndp::ROUTER_SOLICITATION if for_us => {
                let (to, dst) = match advertiser.solicited(now, plan, message, frame.src)? {
                    Solicited::Later => return Ok(Handled::Accepted),
                    Solicited::Unicast(addr, station) => (station, addr),
                    Solicited::Multicast => {
                        advertiser.multicast_sent(now);
                        (MacAddr::for_ipv6_multicast(ndp::ALL_NODES), ndp::ALL_NODES)
                    }
                };
                let packet = advertiser.packet(&self.settings, plan, dst)?;
                ndp::Answer { to, packet }
            }
            ndp::NEIGHBOUR_SOLICITATION => {
                ndp::answer(plan, self.settings.plan.gateway_mac, message, frame.src)?
            }
            ndp::ROUTER_SOLICITATION => return Err(Reason::NotForGateway),
            _ => return Err(Reason::Announcement),
        };
        out.push(
            self.settings
                .frame(answer.to, EtherType::IPV6, &answer.packet),
        );
        Ok(Handled::Answered)
    }

    fn dhcpv6(
        &self,
        frame: &Frame<'_>,
        sum: TransportChecksum,
        out: &mut Vec<Vec<u8>>,
    ) -> Result<Handled, Reason> {
        let Some((plan, _)) = &self.v6 else {
            return Ok(Handled::NotMine);
        };
        let packet = Ipv6Slice::from_slice(frame.payload).map_err(|_| Reason::Malformed)?;
        let (src, dst) = (
            packet.header().source_addr(),
            packet.header().destination_addr(),
        );
        if dst != dhcpv6::ALL_SERVERS && !ndp::is_own(plan, dst) {
            return Ok(Handled::NotMine);
        }
        self.settings.check_stations(frame)?;
        if dst != dhcpv6::ALL_SERVERS {
            // RFC 8415 section 18.4: unicast only where the server allowed it.
            return Err(Reason::Unsupported);
        }
        if ndp::is_own(plan, src) {
            return Err(Reason::Spoofed);
        }
        if src.is_unspecified() || src.is_multicast() {
            return Err(Reason::Malformed);
        }
        let message = udp_payload(packet.payload().payload, src.into(), dst.into(), sum)?;
        let reply = dhcpv6::answer(&self.settings, plan, message)?;
        let from = SocketAddr::new(plan.gateway_link_local.into(), dhcpv6::SERVER_PORT);
        let to = SocketAddr::new(src.into(), dhcpv6::CLIENT_PORT);
        let packet = udp::datagram(from, to, TTL, &reply).map_err(|_| Reason::Unanswerable)?;
        out.push(self.settings.frame(frame.src, EtherType::IPV6, &packet));
        Ok(Handled::Answered)
    }
}

impl Settings {
    fn frame(&self, to: MacAddr, ethertype: EtherType, payload: &[u8]) -> Vec<u8> {
        ethernet::frame(to, self.plan.gateway_mac, ethertype, payload)
    }

    /// The frame comes from one other station, and is for us or for many.
    fn check_stations(&self, frame: &Frame<'_>) -> Result<(), Reason> {
        if frame.src == self.plan.gateway_mac {
            return Err(Reason::Spoofed);
        }
        if !frame.src.is_unicast() {
            return Err(Reason::Malformed);
        }
        if frame.dst.is_unicast() && frame.dst != self.plan.gateway_mac {
            return Err(Reason::NotForGateway);
        }
        Ok(())
    }
}

/// The payload of a UDP datagram whose length and checksum are right.
fn udp_payload(
    transport: &[u8],
    src: IpAddr,
    dst: IpAddr,
    sum: TransportChecksum,
) -> Result<&[u8], Reason> {
    let datagram = UdpSlice::from_slice(transport).map_err(|_| Reason::Malformed)?;
    // RFC 768: zero is none, over IPv4; RFC 8200 section 8.1: never over IPv6.
    let absent = datagram.checksum() == 0 && src.is_ipv4();
    if sum == TransportChecksum::Verify && !absent {
        let bytes = datagram.slice();
        let pseudo = checksum::pseudo(src, dst, IpNumber::UDP.0, bytes.len());
        let valid = pseudo.is_some_and(|pseudo| pseudo.bytes(bytes).is_valid());
        if !valid || datagram.checksum() == 0 {
            return Err(Reason::BadChecksum);
        }
    }
    Ok(datagram.payload())
}

/// Checks what all discovery messages share (RFC 4861 sections 6.1 and 7.1).
fn discovery_message(packet: &[u8], sum: TransportChecksum) -> Result<ndp::Message<'_>, Reason> {
    let packet = Ipv6Slice::from_slice(packet).map_err(|_| Reason::Malformed)?;
    let header = packet.header();
    let (src, dst) = (header.source_addr(), header.destination_addr());
    let bytes = packet.payload().payload;
    let (head, body) = bytes.split_first_chunk::<8>().ok_or(Reason::Malformed)?;
    if header.hop_limit() != ndp::HOP_LIMIT || head[1] != 0 || src.is_multicast() {
        return Err(Reason::Malformed);
    }
    if sum == TransportChecksum::Verify {
        let pseudo = checksum::pseudo(src.into(), dst.into(), IpNumber::IPV6_ICMP.0, bytes.len());
        if !pseudo.is_some_and(|pseudo| pseudo.bytes(bytes).is_valid()) {
            return Err(Reason::BadChecksum);
        }
    }
    Ok(ndp::Message { src, dst, body })
}

#[cfg(test)]
mod tests;
