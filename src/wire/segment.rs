//! Finishes in software what a link's medium cannot: cuts super-frames into
//! frames of the wire's size and completes transport checksums.
//!
//! # Theory of operation
//!
//! The headers of a super-frame stand for all of its pieces. Each piece gets a
//! copy of them, changed where the pieces differ:
//!
//! * IPv4: total length, identification (counts up), header checksum.
//! * IPv6: payload length. Extension headers are copied.
//! * TCP: sequence number; FIN and PSH on the last piece only, CWR on the first
//!   only (RFC 3168 section 6.1.2); checksum.
//! * UDP: length and checksum; each piece is a datagram of its own.
//!
//! A frame that is not a super-frame only has its checksum completed: the
//! field already holds the pseudo header's sum, so its protocol does not matter.
//!
//! Frames with VLAN tags are understood. IPv4 fragments and anything that is
//! not TCP or UDP cannot be a super-frame and are refused.

use crate::net::{Checksum, Gso, GsoKind, Medium, Offload};

/// Bytes of a UDP header.
pub(crate) const UDP_HEADER_LEN: usize = 8;
/// Bytes of a TCP header without options.
pub(crate) const TCP_HEADER_LEN: usize = 20;

const ETHERNET_HEADER_LEN: usize = 14;
const IPV4_HEADER_LEN: usize = 20;
const IPV6_HEADER_LEN: usize = 40;
const PROTO_TCP: u8 = 6;
const PROTO_UDP: u8 = 17;
/// VLAN tags looked through: one, and a provider's around it (IEEE 802.1ad).
const MAX_VLAN_TAGS: usize = 2;
/// IPv6 extension headers looked through. Each may occur once, one twice
/// (RFC 8200 section 4.1), of which fragments cannot be super-frames.
const MAX_EXTENSION_HEADERS: usize = 6;

const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;

/// A frame that does not hold what its [`Offload`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// The checksum's place lies outside the frame.
    #[error("the checksum to complete lies outside the frame")]
    Checksum,
    /// The frame is no TCP or UDP packet of the kind to be cut.
    #[error("the frame to be cut is not a whole TCP or UDP packet of the kind it is said to be")]
    NotCuttable,
}

/// Cuts frames, with a buffer that is kept from one to the next.
#[derive(Debug, Default)]
pub struct Segmenter {
    piece: Vec<u8>,
}

impl Segmenter {
    /// Calls `emit` with each frame that `frame` stands for, in order, every
    /// checksum complete, until one fails. The outer error is about `frame`,
    /// before anything was emitted; the inner one is `emit`'s.
    ///
    /// # Errors
    /// [`SegmentError`] when `offload` does not fit `frame`.
    pub fn each<E>(
        &mut self,
        medium: Medium,
        offload: &Offload,
        frame: &[u8],
        mut emit: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Result<(), E>, SegmentError> {
        match (offload.gso, offload.checksum) {
            (Some(gso), _) => {
                let plan = CutPlan::new(medium, gso, frame)?;
                Ok(plan.pieces().try_for_each(|cut| {
                    plan.write_piece(&cut, &mut self.piece);
                    emit(&self.piece)
                }))
            }
            (None, Checksum::Partial { start, offset }) => {
                self.piece.clear();
                self.piece.extend_from_slice(frame);
                complete_checksum(&mut self.piece, start.into(), offset.into())?;
                Ok(emit(&self.piece))
            }
            (None, Checksum::Complete | Checksum::Valid) => Ok(emit(frame)),
        }
    }
}

/// Sums the bytes from `start` on, the field's own partial sum among them, and
/// puts the result in the field.
fn complete_checksum(frame: &mut [u8], start: usize, offset: usize) -> Result<(), SegmentError> {
    let sum = fold(sum(frame.get(start..).ok_or(SegmentError::Checksum)?));
    let field = start + offset;
    let field = frame
        .get_mut(field..field + 2)
        .ok_or(SegmentError::Checksum)?;
    field.copy_from_slice(&transport_checksum(sum).to_be_bytes());
    Ok(())
}

/// Which IP header carries the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IpVersion {
    V4,
    V6,
}

/// Where the headers of a frame are.
#[derive(Debug, Clone, Copy)]
struct Layout {
    version: IpVersion,
    /// Offset of the IP header.
    ip: usize,
    /// Offset of the transport header.
    transport: usize,
    protocol: u8,
}

/// Offset of the transport header in a frame; `None` when there is none.
pub(crate) fn transport_start(frame: &[u8], medium: Medium) -> Option<usize> {
    Layout::find(frame, medium).map(|layout| layout.transport)
}

impl Layout {
    fn find(frame: &[u8], medium: Medium) -> Option<Self> {
        let ip = match medium {
            Medium::Ip => 0,
            Medium::Ethernet => skip_ethernet(frame)?,
        };
        match frame.get(ip)? >> 4 {
            4 => Self::find_v4(frame, ip),
            6 => Self::find_v6(frame, ip),
            _ => None,
        }
    }

    fn find_v4(frame: &[u8], ip: usize) -> Option<Self> {
        let header = frame.get(ip..ip + IPV4_HEADER_LEN)?;
        let len = usize::from(header[0] & 0x0f) * 4;
        let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
        if len < IPV4_HEADER_LEN || fragment != 0 {
            return None;
        }
        Some(Self {
            version: IpVersion::V4,
            ip,
            transport: ip + len,
            protocol: header[9],
        })
    }

    fn find_v6(frame: &[u8], ip: usize) -> Option<Self> {
        let mut protocol = *frame.get(ip + 6)?;
        let mut at = ip + IPV6_HEADER_LEN;
        for _ in 0..=MAX_EXTENSION_HEADERS {
            // Hop-by-hop, routing and destination options share one form.
            if !matches!(protocol, 0 | 43 | 60) {
                return Some(Self {
                    version: IpVersion::V6,
                    ip,
                    transport: at,
                    protocol,
                });
            }
            protocol = *frame.get(at)?;
            at += 8 + usize::from(*frame.get(at + 1)?) * 8;
        }
        None
    }
}

fn skip_ethernet(frame: &[u8]) -> Option<usize> {
    let mut at = ETHERNET_HEADER_LEN;
    for _ in 0..=MAX_VLAN_TAGS {
        match frame.get(at - 2..at)? {
            [0x08, 0x00] | [0x86, 0xdd] => return Some(at),
            [0x81, 0x00] | [0x88, 0xa8] => at += 4,
            _ => return None,
        }
    }
    None
}

/// A super-frame that has been found whole, ready to be cut.
#[derive(Debug)]
struct CutPlan<'f> {
    headers: &'f [u8],
    payload: &'f [u8],
    layout: Layout,
    kind: GsoKind,
    size: usize,
    /// Pseudo header without the length.
    pseudo: u64,
}

/// One piece: its number and its bytes of the payload.
#[derive(Debug)]
struct Cut<'f> {
    index: usize,
    /// Payload bytes in front of it.
    before: usize,
    bytes: &'f [u8],
    place: Place,
}

/// Where a piece is among its siblings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Only,
    First,
    Middle,
    Last,
}

impl<'f> CutPlan<'f> {
    fn new(medium: Medium, gso: Gso, frame: &'f [u8]) -> Result<Self, SegmentError> {
        let layout = Layout::find(frame, medium).ok_or(SegmentError::NotCuttable)?;
        let (protocol, least) = match gso.kind {
            GsoKind::Tcp4 | GsoKind::Tcp6 => (PROTO_TCP, TCP_HEADER_LEN),
            GsoKind::Udp => (PROTO_UDP, UDP_HEADER_LEN),
        };
        let version_fits = match gso.kind {
            GsoKind::Tcp4 => layout.version == IpVersion::V4,
            GsoKind::Tcp6 => layout.version == IpVersion::V6,
            GsoKind::Udp => true,
        };
        let split = usize::from(gso.header_len);
        let headers_fit = split >= layout.transport + least && split <= frame.len();
        // A piece's length must fit IP's 16 bits.
        let lengths_fit = split - layout.ip.min(split) + usize::from(gso.size) <= 0xffff;
        if !(layout.protocol == protocol && version_fits && headers_fit && lengths_fit)
            || gso.size == 0
        {
            return Err(SegmentError::NotCuttable);
        }
        let (headers, payload) = frame.split_at(split);
        let addresses = match layout.version {
            IpVersion::V4 => layout.ip + 12..layout.ip + 20,
            IpVersion::V6 => layout.ip + 8..layout.ip + 40,
        };
        let pseudo = sum(&headers[addresses]) + u64::from(protocol);
        Ok(Self {
            headers,
            payload,
            layout,
            kind: gso.kind,
            size: gso.size.into(),
            pseudo,
        })
    }

    fn pieces(&self) -> impl Iterator<Item = Cut<'f>> + use<'f> {
        let (payload, size) = (self.payload, self.size);
        // A frame without payload is still one piece.
        let count = payload.len().div_ceil(size).max(1);
        (0..count).map(move |index| {
            let before = index * size;
            let bytes = &payload[before..payload.len().min(before + size)];
            let place = match (index == 0, index + 1 == count) {
                (true, true) => Place::Only,
                (true, false) => Place::First,
                (false, false) => Place::Middle,
                (false, true) => Place::Last,
            };
            Cut {
                index,
                before,
                bytes,
                place,
            }
        })
    }

    fn write_piece(&self, cut: &Cut<'_>, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(self.headers);
        out.extend_from_slice(cut.bytes);
        let Layout {
            version,
            ip,
            transport,
            ..
        } = self.layout;
        match version {
            IpVersion::V4 => fix_ipv4(&mut out[ip..], transport - ip, cut.index),
            IpVersion::V6 => fix_ipv6(&mut out[ip..]),
        }
        let segment = &mut out[transport..];
        let field = match self.kind {
            GsoKind::Tcp4 | GsoKind::Tcp6 => fix_tcp(segment, cut),
            GsoKind::Udp => fix_udp(segment),
        };
        segment[field..field + 2].fill(0);
        let checksum = transport_checksum(fold(self.pseudo + length_sum(segment) + sum(segment)));
        segment[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Sets what differs between the pieces in the IPv4 header of `packet`.
fn fix_ipv4(packet: &mut [u8], header_len: usize, index: usize) {
    let total = low_16(packet.len());
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    let id = u16::from_be_bytes([packet[4], packet[5]]).wrapping_add(low_16(index));
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[10..12].fill(0);
    let checksum = !fold(sum(&packet[..header_len]));
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Sets the payload length in the IPv6 header of `packet`.
fn fix_ipv6(packet: &mut [u8]) {
    let payload = low_16(packet.len() - IPV6_HEADER_LEN);
    packet[4..6].copy_from_slice(&payload.to_be_bytes());
}

/// Sets what differs in the TCP header; returns the checksum's offset.
fn fix_tcp(segment: &mut [u8], cut: &Cut<'_>) -> usize {
    let seq = u32::from_be_bytes([segment[4], segment[5], segment[6], segment[7]]);
    // At most 64 KiB in: the upper bits are zero.
    let seq = seq.wrapping_add(u32::try_from(cut.before).unwrap_or(0));
    segment[4..8].copy_from_slice(&seq.to_be_bytes());
    segment[13] &= match cut.place {
        Place::Only => !0,
        Place::First => !(TCP_FIN | TCP_PSH),
        Place::Middle => !(TCP_FIN | TCP_PSH | TCP_CWR),
        Place::Last => !TCP_CWR,
    };
    16
}

/// Sets the length in the UDP header; returns the checksum's offset.
fn fix_udp(segment: &mut [u8]) -> usize {
    let len = low_16(segment.len());
    segment[4..6].copy_from_slice(&len.to_be_bytes());
    6
}

/// The pseudo header's length field, summed. TCP and UDP lengths fit 16 bits
/// here: [`CutPlan::new`] has seen to that.
fn length_sum(segment: &[u8]) -> u64 {
    low_16(segment.len()).into()
}

/// The low 16 bits, for lengths that have been found to fit and for counters
/// that wrap.
fn low_16(n: usize) -> u16 {
    let [low, high, ..] = n.to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// Sum of big-endian 16-bit words, an odd last byte padded (RFC 1071).
fn sum(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(2);
    let whole: u64 = words
        .by_ref()
        .map(|word| u64::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    whole
        + words
            .remainder()
            .first()
            .map_or(0, |&last| u64::from(last) << 8)
}

/// Adds the carries back in.
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(0xffff)
}

/// The complement of a sum, 0 sent as all ones: 0 would mean that there is no
/// checksum in UDP (RFC 768), and is the same number in TCP.
fn transport_checksum(sum: u16) -> u16 {
    match !sum {
        0 => 0xffff,
        checksum => checksum,
    }
}

#[cfg(test)]
mod tests;
