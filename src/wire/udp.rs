//! UDP datagrams, as whole IP packets.

use std::net::SocketAddr;

use etherparse::{IpNumber, UdpHeader};

use super::{BuildError, checksum, ip};

/// Most payload bytes of a datagram over IPv4 (65535 less both headers).
pub const MAX_PAYLOAD_V4: usize = 65_507;
/// Most payload bytes of a datagram over IPv6 without extension headers.
pub const MAX_PAYLOAD_V6: usize = 65_527;

/// Builds the IP packet of a UDP datagram, checksums complete.
///
/// The packet may exceed the link's MTU; fragmenting it is the caller's part.
///
/// # Errors
/// When the payload does not fit, or the addresses differ in IP version.
pub fn datagram(
    src: SocketAddr,
    dst: SocketAddr,
    ttl: u8,
    payload: &[u8],
) -> Result<Vec<u8>, BuildError> {
    let max = if src.is_ipv4() {
        MAX_PAYLOAD_V4
    } else {
        MAX_PAYLOAD_V6
    };
    let len = UdpHeader::LEN + payload.len();
    let length = u16::try_from(len)
        .ok()
        .filter(|_| payload.len() <= max)
        .ok_or(BuildError::TooLong {
            len: payload.len(),
            max,
        })?;
    let (mut packet, pseudo) = match (src, dst) {
        (SocketAddr::V4(s), SocketAddr::V4(d)) => (
            ip::v4(*s.ip(), *d.ip(), IpNumber::UDP, ttl, len)?,
            checksum::pseudo_v4(*s.ip(), *d.ip(), IpNumber::UDP.0, length),
        ),
        (SocketAddr::V6(s), SocketAddr::V6(d)) => (
            ip::v6(*s.ip(), *d.ip(), IpNumber::UDP, ttl, len)?,
            checksum::pseudo_v6(*s.ip(), *d.ip(), IpNumber::UDP.0, u32::from(length)),
        ),
        _ => return Err(BuildError::MixedFamilies),
    };
    let mut header = UdpHeader {
        source_port: src.port(),
        destination_port: dst.port(),
        length,
        checksum: 0,
    };
    // Zero means "no checksum"; a sum of zero is sent as its other form (RFC 768).
    header.checksum = match pseudo.bytes(&header.to_bytes()).bytes(payload).finish() {
        0 => 0xffff,
        sum => sum,
    };
    packet.extend_from_slice(&header.to_bytes());
    packet.extend_from_slice(payload);
    Ok(packet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect("address")
    }

    proptest! {
        #[test]
        fn a_datagram_parses_back_with_right_checksums(
            v6: bool,
            ports: (u16, u16),
            ttl: u8,
            payload in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let (mut src, mut dst) = if v6 {
                (addr("[fd00::3]:0"), addr("[fd00::100]:0"))
            } else {
                (addr("10.0.2.3:0"), addr("10.0.2.100:0"))
            };
            src.set_port(ports.0);
            dst.set_port(ports.1);
            let packet = datagram(src, dst, ttl, &payload).expect("fits");
            let sliced = SlicedPacket::from_ip(&packet).expect("well-formed");
            let Some(TransportSlice::Udp(udp)) = sliced.transport else {
                panic!("not UDP: {sliced:?}");
            };
            prop_assert_eq!(udp.payload(), &payload[..]);
            prop_assert_eq!((udp.source_port(), udp.destination_port()), ports);
            let header = udp.to_header();
            let sum = match (src, dst) {
                (SocketAddr::V4(s), SocketAddr::V4(d)) => header
                    .calc_checksum_ipv4_raw(s.ip().octets(), d.ip().octets(), &payload),
                (SocketAddr::V6(s), SocketAddr::V6(d)) => header
                    .calc_checksum_ipv6_raw(s.ip().octets(), d.ip().octets(), &payload),
                _ => unreachable!("one family"),
            };
            prop_assert_eq!(sum.expect("fits"), udp.checksum());
            if !v6 {
                prop_assert!(checksum::Sum::new().bytes(&packet[..20]).is_valid());
            }
        }
    }

    #[test]
    fn the_largest_datagrams_fit_and_no_more() {
        for (src, dst, max) in [
            ("1.2.3.4:5", "10.0.2.100:6", MAX_PAYLOAD_V4),
            ("[2001:db8::1]:5", "[fd00::100]:6", MAX_PAYLOAD_V6),
        ] {
            let payload = vec![7; max + 1];
            let packet = datagram(addr(src), addr(dst), 64, &payload[..max]).expect("fits");
            assert!(SlicedPacket::from_ip(&packet).is_ok(), "{src}");
            let refused = datagram(addr(src), addr(dst), 64, &payload);
            assert_eq!(refused, Err(BuildError::TooLong { len: max + 1, max }));
        }
    }

    #[test]
    fn mixed_families_are_refused() {
        let built = datagram(addr("1.2.3.4:5"), addr("[fd00::1]:6"), 64, &[]);
        assert_eq!(built, Err(BuildError::MixedFamilies));
    }
}
