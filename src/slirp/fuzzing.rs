//! Doors for the fuzz targets to the parsers that are private to this room.

use std::time::{Duration, Instant};

use super::packet::{Ethernet, IpPacket, TcpHeader};
use super::reassembly::Reassembly;

/// Reads `bytes` as a frame, as an IP packet and as a TCP header.
///
/// # Panics
/// When a parser accepts what does not fit the bytes.
pub fn headers(bytes: &[u8]) {
    let _ = Ethernet::parse(bytes);
    let _ = TcpHeader::parse(bytes).map(|tcp| assert!(tcp.payload + 20 <= bytes.len()));
    for start in [0, super::ETHERNET] {
        if let Ok(ip) = IpPacket::parse(bytes, start) {
            assert!(ip.packet.start == start && ip.packet.end <= bytes.len());
            assert!(ip.payload.start <= ip.payload.end && ip.payload.end == ip.packet.end);
        }
    }
}

/// Feeds packets that may be fragments to one table, a second apart.
///
/// # Panics
/// When what is put together is no packet, or has parts that nobody sent.
pub fn reassemble(packets: &[&[u8]]) {
    let mut table = Reassembly::default();
    let mut now = Instant::now();
    let mut longest = 0;
    for bytes in packets {
        now += Duration::from_secs(1);
        longest += bytes.len();
        let Ok(ip) = IpPacket::parse(bytes, 0) else {
            continue;
        };
        let Some(fragment) = ip.fragment else {
            continue;
        };
        if let Ok(Some(whole)) = table.input(bytes, &ip, fragment, now) {
            assert!(whole.len() <= longest, "made out of nothing");
            assert!(IpPacket::parse(&whole, 0).is_ok(), "no packet");
        }
        for packet in table.expire(now) {
            assert!(packet.len() <= longest);
        }
    }
}
