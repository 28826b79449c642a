//! IP headers of packets built here.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header};

use super::BuildError;

/// Hop limit of packets that do not stand for someone else's (RFC 1700).
pub(super) const DEFAULT_TTL: u8 = 64;

/// Starts an IPv4 packet: its header, in a buffer with room for `payload_len`
/// bytes more.
///
/// The identification is 0 and "do not fragment" is clear. A caller that
/// fragments the packet sets an identification first (RFC 6864 section 4).
pub(super) fn v4(
    src: Ipv4Addr,
    dst: Ipv4Addr,
    protocol: IpNumber,
    ttl: u8,
    payload_len: usize,
) -> Result<Vec<u8>, BuildError> {
    let too_long = BuildError::TooLong {
        len: payload_len,
        max: usize::from(u16::MAX) - Ipv4Header::MIN_LEN,
    };
    let len = u16::try_from(payload_len).map_err(|_| too_long)?;
    let mut header =
        Ipv4Header::new(len, ttl, protocol, src.octets(), dst.octets()).map_err(|_| too_long)?;
    header.dont_fragment = false;
    header.header_checksum = header.calc_header_checksum();
    let mut packet = Vec::with_capacity(Ipv4Header::MIN_LEN + payload_len);
    packet.extend_from_slice(&header.to_bytes());
    Ok(packet)
}

/// Starts an IPv6 packet; like [`v4`].
pub(super) fn v6(
    src: Ipv6Addr,
    dst: Ipv6Addr,
    next_header: IpNumber,
    hop_limit: u8,
    payload_len: usize,
) -> Result<Vec<u8>, BuildError> {
    let payload_length = u16::try_from(payload_len).map_err(|_| BuildError::TooLong {
        len: payload_len,
        max: usize::from(u16::MAX),
    })?;
    let header = Ipv6Header {
        traffic_class: 0,
        flow_label: Ipv6FlowLabel::ZERO,
        payload_length,
        next_header,
        hop_limit,
        source: src.octets(),
        destination: dst.octets(),
    };
    let mut packet = Vec::with_capacity(Ipv6Header::LEN + payload_len);
    packet.extend_from_slice(&header.to_bytes());
    Ok(packet)
}
