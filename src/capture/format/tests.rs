//! What is written is read back by pcap-file's readers, equal.

use super::*;
use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::{Block, PcapNgReader};
use proptest::prelude::*;

fn about(form: Form) -> About {
    About {
        form,
        snaplen: 1000,
        filter: None,
    }
}

fn bytes(encoder: &mut Encoder) -> Vec<u8> {
    encoder.drain(<[u8]>::to_vec)
}

fn blocks(bytes: &[u8]) -> Vec<Block<'static>> {
    let mut reader = PcapNgReader::new(bytes).expect("a section");
    let mut blocks = Vec::new();
    while let Some(block) = reader.next_block() {
        blocks.push(block.expect("a block").into_owned());
    }
    blocks
}

/// A packet as it may come.
#[derive(Debug, Clone)]
struct Given {
    nanos: u64,
    interface: u32,
    direction: Direction,
    data: Vec<u8>,
    more: usize,
    lost: u64,
    comment: Option<String>,
}

impl Given {
    fn packet(&self) -> Packet<'_> {
        Packet {
            at: Duration::from_nanos(self.nanos),
            interface: self.interface,
            direction: self.direction,
            data: &self.data,
            len: self.data.len() + self.more,
            lost: self.lost,
            comment: self.comment.as_deref(),
        }
    }
}

fn any_packet() -> impl Strategy<Value = Given> {
    let direction = prop_oneof![Just(Direction::FromGuest), Just(Direction::ToGuest)];
    (
        0..(u64::from(u32::MAX) * 1_000_000_000),
        0..3_u32,
        direction,
        prop::collection::vec(any::<u8>(), 0..200),
        0..70_000_usize,
        prop_oneof![Just(0), any::<u64>()],
        prop::option::of("[ -~äö]{0,40}"),
    )
        .prop_map(
            |(nanos, interface, direction, data, more, lost, comment)| Given {
                nanos,
                interface,
                direction,
                data,
                more,
                lost,
                comment,
            },
        )
}

proptest! {
    #[test]
    fn pcapng_is_read_back(packets in prop::collection::vec(any_packet(), 0..20)) {
        let mut encoder = Encoder::new(about(Form::PcapNg)).expect("begins");
        for name in ["tap0", "", "ä b"] {
            encoder.interface(name).expect("writes");
        }
        for packet in &packets {
            let before = encoder.len();
            encoder.packet(&packet.packet()).expect("writes");
            prop_assert!(encoder.len() - before <= Encoder::size_of(&packet.packet()));
            prop_assert_eq!(encoder.len() % 4, 0);
        }
        let blocks = blocks(&bytes(&mut encoder));
        let names: Vec<String> = blocks[..3]
            .iter()
            .map(|block| match block {
                Block::InterfaceDescription(interface) => {
                    assert_eq!(interface.snaplen, 1000);
                    assert!(interface.options.contains(&InterfaceDescriptionOption::IfTsResol(9)));
                    match &interface.options[0] {
                        InterfaceDescriptionOption::IfName(name) => name.to_string(),
                        other => panic!("{other:?}"),
                    }
                }
                other => panic!("{other:?}"),
            })
            .collect();
        prop_assert_eq!(names, ["tap0", "", "ä b"]);
        prop_assert_eq!(blocks.len() - 3, packets.len());
        for (block, given) in blocks[3..].iter().zip(&packets) {
            let Block::EnhancedPacket(read) = block else {
                panic!("{block:?}");
            };
            let flags = match given.direction {
                Direction::FromGuest => 2,
                Direction::ToGuest => 1,
            };
            let mut options = vec![EnhancedPacketOption::Flags(flags)];
            if let Some(text) = &given.comment {
                options.insert(0, EnhancedPacketOption::Comment(text.into()));
            }
            if given.lost > 0 {
                options.push(EnhancedPacketOption::DropCount(given.lost));
            }
            prop_assert_eq!(read.interface_id, given.interface);
            prop_assert_eq!(read.timestamp, Duration::from_nanos(given.nanos));
            prop_assert_eq!(&read.data[..], &given.data[..]);
            prop_assert_eq!(usize::try_from(read.original_len).expect("fits"), given.data.len() + given.more);
            prop_assert_eq!(&read.options, &options);
        }
    }

    #[test]
    fn classic_pcap_is_read_back(packets in prop::collection::vec(any_packet(), 0..20)) {
        let mut encoder = Encoder::new(about(Form::Pcap)).expect("begins");
        encoder.interface("tap0").expect("is left out");
        for packet in &packets {
            encoder.packet(&packet.packet()).expect("writes");
        }
        let bytes = bytes(&mut encoder);
        prop_assert_eq!(&bytes[..4], &0xa1b2_3c4d_u32.to_ne_bytes());
        let mut reader = PcapReader::new(&bytes[..]).expect("a header");
        prop_assert_eq!(reader.header().snaplen, 1000);
        prop_assert_eq!(reader.header().datalink, DataLink::ETHERNET);
        for given in &packets {
            // The reader that looks into it refuses lengths above the snaplen.
            let read = reader.next_raw_packet().expect("one more").expect("a packet");
            let at = Duration::new(read.ts_sec.into(), read.ts_frac);
            prop_assert_eq!(at, Duration::from_nanos(given.nanos));
            prop_assert_eq!(&read.data[..], &given.data[..]);
            prop_assert_eq!(usize::try_from(read.orig_len).expect("fits"), given.data.len() + given.more);
        }
        prop_assert!(reader.next_raw_packet().is_none());
    }
}

#[test]
fn statistics_say_what_was_lost() {
    let mut encoder = Encoder::new(About {
        filter: Some("tcp".to_owned()),
        ..about(Form::PcapNg)
    })
    .expect("begins");
    encoder.interface("tap0").expect("writes");
    let began = Duration::from_secs(1_700_000_000);
    let ended = began + Duration::from_secs(5);
    encoder
        .statistics(&Statistics {
            interface: 0,
            began,
            ended,
            picked: 10,
            lost: 3,
            written: 7,
        })
        .expect("writes");
    let bytes = bytes(&mut encoder);
    let blocks = blocks(&bytes);
    let [
        Block::InterfaceDescription(interface),
        Block::InterfaceStatistics(read),
    ] = &blocks[..]
    else {
        panic!("{blocks:?}");
    };
    let filter = InterfaceDescriptionOption::IfFilter(b"\0tcp".as_slice().into());
    assert!(interface.options.contains(&filter));
    assert_eq!(
        read.options,
        [
            InterfaceStatisticsOption::IsbStartTime(timestamp(began)),
            InterfaceStatisticsOption::IsbEndTime(timestamp(ended)),
            InterfaceStatisticsOption::IsbIfDrop(3),
            InterfaceStatisticsOption::IsbUsrDeliv(7),
            InterfaceStatisticsOption::IsbFilterAccept(10),
        ]
    );
    // The upper half of a time comes first, as everywhere in the format.
    let nanoseconds = u64::try_from(ended.as_nanos()).expect("64 bits");
    let half = |n: u64| {
        u32::try_from(n & 0xffff_ffff)
            .expect("32 bits")
            .to_ne_bytes()
    };
    let time = [half(nanoseconds >> 32), half(nanoseconds)].concat();
    assert_eq!(bytes.windows(8).filter(|word| *word == time).count(), 2);
}
