//! Ethernet II headers.

use etherparse::EtherType;

use crate::net::MacAddr;

/// Bytes of an Ethernet II header, without tags.
pub const HEADER_LEN: usize = 14;

/// A frame taken apart. Its payload may be followed by padding: the length that
/// counts is the one in the payload's own header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Destination.
    pub dst: MacAddr,
    /// Source.
    pub src: MacAddr,
    /// What the payload is.
    pub ethertype: EtherType,
    /// All bytes behind the header.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Takes `frame` apart; `None` when it is shorter than a header.
    #[must_use]
    pub fn parse(frame: &'a [u8]) -> Option<Self> {
        let (header, payload) = frame.split_first_chunk::<HEADER_LEN>()?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
        Some(Self {
            dst: MacAddr([d0, d1, d2, d3, d4, d5]),
            src: MacAddr([s0, s1, s2, s3, s4, s5]),
            ethertype: EtherType(u16::from_be_bytes([t0, t1])),
            payload,
        })
    }
}

/// The header of a frame.
#[must_use]
pub fn header(dst: MacAddr, src: MacAddr, ethertype: EtherType) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    bytes[..6].copy_from_slice(&dst.0);
    bytes[6..12].copy_from_slice(&src.0);
    bytes[12..].copy_from_slice(&ethertype.0.to_be_bytes());
    bytes
}

/// A whole frame, without padding and frame check sequence: a TAP wants neither.
#[must_use]
pub fn frame(dst: MacAddr, src: MacAddr, ethertype: EtherType, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_LEN + payload.len());
    frame.extend_from_slice(&header(dst, src, ethertype));
    frame.extend_from_slice(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_built_frame_parses_back(dst: [u8; 6], src: [u8; 6], kind: u16, payload: Vec<u8>) {
            let bytes = frame(MacAddr(dst), MacAddr(src), EtherType(kind), &payload);
            let parsed = Frame::parse(&bytes).expect("long enough");
            let expected = Frame {
                dst: MacAddr(dst),
                src: MacAddr(src),
                ethertype: EtherType(kind),
                payload: &payload,
            };
            prop_assert_eq!(parsed, expected);
        }

        #[test]
        fn short_frames_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..HEADER_LEN)) {
            prop_assert!(Frame::parse(&bytes).is_none());
        }
    }
}
