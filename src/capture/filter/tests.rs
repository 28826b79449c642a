//! What is written is read, and picks what it should. That libpcap agrees is
//! shown by `tests/netns/capture_filter.rs`.

use super::*;
use etherparse::{ArpEthIpv4Packet, ArpOperation, PacketBuilder, PacketBuilderStep};
use proptest::prelude::*;

fn parse(text: &str) -> Filter {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn error(text: &str) -> String {
    let error = text.parse::<Filter>().expect_err(text);
    error.to_string()
}

fn v4() -> PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ipv4(
        [10, 0, 2, 100],
        [192, 0, 2, 1],
        64,
    )
}

fn udp() -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = v4().udp(5000, 53);
    builder.write(&mut frame, b"query").expect("writes");
    frame
}

fn tcp6() -> Vec<u8> {
    let from = "fd00::100"
        .parse::<std::net::Ipv6Addr>()
        .expect("an address");
    let to = "2001:db8::1"
        .parse::<std::net::Ipv6Addr>()
        .expect("an address");
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv6(from.octets(), to.octets(), 64)
        .tcp(40000, 443, 1, 1000)
        .write(&mut frame, b"")
        .expect("writes");
    frame
}

fn arp() -> Vec<u8> {
    let mut frame = Vec::new();
    let packet = ArpEthIpv4Packet {
        operation: ArpOperation::REQUEST,
        sender_mac: [2, 0, 0, 0, 0, 1],
        sender_ipv4: [10, 0, 2, 100],
        target_mac: [0; 6],
        target_ipv4: [10, 0, 2, 2],
    };
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [255; 6])
        .arp(packet.into())
        .write(&mut frame)
        .expect("writes");
    frame
}

#[test]
fn frames_are_picked() {
    let frames = [udp(), tcp6(), arp()];
    for (text, picked) in [
        ("ip", [true, false, false]),
        ("ip6", [false, true, false]),
        ("arp", [false, false, true]),
        ("udp", [true, false, false]),
        ("tcp", [false, true, false]),
        ("icmp or icmp6", [false, false, false]),
        ("host 10.0.2.100", [true, false, true]),
        ("dst 10.0.2.100", [false, false, false]),
        ("dst host 10.0.2.2", [false, false, true]),
        ("src host fd00::100", [false, true, false]),
        ("net 10.0.2.0/24", [true, false, true]),
        ("src and dst net 10", [false, false, true]),
        ("src or dst net 2001:db8::/32", [false, true, false]),
        ("port 53", [true, false, false]),
        ("tcp port 53", [false, false, false]),
        ("udp dst port 53 or 443", [true, false, false]),
        ("port (53 or 443)", [true, true, false]),
        ("portrange 400-500", [false, true, false]),
        ("not port 53", [false, true, true]),
        ("! port 53 && ! arp", [false, true, false]),
        // Equal precedence, from the left.
        ("arp or udp and port 443", [false, false, false]),
        ("arp or (udp and port 53)", [true, false, true]),
        ("ether host 02:00:00:00:00:02", [true, true, false]),
        ("ether src 02:00:00:00:00:01", [true, true, true]),
        ("ether dst host ff:ff:ff:ff:ff:ff", [false, false, true]),
    ] {
        let filter = parse(text);
        let found = frames.each_ref().map(|frame| filter.matches(frame));
        assert_eq!(found, picked, "{text}");
        let again = frames.each_ref().map(|frame| {
            let head = &frame[..frame.len().min(HEAD_LEN)];
            parse(&filter.to_string()).matches(head)
        });
        assert_eq!(again, picked, "{filter}");
    }
}

#[test]
fn what_is_too_short_is_not_picked() {
    let frame = udp();
    for text in [
        "udp",
        "not udp",
        "port 53",
        "not port 53",
        "host 10.0.2.100",
    ] {
        for len in [0, 13, 14, 20] {
            assert!(!parse(text).matches(&frame[..len]), "{text} {len}");
        }
    }
}

#[test]
fn errors_point_at_the_word() {
    for (text, parts) in [
        ("", &["as a whole", "leave filter= out"][..]),
        ("  ", &["as a whole"]),
        ("tcp prot 80", &["at 'prot', character 5", "'and' or 'or'"]),
        ("prot 80", &["at 'prot', character 1", "portrange"]),
        (
            "host example.com",
            &["at 'example.com', character 6", "not looked up"],
        ),
        ("host", &["at its end", "an address"]),
        ("port http", &["at 'http', character 6", "0 to 65535"]),
        ("port 65536", &["at '65536'"]),
        ("port 080", &["at '080'"]),
        ("portrange 80", &["two ports"]),
        (
            "net 10.0.2.1/24",
            &["at '10.0.2.1/24'", "write 10.0.2.0/24"],
        ),
        ("net 10.0.2.0/33", &["a network"]),
        ("net fd00::1/64", &["write fd00::/64"]),
        ("ether host 1:2", &["a MAC address"]),
        ("tcp and", &["at its end", "a condition"]),
        ("and tcp", &["at 'and', character 1"]),
        ("(tcp", &["at its end", "')'"]),
        ("tcp)", &["at ')', character 4", "no bracket"]),
        ("(tcp udp)", &["at 'udp', character 6"]),
        ("80", &["at '80', character 1"]),
        ("tcp or 80", &["at '80'"]),
        ("tcp host 10.0.0.1", &["at 'host'"]),
        ("tcp src 10.0.0.1", &["'port' or 'portrange'"]),
        ("tcp & udp", &["at '&'"]),
        ("tcp[13] == 2", &["at 'tcp[13]'"]),
        ("äö tcp", &["at 'äö', character 1"]),
        ("tcp ä", &["at 'ä', character 5"]),
    ] {
        let said = error(text);
        for part in parts {
            assert!(said.contains(part), "{text}: {said}");
        }
    }
}

#[test]
fn filters_are_bounded() {
    let deep = |depth| format!("{}tcp{}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(parse(&deep(MAX_DEPTH)).to_string(), "tcp");
    assert!(error(&deep(MAX_DEPTH + 1)).contains("64 brackets"));
    let nots = format!("{}tcp", "!".repeat(MAX_DEPTH + 1));
    assert!(error(&nots).contains("64 brackets"));
    let long = "tcp or ".repeat(MAX_LEN);
    assert!(error(&long).contains("longer than 1024"));
}

/// Words of filters in any order.
fn any_words() -> impl Strategy<Value = String> {
    let word = proptest::sample::select(vec![
        "host",
        "net",
        "port",
        "portrange",
        "src",
        "dst",
        "tcp",
        "udp",
        "icmp",
        "arp",
        "ip",
        "ip6",
        "ether",
        "and",
        "or",
        "not",
        "&&",
        "||",
        "!",
        "(",
        ")",
        "10.0.0.1",
        "10.0.0.0/8",
        "80",
        "80-90",
        "::1",
        "fd00::/64",
        "02:00:00:00:00:01",
        "443",
    ]);
    prop::collection::vec(word, 0..12).prop_map(|words| words.join(" "))
}

proptest! {
    #[test]
    fn what_is_read_can_be_written(text in any_words(), frame: Vec<u8>) {
        super::super::fuzz_filter(&text, &frame);
    }

    #[test]
    fn any_text_is_read_or_refused(text: String, frame: Vec<u8>) {
        super::super::fuzz_filter(&text, &frame);
    }
}
