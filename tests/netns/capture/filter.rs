//! Filters pick what libpcap picks: tcpdump reads the same frames with the same
//! words.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use gw::capture::Filter;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};

use crate::harness::require;

/// What people write, and what is easily got wrong.
const EXPRESSIONS: &[&str] = &[
    "ip",
    "ip6",
    "arp",
    "tcp",
    "udp",
    "icmp",
    "icmp6",
    "host 10.0.2.100",
    "src host 10.0.2.100",
    "dst host 10.0.2.100",
    "src 10.0.2.2",
    "dst 192.0.2.1",
    "host fd00::100",
    "src 2001:db8::1",
    "src or dst host 10.0.2.2",
    "src and dst host 10.0.2.2",
    "dst or src host 10.0.2.2",
    "src and dst net 10.0.2.0/24",
    "net 10.0.2.0/24",
    "net 10.0.2",
    "net 10",
    "net 10.0.2.2",
    "src net 192.0.2.0/24",
    "net 0.0.0.0/0",
    "net fd00::/64",
    "net 2001:db8::/32",
    "dst net fd00::/16",
    "net ::/0",
    "port 53",
    "port 0",
    "tcp port 53",
    "udp port 53",
    "src port 53",
    "dst port 53",
    "tcp dst port 443",
    "udp src port 40000",
    "src and dst port 53",
    "src or dst port 53",
    "port 53 or 80",
    "port (53 or 80)",
    "tcp port 80 or 443",
    "port 53 and not 40000",
    "portrange 50-100",
    "tcp portrange 400-500",
    "src portrange 40000-65535",
    "portrange 100-50",
    "ether host 02:00:00:00:00:01",
    "ether src 02:00:00:00:00:02",
    "ether dst host ff:ff:ff:ff:ff:ff",
    "not tcp",
    "! tcp",
    "not port 53",
    "not host 10.0.2.100",
    "not (arp or ip6)",
    "!(tcp or udp)",
    "tcp or udp and port 53",
    "tcp or (udp and port 53)",
    "arp or ip6 and icmp6 or tcp",
    "host 10.0.2.100 or 192.0.2.1 and udp",
    "not tcp and port 53",
    "tcp && port 80 || udp && ! port 53",
    "host 10.0.2.100 and (port 53 or port 80) and not src port 80",
];

/// What both refuse.
const REFUSED: &[&str] = &[
    "host",
    "port 65536",
    "net 10.0.2.1/24",
    "net 10.0.0.0/33",
    "net fd00::1/64",
    "tcp and",
    "(tcp",
    "tcp)",
    "and tcp",
    "10.0.0.1",
    "tcp udp",
    "portrange 1-70000",
    "ether host 1:2",
    "not",
    "tcp src 10.0.0.1 port",
];

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn next(&mut self, below: usize) -> usize {
        // The constants are Knuth's (MMIX).
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % below
    }

    fn pick<'t>(&mut self, of: &[&'t str]) -> &'t str {
        of[self.next(of.len())]
    }
}

/// An expression of the grammar.
fn expression(dice: &mut Dice, depth: usize) -> String {
    if depth > 0 {
        match dice.next(6) {
            0 => return format!("({})", expression(dice, depth - 1)),
            1 => return format!("not ({})", expression(dice, depth - 1)),
            2 | 3 => {
                let (one, two) = (expression(dice, depth - 1), expression(dice, depth - 1));
                return format!("{one} {} {two}", dice.pick(&["and", "or", "&&", "||"]));
            }
            _ => {}
        }
    }
    let side = dice.pick(&["", "", "src ", "dst ", "src or dst ", "src and dst "]);
    let transport = dice.pick(&["", "tcp ", "udp "]);
    let negation = dice.pick(&["", "", "", "not ", "! "]);
    let primitive = match dice.next(7) {
        0 => dice
            .pick(&["ip", "ip6", "arp", "tcp", "udp", "icmp", "icmp6"])
            .to_owned(),
        1 => format!(
            "{side}host {}",
            dice.pick(&[
                "10.0.2.100",
                "10.0.2.2",
                "192.0.2.1",
                "fd00::100",
                "2001:db8::1"
            ])
        ),
        2 => format!(
            "{side}net {}",
            dice.pick(&[
                "10.0.2.0/24",
                "192.0.0.0/8",
                "10",
                "fd00::/64",
                "2001:db8::/33",
                "0.0.0.0/1"
            ])
        ),
        3 | 4 => format!(
            "{transport}{side}port {}",
            dice.pick(&["0", "53", "80", "443", "40000", "65535"])
        ),
        5 => format!(
            "{transport}{side}portrange {}",
            dice.pick(&["0-52", "53-80", "443-40000", "81-79"])
        ),
        _ => format!(
            "ether {}host {}",
            dice.pick(&["", "src ", "dst "]),
            dice.pick(&[
                "02:00:00:00:00:01",
                "02:00:00:00:00:02",
                "ff:ff:ff:ff:ff:ff"
            ])
        ),
    };
    format!("{negation}{primitive}")
}

/// Every kind of frame that filters tell apart, and senseless ones. None is too short:
/// what libpcap makes of those depends on its optimizer.
fn frames() -> Vec<Vec<u8>> {
    let v4 = [[10, 0, 2, 100], [10, 0, 2, 2], [192, 0, 2, 1]];
    let mut v6 = [[0; 16]; 2];
    v6[0][..2].copy_from_slice(&[0xfd, 0]);
    v6[0][14..].copy_from_slice(&[1, 0]);
    v6[1][..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
    v6[1][15] = 1;
    let ports: [[u16; 2]; 5] = [[40000, 53], [53, 40000], [80, 65535], [53, 53], [443, 0]];
    let mut frames = Vec::new();
    for protocol in [1, 2, 6, 17, 47, 58, 132] {
        for ports in ports {
            let mut segment = [ports[0].to_be_bytes(), ports[1].to_be_bytes()].concat();
            segment.extend([0; 16]);
            for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 1), (1, 1)] {
                for (options, fragment) in [
                    (0, 0),
                    (8, 0),
                    (40, 0),
                    (0, 0x2000),
                    (0, 0x4000),
                    (0, 7),
                    (8, 0x2007),
                ] {
                    frames.push(ipv4(
                        v4[from], v4[to], protocol, options, fragment, &segment,
                    ));
                }
            }
            for (from, to) in [(0, 1), (1, 0), (1, 1)] {
                frames.push(ipv6(v6[from], v6[to], protocol, &segment));
                // Behind a fragment header, and behind options.
                let header = [&[protocol, 0, 0, 1, 0, 0, 0, 1], &segment[..]].concat();
                frames.push(ipv6(v6[from], v6[to], 44, &header));
                let header = [&[protocol, 0, 0, 0, 0, 0, 0, 0], &segment[..]].concat();
                frames.push(ipv6(v6[from], v6[to], 0, &header));
            }
        }
    }
    for kind in [0x0806_u16, 0x8035] {
        for (from, to) in [(0, 1), (1, 2)] {
            let packet = [
                &[0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1],
                &v4[from][..],
                &[0; 6],
                &v4[to],
            ]
            .concat();
            frames.push(ethernet([255; 6], kind, &packet));
        }
    }
    // A tag in front hides what is behind it.
    let tagged = [&[0, 5, 8, 0], &frames[0][14..]].concat();
    frames.push(ethernet([2, 0, 0, 0, 0, 2], 0x8100, &tagged));
    frames.push(ethernet([1, 128, 194, 0, 0, 0], 0x0026, &[0x42; 40]));
    let mut dice = Dice(7);
    for _ in 0..200 {
        let kind = [0x0800, 0x86dd, 0x0806, 0x1234][dice.next(4)];
        let bytes: Vec<u8> = (0..64)
            .map(|_| u8::try_from(dice.next(256)).expect("a byte"))
            .collect();
        frames.push(ethernet([2, 0, 0, 0, 0, 1], kind, &bytes));
    }
    frames
}

fn ethernet(to: [u8; 6], kind: u16, packet: &[u8]) -> Vec<u8> {
    [&to[..], &[2, 0, 0, 0, 0, 1], &kind.to_be_bytes(), packet].concat()
}

fn ipv4(
    from: [u8; 4],
    to: [u8; 4],
    protocol: u8,
    options: usize,
    fragment: u16,
    segment: &[u8],
) -> Vec<u8> {
    let words = u8::try_from(5 + options / 4).expect("fits");
    let len = u16::try_from(20 + options + segment.len()).expect("fits");
    let packet = [
        &[0x40 | words, 0][..],
        &len.to_be_bytes(),
        &[0, 1],
        &fragment.to_be_bytes(),
        &[64, protocol, 0, 0],
        &from,
        &to,
        &vec![1; options],
        segment,
    ]
    .concat();
    ethernet([2, 0, 0, 0, 0, 2], 0x0800, &packet)
}

fn ipv6(from: [u8; 16], to: [u8; 16], next: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).expect("fits");
    let packet = [
        &[0x60, 0, 0, 0][..],
        &len.to_be_bytes(),
        &[next, 64],
        &from,
        &to,
        payload,
    ]
    .concat();
    ethernet([2, 0, 0, 0, 0, 2], 0x86dd, &packet)
}

/// A file of the frames; the times are their numbers.
fn file(frames: &[Vec<u8>]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let mut writer =
        PcapWriter::with_header(file.as_file(), PcapHeader::default()).expect("writes");
    for (number, frame) in (0..).zip(frames) {
        let len = u32::try_from(frame.len()).expect("fits");
        let packet = PcapPacket::new(Duration::from_secs(number), len, frame);
        writer.write_packet(&packet).expect("writes");
    }
    file.as_file().flush().expect("writes");
    file
}

/// Numbers of the frames that tcpdump picks; `None`: it does not understand. Without
/// libpcap's optimizer, of which `not src net 2001:db8::/33 or src and dst net
/// 2001:db8::/33` is an example that 1.10.3 gets wrong.
fn tcpdump(file: &tempfile::NamedTempFile, expression: &str) -> Option<Vec<u64>> {
    let output = Command::new("tcpdump")
        .args(["-n", "-O", "-w", "-", "-r"])
        .arg(file.path())
        .arg(expression)
        .stderr(Stdio::null())
        .output()
        .expect("tcpdump starts");
    if !output.status.success() {
        return None;
    }
    let mut reader = PcapReader::new(&output.stdout[..]).expect("a capture");
    let mut picked = Vec::new();
    while let Some(packet) = reader.next_raw_packet() {
        picked.push(packet.expect("a packet").ts_sec.into());
    }
    Some(picked)
}

fn ours(frames: &[Vec<u8>], expression: &str) -> Vec<u64> {
    let filter: Filter = expression
        .parse()
        .unwrap_or_else(|e| panic!("{expression}: {e}"));
    (0..)
        .zip(frames)
        .filter(|(_, frame)| filter.matches(frame))
        .map(|(number, _)| number)
        .collect()
}

fn same(frames: &[Vec<u8>], file: &tempfile::NamedTempFile, expression: &str) {
    let Some(theirs) = tcpdump(file, expression) else {
        // libpcap knows what can never match, and says so instead.
        assert_eq!(ours(frames, expression), [0; 0], "{expression}");
        return;
    };
    let ours = ours(frames, expression);
    let differ = ours
        .iter()
        .filter(|n| !theirs.contains(n))
        .chain(theirs.iter().filter(|n| !ours.contains(n)));
    let differ: Vec<_> = differ
        .map(|&n| &frames[usize::try_from(n).expect("fits")])
        .collect();
    assert!(differ.is_empty(), "{expression}: {differ:02x?}");
}

#[test]
fn filters_pick_what_tcpdump_picks() {
    require("tcpdump");
    let frames = frames();
    let file = file(&frames);
    for expression in EXPRESSIONS {
        assert!(
            tcpdump(&file, expression).is_some(),
            "tcpdump refuses {expression}"
        );
        same(&frames, &file, expression);
    }
}

#[test]
fn any_filter_picks_what_tcpdump_picks() {
    require("tcpdump");
    let frames = frames();
    let file = file(&frames);
    let mut dice = Dice(1);
    for _ in 0..400 {
        same(&frames, &file, &expression(&mut dice, 4));
    }
}

#[test]
fn what_tcpdump_refuses_is_refused() {
    require("tcpdump");
    let file = file(&frames());
    for expression in REFUSED {
        assert_eq!(
            tcpdump(&file, expression),
            None,
            "tcpdump takes {expression}"
        );
        let refused = expression.parse::<Filter>();
        assert!(refused.is_err(), "{expression}");
    }
}
