//! What rules look at in a frame: as little as will do.

use std::io::IoSlice;
use std::net::IpAddr;

use super::{Direction, MatchProtocol, Matcher};

const ETHERNET: usize = 14;
/// Bytes that are looked at: Ethernet, IPv6 with some extension headers, ports.
const HEAD: usize = 128;
/// IPv6 extension headers looked through, as elsewhere.
const MAX_EXTENSIONS: usize = 8;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// What a packet is about, as rules see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct About {
    pub(super) remote: IpAddr,
    /// The remote's; of TCP and UDP, and of the first fragment only.
    pub(super) port: Option<u16>,
    /// IANA's number of what is inside.
    pub(super) protocol: u8,
}

impl About {
    /// Reads a frame. `None` for what no rule is for: what is not IP, what is
    /// for many (nothing of that leaves the guest's network), and what guests and
    /// the gateway find each other by: neighbour discovery and DHCP.
    pub(super) fn of(frame: &[u8], way: Direction) -> Option<Self> {
        let is_for_many = frame.first()? & 1 != 0;
        if is_for_many {
            return None;
        }
        match frame.get(12..ETHERNET)? {
            [0x08, 0x00] => Self::of_v4(frame.get(ETHERNET..)?, way),
            [0x86, 0xdd] => Self::of_v6(frame.get(ETHERNET..)?, way),
            _ => None,
        }
    }

    /// As [`About::of`], of a frame in pieces.
    pub(super) fn of_pieces(frame: &[IoSlice<'_>], way: Direction) -> Option<Self> {
        let [first, rest @ ..] = frame else {
            return None;
        };
        if rest.is_empty() || first.len() >= HEAD {
            return Self::of(first, way);
        }
        let mut head = [0; HEAD];
        let mut len = 0;
        for piece in frame {
            let part = piece.len().min(HEAD - len);
            head[len..len + part].copy_from_slice(&piece[..part]);
            len += part;
        }
        Self::of(&head[..len], way)
    }

    fn of_v4(packet: &[u8], way: Direction) -> Option<Self> {
        let header: &[u8; 20] = packet.first_chunk()?;
        let address = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
        let remote = match way {
            Direction::Up => address(16),
            Direction::Down => address(12),
        };
        let is_later_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
        let start = usize::from(header[0] & 0x0f) * 4;
        let transport = if is_later_fragment {
            &[]
        } else {
            packet.get(start..).unwrap_or_default()
        };
        Self::with_transport(remote.into(), header[9], transport, way)
    }

    fn of_v6(packet: &[u8], way: Direction) -> Option<Self> {
        let header: &[u8; 40] = packet.first_chunk()?;
        let at = match way {
            Direction::Up => 24,
            Direction::Down => 8,
        };
        let remote: [u8; 16] = header[at..at + 16].try_into().ok()?;
        let mut protocol = header[6];
        let mut rest = packet.get(40..).unwrap_or_default();
        for _ in 0..MAX_EXTENSIONS {
            let len = match protocol {
                // Hop-by-hop, routing, destination options (RFC 8200 section 4).
                0 | 43 | 60 => rest.get(1).map(|len| (usize::from(*len) + 1) * 8),
                // Of a later fragment nothing more can be told.
                44 => match rest.get(2..4) {
                    Some(field) if u16::from_be_bytes([field[0], field[1]]) & 0xfff8 == 0 => {
                        Some(8)
                    }
                    _ => {
                        protocol = rest.first().copied().unwrap_or(protocol);
                        rest = &[];
                        None
                    }
                },
                _ => None,
            };
            let Some(len) = len else { break };
            protocol = rest.first().copied().unwrap_or(protocol);
            rest = rest.get(len..).unwrap_or_default();
        }
        Self::with_transport(remote.into(), protocol, rest, way)
    }

    fn with_transport(
        remote: IpAddr,
        protocol: u8,
        transport: &[u8],
        way: Direction,
    ) -> Option<Self> {
        let ports = match (protocol, transport.first_chunk()) {
            (TCP | UDP, Some([s0, s1, d0, d1])) => Some((
                u16::from_be_bytes([*s0, *s1]),
                u16::from_be_bytes([*d0, *d1]),
            )),
            _ => None,
        };
        if is_of_the_neighbourhood(protocol, transport, ports) {
            return None;
        }
        let port = ports.map(|(source, destination)| match way {
            Direction::Up => destination,
            Direction::Down => source,
        });
        Some(Self {
            remote,
            port,
            protocol,
        })
    }

    /// True when all but the name is as `matcher` has it.
    pub(super) fn fits(&self, matcher: &Matcher) -> bool {
        let protocol = match matcher.protocol {
            None => true,
            Some(MatchProtocol::Tcp) => self.protocol == TCP,
            Some(MatchProtocol::Udp) => self.protocol == UDP,
            Some(MatchProtocol::Icmp) => matches!(self.protocol, ICMP | ICMPV6),
        };
        protocol
            && matcher
                .ports
                .is_none_or(|ports| self.port.is_some_and(|port| ports.contains(port)))
            && matcher.to.is_none_or(|to| to.contains(&self.remote))
    }
}

/// Neighbour and router discovery (RFC 4861), DHCP (RFC 2131) and DHCPv6
/// (RFC 9915).
fn is_of_the_neighbourhood(protocol: u8, transport: &[u8], ports: Option<(u16, u16)>) -> bool {
    match (protocol, ports) {
        (ICMPV6, _) => transport
            .first()
            .is_some_and(|kind| (133..=137).contains(kind)),
        (UDP, Some(ports)) => matches!(ports, (67, 68) | (68, 67) | (546, 547) | (547, 546)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn udp(from: u16, to: u16) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 2, 100], [192, 0, 2, 1], 64)
            .udp(from, to);
        let mut frame = Vec::new();
        builder.write(&mut frame, b"hello").expect("writes");
        frame
    }

    #[test]
    fn the_remote_is_at_the_other_end() {
        let frame = udp(5000, 53);
        let up = About::of(&frame, Direction::Up).expect("is IP");
        assert_eq!((up.remote, up.port), ([192, 0, 2, 1].into(), Some(53)));
        let down = About::of(&frame, Direction::Down).expect("is IP");
        let guest: IpAddr = [10, 0, 2, 100].into();
        assert_eq!((down.remote, down.port), (guest, Some(5000)));
    }

    #[test]
    fn pieces_are_read_as_the_whole_is() {
        let frame = udp(5000, 53);
        let whole = About::of(&frame, Direction::Up);
        for cut in 0..frame.len() {
            let (a, b) = frame.split_at(cut);
            let pieces = [IoSlice::new(a), IoSlice::new(b)];
            assert_eq!(About::of_pieces(&pieces, Direction::Up), whole);
        }
    }

    #[test]
    fn the_neighbourhood_is_left_alone() {
        assert_eq!(About::of(&udp(68, 67), Direction::Up), None);
        let mut many = udp(5000, 53);
        many[0] = 0xff;
        assert_eq!(About::of(&many, Direction::Up), None);
        let mut arp = udp(5000, 53);
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        assert_eq!(About::of(&arp, Direction::Up), None);
        for (kind, left_alone) in [(135, true), (136, true), (128, false)] {
            let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
                .ipv6([1; 16], [2; 16], 255)
                .icmpv6_raw(kind, 0, [0; 4]);
            let mut frame = Vec::new();
            builder.write(&mut frame, &[0; 16]).expect("writes");
            assert_eq!(About::of(&frame, Direction::Up).is_none(), left_alone);
        }
    }

    #[test]
    fn a_later_fragment_has_no_port() {
        let mut frame = udp(5000, 53);
        frame[ETHERNET + 7] = 1;
        let about = About::of(&frame, Direction::Up).expect("is IP");
        assert_eq!((about.protocol, about.port), (UDP, None));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes: Vec<u8>, kind in 0..3_usize) {
            if bytes.len() >= ETHERNET {
                bytes[0] &= !1;
                let kinds = [[0x08, 0x00], [0x86, 0xdd], [0x08, 0x06]];
                bytes[12..ETHERNET].copy_from_slice(&kinds[kind]);
            }
            let _ = About::of(&bytes, Direction::Up);
            let _ = About::of(&bytes, Direction::Down);
        }
    }
}
