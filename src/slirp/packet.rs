//! Reading a frame from the guest: where its headers are and whether they make
//! sense. Nothing is copied; everything is bounds-checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use super::counters::DropReason;
use crate::net::MacAddr;
use crate::wire::neighbour;

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// IPv6 extension headers that are skipped at most; more is nonsense.
const MAX_EXTENSIONS: usize = 8;

/// Protocol numbers (IANA) that matter here.
pub(crate) mod protocol {
    pub(crate) const ICMP: u8 = 1;
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(crate) const ICMPV6: u8 = 58;
}

/// The two addresses of an Ethernet header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ethernet {
    pub(crate) destination: MacAddr,
    pub(crate) source: MacAddr,
    pub(crate) ethertype: u16,
}

impl Ethernet {
    /// Reads the header of a frame.
    pub(crate) fn parse(frame: &[u8]) -> Result<Self, DropReason> {
        let header: &[u8; ETHERNET] = frame.first_chunk().ok_or(DropReason::Malformed)?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
        Ok(Self {
            destination: MacAddr([d0, d1, d2, d3, d4, d5]),
            source: MacAddr([s0, s1, s2, s3, s4, s5]),
            ethertype: u16::from_be_bytes([t0, t1]),
        })
    }

    /// True for IPv4 and IPv6.
    pub(crate) fn is_ip(&self) -> bool {
        matches!(self.ethertype, ETHERTYPE_IPV4 | ETHERTYPE_IPV6)
    }

    /// Whose hardware address `frame` tells, if it is ARP.
    pub(crate) fn arp_sender(&self, frame: &[u8]) -> Option<(Ipv4Addr, MacAddr)> {
        if self.ethertype != ETHERTYPE_ARP {
            return None;
        }
        neighbour::arp_sender(frame.get(ETHERNET..)?)
    }
}

/// Place of a fragment in its packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fragment {
    /// Common to all fragments of a packet.
    pub(crate) id: u32,
    /// Offset of the payload, in bytes.
    pub(crate) offset: u16,
    /// True unless it is the last.
    pub(crate) more: bool,
}

/// An IP packet; offsets are from the start of the bytes it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IpPacket {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// Of the payload, after extension headers.
    pub(crate) protocol: u8,
    /// Time to live or hop limit.
    pub(crate) hop_limit: u8,
    /// IPv4's don't-fragment bit; always set for IPv6.
    pub(crate) dont_fragment: bool,
    /// The whole packet.
    pub(crate) packet: Range<usize>,
    /// What follows the headers; for a fragment, its part of it.
    pub(crate) payload: Range<usize>,
    pub(crate) fragment: Option<Fragment>,
}

fn be16(bytes: &[u8], at: usize) -> Result<u16, DropReason> {
    let pair = bytes.get(at..at + 2).ok_or(DropReason::Malformed)?;
    Ok(u16::from_be_bytes([pair[0], pair[1]]))
}

fn be32(bytes: &[u8], at: usize) -> Result<u32, DropReason> {
    let b = bytes.get(at..at + 4).ok_or(DropReason::Malformed)?;
    Ok(u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

impl IpPacket {
    /// The target of a neighbour advertisement (RFC 4861 section 4.4), which
    /// need not be its source; `bytes` are what this was read from.
    pub(crate) fn advertised(&self, bytes: &[u8]) -> Option<Ipv6Addr> {
        const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
        let message = bytes.get(self.payload.clone())?;
        if self.protocol != protocol::ICMPV6 || *message.first()? != NEIGHBOUR_ADVERTISEMENT {
            return None;
        }
        let target: [u8; 16] = message.get(8..24)?.try_into().ok()?;
        Some(target.into())
    }

    /// Reads the packet that starts at `start` of `bytes` and may be followed
    /// by padding.
    pub(crate) fn parse(bytes: &[u8], start: usize) -> Result<Self, DropReason> {
        match bytes.get(start).ok_or(DropReason::Malformed)? >> 4 {
            4 => Self::parse_v4(bytes, start),
            6 => Self::parse_v6(bytes, start),
            _ => Err(DropReason::Malformed),
        }
    }

    fn parse_v4(bytes: &[u8], start: usize) -> Result<Self, DropReason> {
        let header: &[u8; 20] = bytes
            .get(start..)
            .and_then(<[u8]>::first_chunk)
            .ok_or(DropReason::Malformed)?;
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let total = usize::from(be16(header, 2)?);
        if header_len < 20 || total < header_len || bytes.len() - start < total {
            return Err(DropReason::Malformed);
        }
        if sum(&bytes[start..start + header_len]) != 0xffff {
            return Err(DropReason::Checksum);
        }
        let flags = be16(header, 6)?;
        let (more, offset) = (flags & 0x2000 != 0, (flags & 0x1fff) * 8);
        let fragment = (more || offset != 0)
            .then(|| {
                be16(header, 4).map(|id| Fragment {
                    id: id.into(),
                    offset,
                    more,
                })
            })
            .transpose()?;
        Ok(Self {
            source: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
            destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]).into(),
            protocol: header[9],
            hop_limit: header[8],
            dont_fragment: flags & 0x4000 != 0,
            packet: start..start + total,
            payload: start + header_len..start + total,
            fragment,
        })
    }

    fn parse_v6(bytes: &[u8], start: usize) -> Result<Self, DropReason> {
        let header: &[u8; 40] = bytes
            .get(start..)
            .and_then(<[u8]>::first_chunk)
            .ok_or(DropReason::Malformed)?;
        let end = start + 40 + usize::from(be16(header, 4)?);
        if bytes.len() < end {
            return Err(DropReason::Malformed);
        }
        let octets = |at: usize| -> [u8; 16] {
            let mut a = [0; 16];
            a.copy_from_slice(&header[at..at + 16]);
            a
        };
        let mut this = Self {
            source: Ipv6Addr::from(octets(8)).into(),
            destination: Ipv6Addr::from(octets(24)).into(),
            protocol: header[6],
            hop_limit: header[7],
            dont_fragment: true,
            packet: start..end,
            payload: start + 40..end,
            fragment: None,
        };
        this.skip_extensions(&bytes[..end])?;
        Ok(this)
    }

    /// Walks IPv6 extension headers (RFC 8200 section 4) up to the payload or
    /// the fragment header.
    fn skip_extensions(&mut self, bytes: &[u8]) -> Result<(), DropReason> {
        for _ in 0..MAX_EXTENSIONS {
            let at = self.payload.start;
            let len = match self.protocol {
                // Hop-by-hop, routing, destination options.
                0 | 43 | 60 => {
                    (usize::from(*bytes.get(at + 1).ok_or(DropReason::Malformed)?) + 1) * 8
                }
                44 => {
                    let field = be16(bytes, at + 2)?;
                    let (offset, more) = (field & 0xfff8, field & 1 != 0);
                    if offset != 0 || more {
                        self.fragment = Some(Fragment {
                            id: be32(bytes, at + 4)?,
                            offset,
                            more,
                        });
                    }
                    8
                }
                _ => return Ok(()),
            };
            if at + len > self.payload.end {
                return Err(DropReason::Malformed);
            }
            self.protocol = bytes[at];
            self.payload.start = at + len;
            if self.fragment.is_some() {
                return Ok(());
            }
        }
        Err(DropReason::Malformed)
    }
}

/// The one's complement sum (RFC 1071) of an IPv4 header; 0xffff when right.
fn sum(header: &[u8]) -> u16 {
    let mut total: u32 = 0;
    for pair in header.chunks_exact(2) {
        total += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    u16::try_from(total).unwrap_or(0)
}

/// The parts of a TCP header that decide where a segment goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TcpHeader {
    pub(crate) source: u16,
    pub(crate) destination: u16,
    pub(crate) sequence: u32,
    pub(crate) flags: u8,
    /// Bytes of payload behind the header and its options.
    pub(crate) payload: usize,
}

/// TCP flag bits (RFC 9293 section 3.1).
pub(crate) mod tcp_flags {
    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const SYN: u8 = 0x02;
    pub(crate) const RST: u8 = 0x04;
    pub(crate) const ACK: u8 = 0x10;
}

impl TcpHeader {
    /// Reads the header at the front of `segment`.
    pub(crate) fn parse(segment: &[u8]) -> Result<Self, DropReason> {
        let header: &[u8; 20] = segment.first_chunk().ok_or(DropReason::Malformed)?;
        let len = usize::from(header[12] >> 4) * 4;
        if len < 20 || len > segment.len() {
            return Err(DropReason::Malformed);
        }
        Ok(Self {
            source: be16(header, 0)?,
            destination: be16(header, 2)?,
            sequence: be32(header, 4)?,
            flags: header[13],
            payload: segment.len() - len,
        })
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// A request for a new connection: SYN alone.
    pub(crate) fn is_open(&self) -> bool {
        use tcp_flags::{ACK, FIN, RST, SYN};
        self.flags & (SYN | ACK | RST | FIN) == SYN
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn tcp4(payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 2, 100], [192, 0, 2, 1], 64)
            .tcp(1234, 80, 7, 1000)
            .syn();
        let mut frame = Vec::new();
        builder.write(&mut frame, payload).expect("in memory");
        frame
    }

    #[test]
    fn reads_what_another_library_wrote() {
        let mut frame = tcp4(b"hello");
        frame.extend_from_slice(&[0; 6]); // Ethernet padding
        let ip = IpPacket::parse(&frame, ETHERNET).expect("valid");
        assert_eq!(ip.source.to_string(), "10.0.2.100");
        assert_eq!(ip.protocol, protocol::TCP);
        assert_eq!(ip.fragment, None);
        let tcp = TcpHeader::parse(&frame[ip.payload]).expect("valid");
        assert_eq!(
            (tcp.source, tcp.destination, tcp.sequence, tcp.payload),
            (1234, 80, 7, 5)
        );
        assert!(tcp.is_open());
    }

    #[test]
    fn a_wrong_header_checksum_is_told_from_nonsense() {
        let mut frame = tcp4(b"");
        frame[ETHERNET + 10] ^= 1;
        assert_eq!(IpPacket::parse(&frame, ETHERNET), Err(DropReason::Checksum));
        frame[ETHERNET] = 0x4f;
        assert_eq!(
            IpPacket::parse(&frame[..40], ETHERNET),
            Err(DropReason::Malformed)
        );
    }

    #[test]
    fn extension_headers_lead_to_the_payload() {
        let mut packet = vec![0x60, 0, 0, 0, 0, 24, 60, 64];
        packet.extend([0xfd; 32]);
        packet.extend([44, 0, 1, 4, 0, 0, 0, 0]); // destination options
        packet.extend([17, 0, 0x00, 0x59, 0, 0, 0, 9]); // fragment, offset 88, more
        packet.extend([0; 8]);
        let ip = IpPacket::parse(&packet, 0).expect("valid");
        assert_eq!(ip.protocol, protocol::UDP);
        assert_eq!(
            ip.fragment,
            Some(Fragment {
                id: 9,
                offset: 88,
                more: true
            })
        );
        assert_eq!(ip.payload, 56..64);
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_in_bounds(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Ethernet::parse(&bytes);
            let _ = TcpHeader::parse(&bytes);
            if let Ok(ip) = IpPacket::parse(&bytes, 0) {
                prop_assert!(ip.packet.end <= bytes.len());
                prop_assert!(ip.payload.start <= ip.payload.end && ip.payload.end == ip.packet.end);
            }
        }

        #[test]
        fn flipped_bits_are_refused_or_in_bounds(at in 0usize..54, bit in 0u8..8) {
            let mut frame = tcp4(b"abc");
            frame[at] ^= 1 << bit;
            if let Ok(ip) = IpPacket::parse(&frame, ETHERNET) {
                prop_assert!(ip.payload.end <= frame.len());
                let _ = TcpHeader::parse(&frame[ip.payload]);
            }
        }
    }
}
