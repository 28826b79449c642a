//! What a guest says about a packet that it was sent: ICMP destination
//! unreachable (RFC 792) and its ICMPv6 twin (RFC 4443 section 3.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::super::checksum;
use super::{V4_UNREACHABLE, V6_UNREACHABLE};

/// Code of "fragmentation needed", which is about the way, not about the port.
const FRAGMENTATION_NEEDED: u8 = 4;

const ICMPV4: u8 = 1;
const ICMPV6: u8 = 58;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A packet that the guest did not want, as far as its error quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal<'a> {
    /// Protocol number; TCP (6) or UDP (17).
    pub protocol: u8,
    /// Where the packet came from.
    pub from: SocketAddr,
    /// Where it went.
    pub to: SocketAddr,
    /// The payload of a datagram, when all of it is quoted.
    pub datagram: Option<&'a [u8]>,
}

impl<'a> Refusal<'a> {
    /// Reads an IP packet, which may be anything.
    #[must_use]
    pub fn parse(packet: &'a [u8]) -> Option<Self> {
        let outer = Headers::parse(packet)?;
        let error = outer.payload;
        let (&[kind, code, ..], quote) = error.split_first_chunk::<8>()?;
        let is_refusal = match outer.protocol {
            ICMPV4 => kind == V4_UNREACHABLE && code != FRAGMENTATION_NEEDED,
            ICMPV6 => kind == V6_UNREACHABLE,
            _ => false,
        };
        if !is_refusal || !outer.checksum_is_valid() {
            return None;
        }
        let quoted = Headers::parse(quote)?;
        let same_family = quoted.from.is_ipv4() == outer.from.is_ipv4();
        if !same_family || !matches!(quoted.protocol, TCP | UDP) {
            return None;
        }
        let &[f0, f1, t0, t1] = quoted.payload.first_chunk()?;
        Some(Self {
            protocol: quoted.protocol,
            from: SocketAddr::new(quoted.from, u16::from_be_bytes([f0, f1])),
            to: SocketAddr::new(quoted.to, u16::from_be_bytes([t0, t1])),
            datagram: (quoted.protocol == UDP)
                .then(|| whole_datagram(quoted.payload))
                .flatten(),
        })
    }
}

/// The payload of a UDP datagram, unless it is cut short.
fn whole_datagram(quoted: &[u8]) -> Option<&[u8]> {
    let (&[_, _, _, _, l0, l1, _, _], _) = quoted.split_first_chunk::<8>()?;
    quoted.get(8..usize::from(u16::from_be_bytes([l0, l1])))
}

/// The front of an IP packet that may be cut short.
struct Headers<'a> {
    protocol: u8,
    from: IpAddr,
    to: IpAddr,
    /// What there is of it. Extension headers are not skipped: we send none.
    payload: &'a [u8],
}

impl<'a> Headers<'a> {
    fn parse(packet: &'a [u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => {
                let header: &[u8; 20] = packet.first_chunk()?;
                let [.., a, b, c, d, e, f, g, h] = *header;
                let len = usize::from(header[0] & 0x0f) * 4;
                let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
                let end = total.min(packet.len());
                Some(Self {
                    protocol: header[9],
                    from: Ipv4Addr::new(a, b, c, d).into(),
                    to: Ipv4Addr::new(e, f, g, h).into(),
                    payload: packet.get(len.max(20)..end)?,
                })
            }
            6 => {
                let (header, _) = packet.split_first_chunk::<40>()?;
                let addr = |at: usize| -> Option<Ipv6Addr> {
                    let octets: [u8; 16] = header.get(at..at + 16)?.try_into().ok()?;
                    Some(octets.into())
                };
                let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
                let end = (40 + len).min(packet.len());
                Some(Self {
                    protocol: header[6],
                    from: addr(8)?.into(),
                    to: addr(24)?.into(),
                    payload: packet.get(40..end)?,
                })
            }
            _ => None,
        }
    }

    fn checksum_is_valid(&self) -> bool {
        let sum = if self.protocol == ICMPV6 {
            checksum::pseudo(self.from, self.to, self.protocol, self.payload.len())
        } else {
            Some(checksum::Sum::new())
        };
        sum.is_some_and(|sum| sum.bytes(self.payload).is_valid())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::udp;
    use super::super::{V4Error, V6Error, v4_error, v6_error};
    use super::*;
    use proptest::prelude::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect("address")
    }

    fn refused(from: &str, to: &str, payload: &[u8], v4: V4Error, v6: V6Error) -> Vec<u8> {
        let (from, to) = (addr(from), addr(to));
        let offending = udp::datagram(from, to, 64, payload).expect("fits");
        match (to.ip(), from.ip()) {
            (IpAddr::V4(guest), IpAddr::V4(seen)) => v4_error(guest, seen, v4, &offending),
            (IpAddr::V6(guest), IpAddr::V6(seen)) => v6_error(guest, seen, v6, &offending),
            _ => panic!("one family"),
        }
    }

    #[test]
    fn says_which_datagram_was_not_wanted() {
        for (from, to) in [
            ("192.0.2.1:999", "10.0.2.100:53"),
            ("[2001:db8::1]:999", "[fd00::100]:53"),
        ] {
            let (v4, v6) = (V4Error::PortUnreachable, V6Error::PortUnreachable);
            let packet = refused(from, to, &[7; 2000], v4, v6);
            let refusal = Refusal::parse(&packet).expect("a refusal");
            let expected = Refusal {
                protocol: UDP,
                from: addr(from),
                to: addr(to),
                datagram: None,
            };
            assert_eq!(refusal, expected);
            let short = refused(from, to, b"question", v4, v6);
            let refusal = Refusal::parse(&short).expect("a refusal");
            assert_eq!(refusal.datagram, Some(&b"question"[..]));
            let mut broken = packet.clone();
            *broken.last_mut().expect("not empty") ^= 1;
            assert_eq!(Refusal::parse(&broken), None, "the checksum is wrong");
            let (v4, v6) = (
                V4Error::FragmentationNeeded { mtu: 1280 },
                V6Error::PacketTooBig { mtu: 1280 },
            );
            let packet = refused(from, to, &[7; 2000], v4, v6);
            assert_eq!(Refusal::parse(&packet), None, "about the way");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes: Vec<u8>) {
            let _ = Refusal::parse(&bytes);
        }

        #[test]
        fn any_cut_is_read_without_harm(v6: bool, cut in 0_usize..200, at in 0_usize..100, byte: u8) {
            let (from, to) = if v6 {
                ("[2001:db8::1]:999", "[fd00::100]:53")
            } else {
                ("192.0.2.1:999", "10.0.2.100:53")
            };
            let (v4, error6) = (V4Error::PortUnreachable, V6Error::PortUnreachable);
            let mut packet = refused(from, to, b"question", v4, error6);
            let len = packet.len();
            packet[at % len] = byte;
            packet.truncate(cut);
            let _ = Refusal::parse(&packet);
        }
    }
}
