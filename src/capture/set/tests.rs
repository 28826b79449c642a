//! Captures from end to end, with files that are read back.

use super::*;
use crate::capture::MAX_NOTE_LEN;
use crate::net::{Checksum, Gso, GsoKind};
use crate::policy::Protocol;
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::blocks::interface_statistics::InterfaceStatisticsOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use std::path::{Path, PathBuf};

const TAP: Port<'static> = Port {
    key: PortKey(0),
    name: "tap0",
};

fn spec(path: &Path, options: &str) -> CaptureSpec {
    format!("{}{options}", path.display())
        .parse()
        .expect("a capture")
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.pcapng");
    (folder, path)
}

fn blocks(path: &Path) -> Vec<Block<'static>> {
    let bytes = std::fs::read(path).expect("a file");
    let mut reader = PcapNgReader::new(&bytes[..]).expect("a section");
    let mut blocks = Vec::new();
    while let Some(block) = reader.next_block() {
        blocks.push(block.expect("a whole block").into_owned());
    }
    blocks
}

fn packets(path: &Path) -> Vec<EnhancedPacketBlock<'static>> {
    let packet = |block| match block {
        Block::EnhancedPacket(packet) => Some(packet),
        _ => None,
    };
    blocks(path).into_iter().filter_map(packet).collect()
}

fn udp(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 0, 2, 100], [192, 0, 2, 1], 64)
        .udp(5000, 53)
        .write(&mut frame, payload)
        .expect("writes");
    frame
}

/// A super-frame of TCP, as the kernel hands it over.
fn super_frame(payload: &[u8], size: u16) -> (Vec<u8>, Offload) {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 0, 2, 100], [192, 0, 2, 1], 64)
        .tcp(40000, 80, 1000, 65535)
        .write(&mut frame, payload)
        .expect("writes");
    frame[14 + 20 + 16..][..2].copy_from_slice(&[0xab, 0xcd]);
    let offload = Offload {
        checksum: Checksum::Partial {
            start: 34,
            offset: 16,
        },
        gso: Some(Gso {
            kind: GsoKind::Tcp4,
            size,
            header_len: 54,
        }),
    };
    (frame, offload)
}

fn show(captures: &mut Captures, frame: &[u8], offload: &Offload) {
    captures.frame(TAP, Direction::FromGuest, offload, &[IoSlice::new(frame)]);
}

#[test]
fn frames_are_written_as_they_are() {
    let (_folder, path) = folder();
    let mut captures = Captures::default();
    assert!(captures.is_empty());
    let id = captures.start_now(spec(&path, ""), [TAP]).expect("starts");
    assert_eq!(id.to_string(), "1");
    let frame = udp(b"hello");
    let (head, rest) = frame.split_at(7);
    let parts = [IoSlice::new(head), IoSlice::new(rest)];
    captures.frame(TAP, Direction::FromGuest, &Offload::default(), &parts);
    captures.frame(TAP, Direction::ToGuest, &Offload::default(), &parts);
    captures.finish();
    assert!(captures.is_empty());
    let packets = packets(&path);
    assert_eq!(packets.len(), 2);
    for (packet, flags) in packets.iter().zip([2, 1]) {
        assert_eq!(packet.data, frame);
        assert_eq!(packet.options, [EnhancedPacketOption::Flags(flags)]);
    }
}

#[test]
fn super_frames_are_cut_and_sums_completed() {
    let (folder, path) = folder();
    let whole = folder.path().join("whole.pcapng");
    let mut captures = Captures::default();
    captures.start_now(spec(&path, ""), [TAP]).expect("starts");
    captures
        .start_now(spec(&whole, ",segment=off,snaplen=100"), [TAP])
        .expect("starts");
    let payload: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    let (frame, offload) = super_frame(&payload, 1460);
    show(&mut captures, &frame, &offload);
    let mut unsummed = udp(b"hello");
    let summed = unsummed.clone();
    // The sum of the pseudo header, as its sender leaves it.
    let pseudo: u32 = [0x0a00, 0x0264, 0xc000, 0x0201, 17, 13].iter().sum();
    let folded = u16::try_from((pseudo & 0xffff) + (pseudo >> 16)).expect("16 bits");
    unsummed[40..42].copy_from_slice(&folded.to_be_bytes());
    let partial = Offload {
        checksum: Checksum::Partial {
            start: 34,
            offset: 6,
        },
        gso: None,
    };
    show(&mut captures, &unsummed, &partial);
    captures.finish();

    let cut = packets(&path);
    assert_eq!(cut.len(), 8);
    assert_eq!(cut[7].data, summed);
    let mut carried = Vec::new();
    for packet in &cut[..7] {
        assert!(packet.data.len() <= 1514);
        let sliced = SlicedPacket::from_ethernet(&packet.data).expect("a packet");
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else {
            panic!("{sliced:?}");
        };
        let at = usize::try_from(tcp.sequence_number() - 1000).expect("fits");
        assert_eq!(at, carried.len());
        let sum = tcp
            .calc_checksum_ipv4([10, 0, 2, 100], [192, 0, 2, 1])
            .expect("short enough");
        assert_eq!(tcp.checksum(), sum);
        carried.extend_from_slice(tcp.payload());
    }
    assert_eq!(carried, payload);

    let whole = packets(&whole);
    assert_eq!(whole.len(), 2);
    assert_eq!(&whole[0].data[..], &frame[..100]);
    assert_eq!(
        usize::try_from(whole[0].original_len).ok(),
        Some(frame.len())
    );
    assert_eq!(whole[1].data, unsummed);
}

#[test]
fn the_snaplen_holds_for_pieces_and_the_length_is_true() {
    let (_folder, path) = folder();
    let mut captures = Captures::default();
    captures
        .start_now(spec(&path, ",snaplen=60"), [TAP])
        .expect("starts");
    let (frame, offload) = super_frame(&[7; 3000], 1000);
    show(&mut captures, &frame, &offload);
    show(&mut captures, &udp(&[1; 500]), &Offload::default());
    captures.finish();
    let lengths: Vec<(usize, u32)> = packets(&path)
        .iter()
        .map(|packet| (packet.data.len(), packet.original_len))
        .collect();
    assert_eq!(lengths, [(60, 1054), (60, 1054), (60, 1054), (60, 542)]);
}

#[test]
fn a_frame_that_is_not_what_it_says_is_stored_as_it_is() {
    let (_folder, path) = folder();
    let mut captures = Captures::default();
    captures.start_now(spec(&path, ""), [TAP]).expect("starts");
    let (_, offload) = super_frame(&[7; 3000], 1000);
    show(
        &mut captures,
        b"no packet at all, but long enough for what it says of itself",
        &offload,
    );
    captures.finish();
    assert_eq!(packets(&path).len(), 1);
}

#[test]
fn a_filter_picks() {
    let (_folder, path) = folder();
    let mut captures = Captures::default();
    captures
        .start_now(spec(&path, ",filter=tcp port 80"), [TAP])
        .expect("starts");
    show(&mut captures, &udp(b"x"), &Offload::default());
    let (frame, offload) = super_frame(&[7; 3000], 1000);
    // The ports are behind the first part's end.
    let parts = [IoSlice::new(&frame[..14]), IoSlice::new(&frame[14..])];
    captures.frame(TAP, Direction::FromGuest, &offload, &parts);
    captures.finish();
    assert_eq!(packets(&path).len(), 3);
    let Some(Block::InterfaceStatistics(counts)) = blocks(&path).pop() else {
        panic!("no statistics");
    };
    for wanted in [
        InterfaceStatisticsOption::IsbFilterAccept(3),
        InterfaceStatisticsOption::IsbUsrDeliv(3),
        InterfaceStatisticsOption::IsbIfDrop(0),
    ] {
        assert!(counts.options.contains(&wanted), "{wanted:?} {counts:?}");
    }
}

#[test]
fn ports_that_come_later_are_interfaces_later() {
    let (_folder, path) = folder();
    let mut captures = Captures::default();
    let port = |key, name| Port {
        key: PortKey(key),
        name,
    };
    let first = [port(3, "vde one"), port(5, "vde two")];
    captures.start_now(spec(&path, ""), first).expect("starts");
    let frame = udp(b"x");
    for (key, name) in [(5, "vde two"), (9, "qemu"), (3, "vde one"), (9, "qemu")] {
        captures.frame(
            port(key, name),
            Direction::ToGuest,
            &Offload::default(),
            &[IoSlice::new(&frame)],
        );
    }
    captures.finish();
    let ids: Vec<u32> = packets(&path).iter().map(|p| p.interface_id).collect();
    assert_eq!(ids, [1, 2, 0, 2]);
    let name = |block: &Block<'_>| match block {
        Block::InterfaceDescription(interface) => match &interface.options[0] {
            InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
            _ => None,
        },
        _ => None,
    };
    let names: Vec<String> = blocks(&path).iter().filter_map(name).collect();
    assert_eq!(names, ["vde one", "vde two", "qemu"]);
}

#[test]
fn interfaces_are_bounded() {
    let (_folder, path) = folder();
    let mut captures = Captures::default();
    captures.start_now(spec(&path, ""), []).expect("starts");
    let frame = udp(b"x");
    for key in 0..2000 {
        let port = Port {
            key: PortKey(key),
            name: "guest",
        };
        let parts = [IoSlice::new(&frame)];
        captures.frame(port, Direction::ToGuest, &Offload::default(), &parts);
    }
    captures.finish();
    let packets = packets(&path);
    assert_eq!(packets.len(), 2000);
    assert_eq!(packets[1999].interface_id, 1023);
}

#[test]
fn a_note_is_the_comment_of_the_next_packet_of_its_flow() {
    let (_folder, path) = folder();
    let mut captures = Captures::default();
    captures.start_now(spec(&path, ""), [TAP]).expect("starts");
    let (frame, offload) = super_frame(&[7; 3000], 1000);
    let note = Note::new(
        Protocol::Tcp,
        "10.0.2.100:40000".parse().expect("an address"),
        "192.0.2.1:80".parse().expect("an address"),
        "x".repeat(MAX_NOTE_LEN),
    );
    show(&mut captures, &frame, &offload);
    captures.note(&note);
    show(&mut captures, &udp(b"x"), &Offload::default());
    show(&mut captures, &frame, &offload);
    captures.finish();
    let has_comment: Vec<bool> = packets(&path)
        .iter()
        .map(|packet| matches!(packet.options[0], EnhancedPacketOption::Comment(_)))
        .collect();
    let expected = [false, false, false, false, true, false, false];
    assert_eq!(has_comment, expected);
}

#[test]
fn what_does_not_fit_is_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    let mut captures = Captures::default();
    captures.start_now(spec(&fifo, ""), [TAP]).expect("starts");
    assert_eq!(captures.list()[0].state, CaptureState::Waiting);
    // Nobody reads yet: the queue takes what it can.
    let (frame, offload) = super_frame(&[7; 60_000], 1000);
    for _ in 0..200 {
        show(&mut captures, &frame, &offload);
    }
    let lost = captures.list()[0].lost;
    assert!(lost > 0 && lost % 60 == 0, "{lost}");
    let copy = folder.path().join("copy.pcapng");
    let reader = {
        let (fifo, copy) = (fifo.clone(), copy.clone());
        thread::spawn(move || {
            let mut fifo = std::fs::File::open(fifo).expect("opens");
            let mut copy = std::fs::File::create(copy).expect("opens");
            std::io::copy(&mut fifo, &mut copy).expect("copies");
        })
    };
    while captures.list()[0].packets == 0 {
        thread::sleep(Duration::from_millis(5));
    }
    let small = udp(b"afterwards");
    while captures.list()[0].lost == lost {
        show(&mut captures, &small, &Offload::default());
        if captures.list()[0].packets > 12_000 - lost {
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    captures.finish();
    reader.join().expect("reads");
    let packets = packets(&copy);
    let dropped: Vec<u64> = packets
        .iter()
        .flat_map(|packet| &packet.options)
        .filter_map(|option| match option {
            EnhancedPacketOption::DropCount(count) => Some(*count),
            _ => None,
        })
        .collect();
    assert_eq!(dropped, [lost]);
    let big = packets.iter().filter(|packet| packet.original_len == 1054);
    assert_eq!(u64::try_from(big.count()).expect("fits") + lost, 200 * 60);
    let Some(Block::InterfaceStatistics(counts)) = blocks(&copy).pop() else {
        panic!("no statistics");
    };
    let wanted = InterfaceStatisticsOption::IsbIfDrop(lost);
    assert!(counts.options.contains(&wanted), "{counts:?}");
}

#[test]
fn captures_are_named_stopped_and_rotated() {
    let (folder, path) = folder();
    let other = folder.path().join("b.pcapng");
    let mut captures = Captures::default();
    let first = captures.start_now(spec(&path, ""), [TAP]).expect("starts");
    let busy = captures.start_now(spec(&path, ",snaplen=1"), [TAP]);
    assert!(matches!(busy, Err(CaptureError::Busy(_))), "{busy:?}");
    let second = captures.start_now(spec(&other, ""), [TAP]).expect("starts");
    let ids: Vec<CaptureId> = captures.list().iter().map(|info| info.id).collect();
    assert_eq!(ids, [first, second]);

    let wait = |act: &mut dyn FnMut(Answer<()>)| {
        let (sender, receiver) = mpsc::channel();
        act(Box::new(move |outcome| {
            let _ = sender.send(outcome);
        }));
        receiver.recv().expect("an answer")
    };
    let which = wait(&mut |answer| captures.stop(None, answer));
    assert!(matches!(which, Err(CaptureError::Which(2))), "{which:?}");
    wait(&mut |answer| captures.stop(Some(second), answer)).expect("stops");
    let again = wait(&mut |answer| captures.stop(Some(second), answer));
    assert!(matches!(again, Err(CaptureError::Unknown(_))), "{again:?}");
    show(&mut captures, &udp(b"one"), &Offload::default());
    wait(&mut |answer| captures.rotate(None, answer)).expect("rotates");
    show(&mut captures, &udp(b"two"), &Offload::default());
    let file = captures.list()[0].file.clone().expect("a file").to_string();
    assert!(
        file.contains("a_00002_") && file.ends_with(".pcapng"),
        "{file}"
    );
    wait(&mut |answer| captures.stop(None, answer)).expect("stops");
    assert_eq!(packets(&path).len(), 1);
    let later = packets(Path::new(&file));
    assert_eq!(later.len(), 1);
    assert_eq!(later[0].data, udp(b"two"));
    assert!(packets(&other).is_empty());
}

#[test]
fn files_stay_below_their_size_and_lose_nothing() {
    let (folder, path) = folder();
    let mut captures = Captures::default();
    captures
        .start_now(spec(&path, ",size=128K"), [TAP])
        .expect("starts");
    let frame = udp(&[7; 1400]);
    for _ in 0..1000 {
        show(&mut captures, &frame, &Offload::default());
    }
    captures.finish();
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder.path())
        .expect("a folder")
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    assert!(files.len() >= 12, "{files:?}");
    let mut count = 0;
    for file in &files {
        let size = std::fs::metadata(file).expect("a file").len();
        assert!(size <= (128 << 10) + 200, "{size}");
        count += packets(file).len();
    }
    assert_eq!(count, 1000);
}

#[test]
fn a_capture_that_cannot_be_opened_is_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut captures = Captures::default();
    let error = captures
        .start_now(spec(&folder.path().join("no/a.pcapng"), ""), [TAP])
        .expect_err("no folder");
    assert!(error.to_string().contains("make its directory first"));
    assert!(captures.list().is_empty());
}

#[test]
fn captures_are_bounded() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut captures = Captures::default();
    for n in 0..MAX_CAPTURES {
        let path = folder.path().join(format!("{n}.pcapng"));
        captures.start_now(spec(&path, ""), [TAP]).expect("starts");
    }
    let more = captures.start_now(spec(&folder.path().join("more"), ""), [TAP]);
    assert!(matches!(more, Err(CaptureError::TooMany)));
    show(&mut captures, &udp(b"x"), &Offload::default());
    captures.finish();
    for n in 0..MAX_CAPTURES {
        assert_eq!(packets(&folder.path().join(format!("{n}.pcapng"))).len(), 1);
    }
}
