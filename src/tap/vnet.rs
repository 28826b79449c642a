//! The virtio network header in front of each frame of a TAP (virtio 1.2
//! section 5.1.6, `struct virtio_net_hdr` of `linux/virtio_net.h`).
//!
//! Byte order is the machine's own, which is what the kernel's tun driver uses
//! unless told otherwise. The header comes from the guest's kernel and, with
//! packet sockets, from the guest's programs: it is untrusted.

use super::{Checksum, Gso, GsoKind, Medium, Offload};
use crate::wire::segment;

/// Bytes of the header: the legacy form, without `num_buffers`.
pub(crate) const HEADER_LEN: usize = 10;

const F_NEEDS_CSUM: u8 = 1;
const F_DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// Set beside a TCP type when the flow uses ECN; the pieces need nothing else.
const GSO_ECN: u8 = 0x80;

/// Writes `offload` as a header.
#[inline]
pub(crate) fn encode(offload: &Offload) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    match offload.checksum {
        Checksum::Complete => {}
        Checksum::Valid => header[0] = F_DATA_VALID,
        Checksum::Partial { start, offset } => {
            header[0] = F_NEEDS_CSUM;
            header[6..8].copy_from_slice(&start.to_ne_bytes());
            header[8..10].copy_from_slice(&offset.to_ne_bytes());
        }
    }
    if let Some(gso) = offload.gso {
        header[1] = match gso.kind {
            GsoKind::Tcp4 => GSO_TCPV4,
            GsoKind::Tcp6 => GSO_TCPV6,
            GsoKind::Udp => GSO_UDP_L4,
        };
        header[2..4].copy_from_slice(&gso.header_len.to_ne_bytes());
        header[4..6].copy_from_slice(&gso.size.to_ne_bytes());
    }
    header
}

/// Reads the header of `frame`; `None` when it makes no sense for it.
///
/// `hdr_len` of the header is only a hint (Linux puts the length of the linear
/// part of its buffer there), so [`Gso::header_len`] is taken from the frame.
#[inline]
pub(crate) fn decode(header: [u8; HEADER_LEN], frame: &[u8], medium: Medium) -> Option<Offload> {
    let [flags, gso_type, _, _, s0, s1, c0, c1, o0, o1] = header;
    let checksum = if flags & F_NEEDS_CSUM != 0 {
        let start = u16::from_ne_bytes([c0, c1]);
        let offset = u16::from_ne_bytes([o0, o1]);
        if usize::from(start) + usize::from(offset) + 2 > frame.len() {
            return None;
        }
        Checksum::Partial { start, offset }
    } else if flags & F_DATA_VALID != 0 {
        Checksum::Valid
    } else {
        Checksum::Complete
    };
    let kind = match gso_type & !GSO_ECN {
        GSO_NONE => {
            return Some(Offload {
                checksum,
                gso: None,
            });
        }
        GSO_TCPV4 => GsoKind::Tcp4,
        GSO_TCPV6 => GsoKind::Tcp6,
        GSO_UDP_L4 => GsoKind::Udp,
        _ => return None,
    };
    let size = u16::from_ne_bytes([s0, s1]);
    let transport = match checksum {
        Checksum::Partial { start, .. } => usize::from(start),
        // Linux always leaves the checksum of a super-frame; others need not.
        Checksum::Complete | Checksum::Valid => segment::transport_start(frame, medium)?,
    };
    let header_len = match kind {
        GsoKind::Tcp4 | GsoKind::Tcp6 => transport + tcp_header_len(frame, transport)?,
        GsoKind::Udp => transport + segment::UDP_HEADER_LEN,
    };
    if size == 0 || header_len > frame.len() {
        return None;
    }
    let header_len = u16::try_from(header_len).ok()?;
    Some(Offload {
        checksum,
        gso: Some(Gso {
            kind,
            size,
            header_len,
        }),
    })
}

fn tcp_header_len(frame: &[u8], transport: usize) -> Option<usize> {
    let len = usize::from(frame.get(transport + 12)? >> 4) * 4;
    (len >= segment::TCP_HEADER_LEN).then_some(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_header_is_refused_or_fits_its_frame(
            header: [u8; HEADER_LEN],
            frame in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            if let Some(offload) = decode(header, &frame, Medium::Ethernet) {
                if let Checksum::Partial { start, offset } = offload.checksum {
                    prop_assert!(usize::from(start) + usize::from(offset) + 2 <= frame.len());
                }
                if let Some(gso) = offload.gso {
                    prop_assert!(gso.size > 0);
                    prop_assert!(usize::from(gso.header_len) <= frame.len());
                }
            }
        }

        #[test]
        fn what_is_written_reads_back(
            start in 14u16..60, offset in prop_oneof![Just(6u16), Just(16)], size in 1u16..,
            kind in prop_oneof![Just(GsoKind::Tcp4), Just(GsoKind::Tcp6), Just(GsoKind::Udp)],
        ) {
            let mut frame = [0u8; 200];
            frame[usize::from(start) + 12] = 0x80; // a TCP header of 32 bytes
            let header_len = start + if kind == GsoKind::Udp { 8 } else { 32 };
            let offload = Offload {
                checksum: Checksum::Partial { start, offset },
                gso: Some(Gso { kind, size, header_len }),
            };
            prop_assert_eq!(decode(encode(&offload), &frame, Medium::Ethernet), Some(offload));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let frame = [0u8; 60];
        let put = |flags, gso_type, size: u16, start: u16, offset: u16| {
            let mut h = [flags, gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
            h[4..6].copy_from_slice(&size.to_ne_bytes());
            h[6..8].copy_from_slice(&start.to_ne_bytes());
            h[8..10].copy_from_slice(&offset.to_ne_bytes());
            decode(h, &frame, Medium::Ethernet)
        };
        assert_eq!(put(0, 0, 0, 0, 0), Some(Offload::default()));
        assert!(put(F_DATA_VALID, 0, 0, 0, 0).is_some_and(|o| o.checksum == Checksum::Valid));
        assert_eq!(
            put(F_NEEDS_CSUM, 0, 0, 50, 9),
            None,
            "checksum field outside the frame"
        );
        assert_eq!(put(F_NEEDS_CSUM, 0, 0, u16::MAX, u16::MAX), None);
        assert_eq!(
            put(F_NEEDS_CSUM, GSO_TCPV4, 1000, 34, 16),
            None,
            "TCP data offset 0"
        );
        assert_eq!(
            put(F_NEEDS_CSUM, GSO_UDP_L4, 0, 34, 6),
            None,
            "piece size 0"
        );
        assert_eq!(
            put(F_NEEDS_CSUM, GSO_UDP_L4, 9, 56, 2),
            None,
            "header longer than the frame"
        );
        assert_eq!(
            put(F_NEEDS_CSUM, 3, 1000, 34, 6),
            None,
            "UFO was never negotiated"
        );
        assert_eq!(
            put(0, GSO_TCPV4, 1000, 0, 0),
            None,
            "no transport header to be found"
        );
    }
}
