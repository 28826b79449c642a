//! ICMP (RFC 792) and ICMPv6 (RFC 4443): errors and echo, as whole IP packets.
//!
//! # Theory of operation
//! An error is built in two steps: [`may_answer`] says whether a packet may be
//! answered with an error at all (RFC 1122 section 3.2.2, RFC 1812 section
//! 4.3.2.7, RFC 4443 section 2.4), and [`v4_error`] or [`v6_error`] builds it.
//! How many are sent is limited by [`ErrorBudget`] (RFC 1812 section 4.3.2.8,
//! RFC 4443 section 2.4 (f)), which the caller keeps.
//!
//! Echo goes through [`Echo`]: [`Echo::parse_request`] checks a request, and
//! [`Echo::reply`] builds the answer from the same view.

mod quote;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use etherparse::{IpNumber, Ipv6ExtensionSlice, LaxNetSlice, LaxSlicedPacket};
use etherparse::{NetSlice, SlicedPacket};

pub use self::quote::Refusal;
use super::ip::DEFAULT_TTL;
use super::{BuildError, checksum, ip};

/// Bytes of an ICMP or ICMPv6 header in front of the quote or the payload.
const HEADER_LEN: usize = 8;
/// Greatest length of an IPv4 packet with an error, in bytes (RFC 1812 section 4.3.2.3).
pub const MAX_V4_ERROR_LEN: usize = 576;
/// Greatest length of an IPv6 packet with an error, in bytes: the least MTU
/// of an IPv6 link (RFC 4443 section 2.4 (c)).
pub const MAX_V6_ERROR_LEN: usize = 1280;

const V4_ECHO_REPLY: u8 = 0;
const V4_UNREACHABLE: u8 = 3;
const V4_SOURCE_QUENCH: u8 = 4;
const V4_REDIRECT: u8 = 5;
const V4_ECHO_REQUEST: u8 = 8;
const V4_TIME_EXCEEDED: u8 = 11;
const V4_PARAMETER_PROBLEM: u8 = 12;

const V6_UNREACHABLE: u8 = 1;
const V6_PACKET_TOO_BIG: u8 = 2;
const V6_TIME_EXCEEDED: u8 = 3;
const V6_FIRST_INFORMATIONAL: u8 = 128;
const V6_ECHO_REQUEST: u8 = 128;
const V6_ECHO_REPLY: u8 = 129;
const V6_REDIRECT: u8 = 137;

/// What an ICMP error says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum V4Error {
    /// Network unreachable (3/0).
    NetUnreachable,
    /// Host unreachable (3/1).
    HostUnreachable,
    /// Protocol unreachable (3/2).
    ProtocolUnreachable,
    /// Port unreachable (3/3).
    PortUnreachable,
    /// Fragmentation needed and "do not fragment" set (3/4, RFC 1191).
    FragmentationNeeded {
        /// The next link's MTU in bytes.
        mtu: u16,
    },
    /// Communication administratively prohibited (3/13).
    AdminProhibited,
    /// Time to live exceeded in transit (11/0).
    TtlExceeded,
    /// Fragment reassembly time exceeded (11/1).
    ReassemblyTimeExceeded,
}

/// What an ICMPv6 error says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum V6Error {
    /// No route to destination (1/0).
    NoRoute,
    /// Communication administratively prohibited (1/1).
    AdminProhibited,
    /// Address unreachable (1/3).
    AddressUnreachable,
    /// Port unreachable (1/4).
    PortUnreachable,
    /// Packet too big (2/0).
    PacketTooBig {
        /// The next link's MTU in bytes.
        mtu: u32,
    },
    /// Hop limit exceeded in transit (3/0).
    HopLimitExceeded,
    /// Fragment reassembly time exceeded (3/1).
    ReassemblyTimeExceeded,
}

impl V4Error {
    /// Type, code and the four bytes behind the checksum.
    const fn fields(self) -> (u8, u8, [u8; 4]) {
        match self {
            Self::NetUnreachable => (V4_UNREACHABLE, 0, [0; 4]),
            Self::HostUnreachable => (V4_UNREACHABLE, 1, [0; 4]),
            Self::ProtocolUnreachable => (V4_UNREACHABLE, 2, [0; 4]),
            Self::PortUnreachable => (V4_UNREACHABLE, 3, [0; 4]),
            Self::FragmentationNeeded { mtu } => {
                let [high, low] = mtu.to_be_bytes();
                (V4_UNREACHABLE, 4, [0, 0, high, low])
            }
            Self::AdminProhibited => (V4_UNREACHABLE, 13, [0; 4]),
            Self::TtlExceeded => (V4_TIME_EXCEEDED, 0, [0; 4]),
            Self::ReassemblyTimeExceeded => (V4_TIME_EXCEEDED, 1, [0; 4]),
        }
    }
}

impl V6Error {
    /// Type, code and the four bytes behind the checksum.
    const fn fields(self) -> (u8, u8, [u8; 4]) {
        match self {
            Self::NoRoute => (V6_UNREACHABLE, 0, [0; 4]),
            Self::AdminProhibited => (V6_UNREACHABLE, 1, [0; 4]),
            Self::AddressUnreachable => (V6_UNREACHABLE, 3, [0; 4]),
            Self::PortUnreachable => (V6_UNREACHABLE, 4, [0; 4]),
            Self::PacketTooBig { mtu } => (V6_PACKET_TOO_BIG, 0, mtu.to_be_bytes()),
            Self::HopLimitExceeded => (V6_TIME_EXCEEDED, 0, [0; 4]),
            Self::ReassemblyTimeExceeded => (V6_TIME_EXCEEDED, 1, [0; 4]),
        }
    }
}

/// True when `packet` (an IP packet, possibly cut short behind its headers) may
/// be answered with an ICMP error.
///
/// False for what is not an IP packet, ICMP errors and redirects, fragments but
/// the first, and packets from or to an address that is not one host's. The
/// broadcast address of the guest's own network is not known here.
#[must_use]
pub fn may_answer(packet: &[u8]) -> bool {
    let Ok(sliced) = LaxSlicedPacket::from_ip(packet) else {
        return false;
    };
    // Where extension headers are cut short or out of order, etherparse's
    // iterator over them (0.21) reads beyond the packet: not to be used then.
    if sliced
        .stop_err
        .as_ref()
        .is_some_and(|(_, layer)| is_extension(*layer))
    {
        return false;
    }
    let Some(payload) = sliced.ip_payload() else {
        return false;
    };
    let icmp_type = payload.payload.first().copied();
    match &sliced.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            is_one_host_v4(header.source_addr())
                && is_unicast_v4(header.destination_addr())
                && header.fragments_offset().value() == 0
                && (payload.ip_number != IpNumber::ICMP || icmp_type.is_some_and(is_v4_query))
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let later_fragment = ip.extensions().clone().into_iter().any(|extension| {
                matches!(extension, Ipv6ExtensionSlice::Fragment(f) if f.fragment_offset().value() != 0)
            });
            is_one_host_v6(header.source_addr())
                && !header.destination_addr().is_multicast()
                && !later_fragment
                && (payload.ip_number != IpNumber::IPV6_ICMP
                    || icmp_type.is_some_and(is_v6_informational))
        }
        _ => false,
    }
}

const fn is_extension(layer: etherparse::err::Layer) -> bool {
    use etherparse::err::Layer;
    matches!(
        layer,
        Layer::Ipv6ExtHeader
            | Layer::Ipv6HopByHopHeader
            | Layer::Ipv6DestOptionsHeader
            | Layer::Ipv6RouteHeader
            | Layer::Ipv6FragHeader
            | Layer::IpAuthHeader
    )
}

const fn is_v4_query(icmp_type: u8) -> bool {
    !matches!(
        icmp_type,
        V4_UNREACHABLE | V4_SOURCE_QUENCH | V4_REDIRECT | V4_TIME_EXCEEDED | V4_PARAMETER_PROBLEM
    )
}

const fn is_v6_informational(icmp_type: u8) -> bool {
    icmp_type >= V6_FIRST_INFORMATIONAL && icmp_type != V6_REDIRECT
}

/// Not multicast, not the limited broadcast, not reserved.
const fn is_unicast_v4(addr: Ipv4Addr) -> bool {
    addr.octets()[0] < 224
}

/// Can be answered: unicast and neither unspecified nor loopback.
const fn is_one_host_v4(addr: Ipv4Addr) -> bool {
    is_unicast_v4(addr) && addr.octets()[0] != 0 && !addr.is_loopback()
}

const fn is_one_host_v6(addr: Ipv6Addr) -> bool {
    !addr.is_multicast() && !addr.is_unspecified() && !addr.is_loopback()
}

/// Builds an ICMP error from `src` to `dst` (who sent the offending packet),
/// with as much of `offending`, an IPv4 packet, as fits into 576 bytes.
///
/// Ask [`may_answer`] first.
#[must_use]
pub fn v4_error(src: Ipv4Addr, dst: Ipv4Addr, kind: V4Error, offending: &[u8]) -> Vec<u8> {
    const ROOM: usize = MAX_V4_ERROR_LEN - 20 - HEADER_LEN;
    let quote = quote(offending, v4_len(offending), ROOM);
    let (icmp_type, code, rest) = kind.fields();
    v4_message(src, dst, DEFAULT_TTL, [icmp_type, code], rest, quote)
        .expect("a header and a bounded quote fit into a packet")
}

/// Builds an ICMPv6 error from `src` to `dst` (who sent the offending packet),
/// with as much of `offending`, an IPv6 packet, as fits into 1280 bytes.
///
/// Ask [`may_answer`] first.
#[must_use]
pub fn v6_error(src: Ipv6Addr, dst: Ipv6Addr, kind: V6Error, offending: &[u8]) -> Vec<u8> {
    const ROOM: usize = MAX_V6_ERROR_LEN - 40 - HEADER_LEN;
    let quote = quote(offending, v6_len(offending), ROOM);
    let (icmp_type, code, rest) = kind.fields();
    v6_message(src, dst, DEFAULT_TTL, [icmp_type, code], rest, quote)
        .expect("a header and a bounded quote fit into a packet")
}

/// The packet without the link's padding, cut to `room`.
fn quote(packet: &[u8], stated_len: Option<usize>, room: usize) -> &[u8] {
    let len = stated_len
        .unwrap_or(packet.len())
        .min(packet.len())
        .min(room);
    &packet[..len]
}

fn v4_len(packet: &[u8]) -> Option<usize> {
    let bytes = packet.get(2..4)?;
    Some(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
}

fn v6_len(packet: &[u8]) -> Option<usize> {
    let bytes = packet.get(4..6)?;
    Some(40 + usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
}

/// A token bucket for errors: so many per second, and a burst on top.
#[derive(Debug, Clone)]
pub struct ErrorBudget {
    interval: Duration,
    burst: u32,
    tokens: u32,
    refilled: Instant,
}

/// Whether an error may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spend {
    /// It may; it has been counted.
    Granted,
    /// Too many were sent lately: stay silent.
    Exhausted,
}

impl ErrorBudget {
    /// `per_second` errors per second (at least 1) in the long run, `burst` (at
    /// least 1) of them at once. The bucket is full at `now`.
    #[must_use]
    pub fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        let burst = burst.max(1);
        let interval = Duration::from_secs(1) / per_second.clamp(1, 1_000_000);
        Self {
            interval,
            burst,
            tokens: burst,
            refilled: now,
        }
    }

    /// Takes one token, if there is one at `now`.
    pub fn spend(&mut self, now: Instant) -> Spend {
        let earned =
            now.saturating_duration_since(self.refilled).as_nanos() / self.interval.as_nanos();
        match u32::try_from(earned) {
            // The rest of an interval that has begun is kept.
            Ok(earned) if earned < self.burst - self.tokens => {
                self.tokens += earned;
                self.refilled += self.interval * earned;
            }
            _ => {
                self.tokens = self.burst;
                self.refilled = now.max(self.refilled);
            }
        }
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                Spend::Granted
            }
            None => Spend::Exhausted,
        }
    }
}

/// An echo request or reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo<'a> {
    /// Who sends it.
    pub src: IpAddr,
    /// Who gets it.
    pub dst: IpAddr,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Identifier, chosen by the one who asks.
    pub ident: u16,
    /// Sequence number.
    pub seq: u16,
    /// Payload, returned unchanged.
    pub payload: &'a [u8],
}

impl<'a> Echo<'a> {
    /// Reads a complete (not fragmented) echo request with a right checksum
    /// between two hosts' addresses; `None` for everything else.
    #[must_use]
    pub fn parse_request(packet: &'a [u8]) -> Option<Self> {
        let sliced = SlicedPacket::from_ip(packet).ok()?;
        let payload = sliced.ip_payload()?;
        if payload.fragmented {
            return None;
        }
        let (header, rest) = payload.payload.split_first_chunk::<HEADER_LEN>()?;
        let [icmp_type, code, _, _, i0, i1, s0, s1] = *header;
        let (src, dst, ttl, expected, sum) = match &sliced.net {
            Some(NetSlice::Ipv4(ip)) => {
                let (src, dst) = (ip.header().source_addr(), ip.header().destination_addr());
                let intact = checksum::Sum::new().bytes(ip.header().slice()).is_valid();
                if !intact || !is_one_host_v4(src) || !is_unicast_v4(dst) {
                    return None;
                }
                let expected = (IpNumber::ICMP, V4_ECHO_REQUEST);
                (
                    src.into(),
                    dst.into(),
                    ip.header().ttl(),
                    expected,
                    checksum::Sum::new(),
                )
            }
            Some(NetSlice::Ipv6(ip)) => {
                let (src, dst) = (ip.header().source_addr(), ip.header().destination_addr());
                if !is_one_host_v6(src) || dst.is_multicast() {
                    return None;
                }
                let len = u32::try_from(payload.payload.len()).ok()?;
                let sum = checksum::pseudo_v6(src, dst, IpNumber::IPV6_ICMP.0, len);
                let expected = (IpNumber::IPV6_ICMP, V6_ECHO_REQUEST);
                (
                    src.into(),
                    dst.into(),
                    ip.header().hop_limit(),
                    expected,
                    sum,
                )
            }
            _ => return None,
        };
        let is_request = (payload.ip_number, icmp_type) == expected && code == 0;
        (is_request && sum.bytes(payload.payload).is_valid()).then_some(Self {
            src,
            dst,
            ttl,
            ident: u16::from_be_bytes([i0, i1]),
            seq: u16::from_be_bytes([s0, s1]),
            payload: rest,
        })
    }

    /// The reply that answers this request, with a fresh time to live.
    #[must_use]
    pub const fn reply(self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            ttl: DEFAULT_TTL,
            ..self
        }
    }

    /// Builds the IP packet of an echo reply with these fields.
    ///
    /// # Errors
    /// When the payload does not fit, or the addresses differ in IP version.
    pub fn to_reply_packet(&self) -> Result<Vec<u8>, BuildError> {
        self.to_packet(V4_ECHO_REPLY, V6_ECHO_REPLY)
    }

    /// Builds the IP packet of an echo request with these fields.
    ///
    /// # Errors
    /// When the payload does not fit, or the addresses differ in IP version.
    pub fn to_request_packet(&self) -> Result<Vec<u8>, BuildError> {
        self.to_packet(V4_ECHO_REQUEST, V6_ECHO_REQUEST)
    }

    fn to_packet(self, v4_type: u8, v6_type: u8) -> Result<Vec<u8>, BuildError> {
        let [i0, i1] = self.ident.to_be_bytes();
        let [s0, s1] = self.seq.to_be_bytes();
        let rest = [i0, i1, s0, s1];
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                v4_message(src, dst, self.ttl, [v4_type, 0], rest, self.payload)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                v6_message(src, dst, self.ttl, [v6_type, 0], rest, self.payload)
            }
            _ => Err(BuildError::MixedFamilies),
        }
    }
}

/// Builds the echo reply to `packet`; `None` when that is not an echo request
/// (see [`Echo::parse_request`]).
#[must_use]
pub fn echo_reply(packet: &[u8]) -> Option<Vec<u8>> {
    Echo::parse_request(packet)?.reply().to_reply_packet().ok()
}

/// Builds a whole IPv4 packet with an ICMP message.
fn v4_message(
    src: Ipv4Addr,
    dst: Ipv4Addr,
    ttl: u8,
    [icmp_type, code]: [u8; 2],
    [r0, r1, r2, r3]: [u8; 4],
    body: &[u8],
) -> Result<Vec<u8>, BuildError> {
    let mut packet = ip::v4(src, dst, IpNumber::ICMP, ttl, HEADER_LEN + body.len())?;
    let head = [icmp_type, code, 0, 0, r0, r1, r2, r3];
    let [c0, c1] = checksum::Sum::new()
        .bytes(&head)
        .bytes(body)
        .finish()
        .to_be_bytes();
    packet.extend_from_slice(&[icmp_type, code, c0, c1, r0, r1, r2, r3]);
    packet.extend_from_slice(body);
    Ok(packet)
}

/// Builds a whole IPv6 packet with an ICMPv6 message.
///
/// # Errors
/// When the body does not fit.
pub(crate) fn v6_message(
    src: Ipv6Addr,
    dst: Ipv6Addr,
    hop_limit: u8,
    [icmp_type, code]: [u8; 2],
    [r0, r1, r2, r3]: [u8; 4],
    body: &[u8],
) -> Result<Vec<u8>, BuildError> {
    let len = HEADER_LEN + body.len();
    let mut packet = ip::v6(src, dst, IpNumber::IPV6_ICMP, hop_limit, len)?;
    let head = [icmp_type, code, 0, 0, r0, r1, r2, r3];
    let length = u32::try_from(len).map_err(|_| BuildError::TooLong {
        len,
        max: usize::from(u16::MAX),
    })?;
    let [c0, c1] = checksum::pseudo_v6(src, dst, IpNumber::IPV6_ICMP.0, length)
        .bytes(&head)
        .bytes(body)
        .finish()
        .to_be_bytes();
    packet.extend_from_slice(&[icmp_type, code, c0, c1, r0, r1, r2, r3]);
    packet.extend_from_slice(body);
    Ok(packet)
}

#[cfg(test)]
mod tests;
