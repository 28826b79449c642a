#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap fails the test, which is its purpose"
)]

use super::*;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;

const FLAGS_MIDDLE: u8 = 0x10; // ACK

#[derive(Debug, Clone, Copy)]
enum Ip {
    V4,
    V6,
}

fn tcp_frame(ip: Ip, seq: u32, options: usize, payload: &[u8]) -> Vec<u8> {
    let ether = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let ip = match ip {
        Ip::V4 => ether.ipv4([10, 0, 2, 2], [10, 0, 2, 100], 64),
        Ip::V6 => ether.ipv6([0xfd; 16], [0xfc; 16], 64),
    };
    let options = vec![1u8; options * 4];
    let tcp = ip.tcp(443, 50000, seq, 1000).ack(77).psh().fin().cwr();
    let builder = tcp.options_raw(&options).unwrap();
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

fn udp_frame(ip: Ip, payload: &[u8]) -> Vec<u8> {
    let ether = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let ip = match ip {
        Ip::V4 => ether.ipv4([10, 0, 2, 2], [10, 0, 2, 100], 64),
        Ip::V6 => ether.ipv6([0xfd; 16], [0xfc; 16], 64),
    };
    let mut frame = Vec::new();
    ip.udp(443, 50000).write(&mut frame, payload).unwrap();
    frame
}

/// What an independent parser finds in a piece, its checksums verified.
struct Piece {
    payload: Vec<u8>,
    ip_len: usize,
    ip_id: Option<u16>,
    tcp: Option<(u32, u8)>,
}

fn inspect(frame: &[u8]) -> Piece {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let (ip_len, ip_id) = match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(v4) => {
            let h = v4.header();
            assert_eq!(h.header_checksum(), h.to_header().calc_header_checksum());
            (usize::from(h.total_len()), Some(h.identification()))
        }
        NetSlice::Ipv6(v6) => (usize::from(v6.header().payload_length()) + 40, None),
        other => panic!("{other:?}"),
    };
    assert_eq!(ip_len + 14, frame.len());
    let (payload, tcp) = match packet.transport.as_ref().unwrap() {
        TransportSlice::Tcp(tcp) => {
            let header = tcp.to_header();
            let sum = match packet.net.as_ref().unwrap() {
                NetSlice::Ipv4(v4) => header
                    .calc_checksum_ipv4(&v4.header().to_header(), tcp.payload())
                    .unwrap(),
                NetSlice::Ipv6(v6) => header
                    .calc_checksum_ipv6(&v6.header().to_header(), tcp.payload())
                    .unwrap(),
                other => panic!("{other:?}"),
            };
            assert_eq!(sum % 0xffff, header.checksum % 0xffff, "TCP checksum");
            (
                tcp.payload(),
                Some((tcp.sequence_number(), tcp.slice()[13])),
            )
        }
        TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            let sum = match packet.net.as_ref().unwrap() {
                NetSlice::Ipv4(v4) => header
                    .calc_checksum_ipv4(&v4.header().to_header(), udp.payload())
                    .unwrap(),
                NetSlice::Ipv6(v6) => header
                    .calc_checksum_ipv6(&v6.header().to_header(), udp.payload())
                    .unwrap(),
                other => panic!("{other:?}"),
            };
            assert_eq!(sum, header.checksum, "UDP checksum");
            assert_eq!(usize::from(udp.length()), udp.slice().len());
            (udp.payload(), None)
        }
        other => panic!("{other:?}"),
    };
    Piece {
        payload: payload.to_vec(),
        ip_len,
        ip_id,
        tcp,
    }
}

fn cut(offload: &Offload, frame: &[u8]) -> Result<Vec<Vec<u8>>, SegmentError> {
    let mut pieces = Vec::new();
    Segmenter::default()
        .each(Medium::Ethernet, offload, frame, |piece| {
            pieces.push(piece.to_vec());
            Ok::<_, ()>(())
        })?
        .unwrap();
    Ok(pieces)
}

fn partial(frame: &mut [u8], start: usize, offset: usize) -> Checksum {
    // The pseudo header's sum alone, as a stack that offloads leaves it.
    let layout = Layout::find(frame, Medium::Ethernet).unwrap();
    let addresses = match layout.version {
        IpVersion::V4 => &frame[26..34],
        IpVersion::V6 => &frame[22..54],
    };
    let len = u64::try_from(frame.len() - start).unwrap();
    let pseudo = fold(sum(addresses) + u64::from(layout.protocol) + len);
    frame[start + offset..start + offset + 2].copy_from_slice(&pseudo.to_be_bytes());
    Checksum::Partial {
        start: low_16(start),
        offset: low_16(offset),
    }
}

fn any_ip() -> impl Strategy<Value = Ip> {
    prop_oneof![Just(Ip::V4), Just(Ip::V6)]
}

proptest! {
    #[test]
    fn tcp_pieces_are_the_super_frame(
        ip in any_ip(),
        seq: u32,
        options in 0usize..=10,
        size in 1u16..3000,
        payload in proptest::collection::vec(any::<u8>(), 0..12_000),
    ) {
        let mut frame = tcp_frame(ip, seq, options, &payload);
        let kind = match ip { Ip::V4 => GsoKind::Tcp4, Ip::V6 => GsoKind::Tcp6 };
        let header_len = low_16(frame.len() - payload.len());
        let transport = transport_start(&frame, Medium::Ethernet).unwrap();
        let checksum = partial(&mut frame, transport, 16);
        let gso = Some(Gso { kind, size, header_len });
        let pieces = cut(&Offload { checksum, gso }, &frame).unwrap();

        let mtu = usize::from(header_len) - 14 + usize::from(size);
        let mut joined = Vec::new();
        let count = pieces.len();
        for (index, piece) in pieces.iter().map(|p| inspect(p)).enumerate() {
            let (piece_seq, flags) = piece.tcp.unwrap();
            prop_assert!(piece.ip_len <= mtu);
            prop_assert!(index + 1 == count || piece.ip_len == mtu, "only the last is short");
            prop_assert_eq!(piece_seq, seq.wrapping_add(u32::try_from(joined.len()).unwrap()));
            if let Some(id) = piece.ip_id {
                let first = u16::from_be_bytes([frame[18], frame[19]]);
                prop_assert_eq!(id, first.wrapping_add(low_16(index)));
            }
            let mut expect = FLAGS_MIDDLE;
            if index == 0 { expect |= TCP_CWR; }
            if index + 1 == count { expect |= TCP_FIN | TCP_PSH; }
            prop_assert_eq!(flags, expect);
            joined.extend(piece.payload);
        }
        prop_assert_eq!(joined, payload);
    }

    #[test]
    fn udp_pieces_are_datagrams_of_their_own(
        ip in any_ip(),
        size in 1u16..3000,
        payload in proptest::collection::vec(any::<u8>(), 0..12_000),
    ) {
        let mut frame = udp_frame(ip, &payload);
        let header_len = low_16(frame.len() - payload.len());
        let transport = transport_start(&frame, Medium::Ethernet).unwrap();
        let checksum = partial(&mut frame, transport, 6);
        let gso = Some(Gso { kind: GsoKind::Udp, size, header_len });
        let pieces = cut(&Offload { checksum, gso }, &frame).unwrap();
        let joined: Vec<Vec<u8>> = pieces.iter().map(|p| inspect(p).payload).collect();
        prop_assert!(joined.iter().all(|p| p.len() <= usize::from(size)));
        prop_assert_eq!(joined.concat(), payload);
    }

    #[test]
    fn a_partial_checksum_is_completed(
        ip in any_ip(),
        payload in proptest::collection::vec(any::<u8>(), 0..2000),
    ) {
        for (mut frame, offset) in [(tcp_frame(ip, 1, 3, &payload), 16), (udp_frame(ip, &payload), 6)] {
            let transport = transport_start(&frame, Medium::Ethernet).unwrap();
            let checksum = partial(&mut frame, transport, offset);
            let pieces = cut(&Offload { checksum, gso: None }, &frame).unwrap();
            prop_assert_eq!(pieces.len(), 1);
            prop_assert_eq!(inspect(&pieces[0]).payload, payload.clone());
        }
    }

    #[test]
    fn any_bytes_and_any_offload_are_refused_or_cut(
        frame in proptest::collection::vec(any::<u8>(), 0..300),
        l2 in prop_oneof![Just([8u8, 0, 0x45, 0]), Just([0x86, 0xdd, 0x60, 0]), any::<[u8; 4]>()],
        kind in prop_oneof![Just(GsoKind::Tcp4), Just(GsoKind::Tcp6), Just(GsoKind::Udp)],
        size: u16, header_len in prop_oneof![0u16..200, any::<u16>()],
        start: u16, offset: u16, cutting: bool,
    ) {
        let mut frame = frame;
        if frame.len() >= 16 { frame[12..16].copy_from_slice(&l2); }
        if frame.len() >= 24 { frame[20] = 0; frame[21] = 0; frame[23] = 6; }
        let offload = Offload {
            checksum: Checksum::Partial { start, offset },
            gso: cutting.then_some(Gso { kind, size, header_len }),
        };
        let _ = cut(&offload, &frame);
    }
}

#[test]
fn a_frame_with_nothing_left_to_do_passes_as_it_is() {
    let frame = [1, 2, 3];
    assert_eq!(cut(&Offload::default(), &frame).unwrap(), [frame.to_vec()]);
}

#[test]
fn emit_errors_stop_the_cutting() {
    let frame = udp_frame(Ip::V4, &[0; 100]);
    let offload = Offload {
        checksum: Checksum::Complete,
        gso: Some(Gso {
            kind: GsoKind::Udp,
            size: 10,
            header_len: 42,
        }),
    };
    let mut seen = 0;
    let result = Segmenter::default().each(Medium::Ethernet, &offload, &frame, |_| {
        seen += 1;
        if seen == 3 { Err("full") } else { Ok(()) }
    });
    assert_eq!((seen, result), (3, Ok(Err("full"))));
}

#[test]
fn what_is_not_the_kind_it_is_said_to_be_is_refused() {
    let gso = |kind, header_len| Offload {
        checksum: Checksum::Complete,
        gso: Some(Gso {
            kind,
            size: 100,
            header_len,
        }),
    };
    let tcp4 = tcp_frame(Ip::V4, 0, 0, &[0; 200]);
    assert!(cut(&gso(GsoKind::Tcp4, 54), &tcp4).is_ok());
    assert_eq!(
        cut(&gso(GsoKind::Tcp6, 54), &tcp4),
        Err(SegmentError::NotCuttable)
    );
    assert_eq!(
        cut(&gso(GsoKind::Udp, 54), &tcp4),
        Err(SegmentError::NotCuttable)
    );
    assert_eq!(
        cut(&gso(GsoKind::Tcp4, 53), &tcp4),
        Err(SegmentError::NotCuttable)
    );
    assert_eq!(
        cut(&gso(GsoKind::Tcp4, 300), &tcp4),
        Err(SegmentError::NotCuttable)
    );
    let mut fragment = tcp4;
    fragment[20] = 0x20; // more fragments
    assert_eq!(
        cut(&gso(GsoKind::Tcp4, 54), &fragment),
        Err(SegmentError::NotCuttable)
    );
}
