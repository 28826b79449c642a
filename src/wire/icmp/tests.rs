//! Tests of ICMP: what may be answered, how errors quote, how echo returns.

use std::net::SocketAddr;

use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, TransportSlice, icmpv4, icmpv6};
use proptest::prelude::*;

use super::*;
use crate::wire::udp;

const GUEST4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const GATEWAY4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const REMOTE4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x100);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const REMOTE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

fn udp_packet(src: impl Into<IpAddr>, dst: impl Into<IpAddr>, payload: &[u8]) -> Vec<u8> {
    let (src, dst) = (
        SocketAddr::new(src.into(), 4000),
        SocketAddr::new(dst.into(), 53),
    );
    udp::datagram(src, dst, 64, payload).expect("fits")
}

fn sliced(packet: &[u8]) -> SlicedPacket<'_> {
    SlicedPacket::from_ip(packet).expect("a well-formed packet")
}

/// The type of an ICMP packet whose checksums were checked.
fn v4_type(packet: &[u8]) -> (Icmpv4Type, &[u8]) {
    assert!(
        checksum::Sum::new().bytes(&packet[..20]).is_valid(),
        "IPv4 header checksum"
    );
    let Some(TransportSlice::Icmpv4(icmp)) = sliced(packet).transport else {
        panic!("not ICMP");
    };
    assert!(
        checksum::Sum::new().bytes(icmp.slice()).is_valid(),
        "ICMP checksum"
    );
    (icmp.icmp_type(), icmp.payload())
}

fn v6_type(packet: &[u8]) -> (Icmpv6Type, &[u8]) {
    let sliced = sliced(packet);
    let Some(NetSlice::Ipv6(ip)) = &sliced.net else {
        panic!("not IPv6");
    };
    let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else {
        panic!("not ICMPv6");
    };
    assert!(icmp.is_checksum_valid(ip.header().source(), ip.header().destination()));
    (icmp.icmp_type(), icmp.payload())
}

#[test]
fn v4_errors_say_what_they_mean() {
    use icmpv4::DestUnreachableHeader as Unreachable;
    let offending = udp_packet(GUEST4, REMOTE4, b"hello");
    let table = [
        (
            V4Error::NetUnreachable,
            Icmpv4Type::DestinationUnreachable(Unreachable::Network),
        ),
        (
            V4Error::HostUnreachable,
            Icmpv4Type::DestinationUnreachable(Unreachable::Host),
        ),
        (
            V4Error::ProtocolUnreachable,
            Icmpv4Type::DestinationUnreachable(Unreachable::Protocol),
        ),
        (
            V4Error::PortUnreachable,
            Icmpv4Type::DestinationUnreachable(Unreachable::Port),
        ),
        (
            V4Error::FragmentationNeeded { mtu: 1400 },
            Icmpv4Type::DestinationUnreachable(Unreachable::FragmentationNeeded {
                next_hop_mtu: 1400,
            }),
        ),
        (
            V4Error::AdminProhibited,
            Icmpv4Type::DestinationUnreachable(Unreachable::FilterProhibited),
        ),
        (
            V4Error::TtlExceeded,
            Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit),
        ),
        (
            V4Error::ReassemblyTimeExceeded,
            Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::FragmentReassemblyTimeExceeded),
        ),
    ];
    for (kind, expected) in table {
        let packet = v4_error(GATEWAY4, GUEST4, kind, &offending);
        assert_eq!(v4_type(&packet), (expected, &offending[..]), "{kind:?}");
        assert!(
            !may_answer(&packet),
            "an error is not answered with an error: {kind:?}"
        );
    }
}

#[test]
fn v6_errors_say_what_they_mean() {
    use icmpv6::{DestUnreachableCode as Unreachable, TimeExceededCode};
    let offending = udp_packet(GUEST6, REMOTE6, b"hello");
    let table = [
        (
            V6Error::NoRoute,
            Icmpv6Type::DestinationUnreachable(Unreachable::NoRoute),
        ),
        (
            V6Error::AdminProhibited,
            Icmpv6Type::DestinationUnreachable(Unreachable::Prohibited),
        ),
        (
            V6Error::AddressUnreachable,
            Icmpv6Type::DestinationUnreachable(Unreachable::Address),
        ),
        (
            V6Error::PortUnreachable,
            Icmpv6Type::DestinationUnreachable(Unreachable::Port),
        ),
        (
            V6Error::PacketTooBig { mtu: 1280 },
            Icmpv6Type::PacketTooBig { mtu: 1280 },
        ),
        (
            V6Error::HopLimitExceeded,
            Icmpv6Type::TimeExceeded(TimeExceededCode::HopLimitExceeded),
        ),
        (
            V6Error::ReassemblyTimeExceeded,
            Icmpv6Type::TimeExceeded(TimeExceededCode::FragmentReassemblyTimeExceeded),
        ),
    ];
    for (kind, expected) in table {
        let packet = v6_error(GATEWAY6, GUEST6, kind, &offending);
        assert_eq!(v6_type(&packet), (expected, &offending[..]), "{kind:?}");
        assert!(
            !may_answer(&packet),
            "an error is not answered with an error: {kind:?}"
        );
    }
}

#[test]
fn quotes_are_bounded_and_leave_padding_out() {
    let long = udp_packet(GUEST4, REMOTE4, &[7; 3000]);
    let packet = v4_error(GATEWAY4, GUEST4, V4Error::PortUnreachable, &long);
    assert_eq!(packet.len(), MAX_V4_ERROR_LEN);
    assert_eq!(v4_type(&packet).1, &long[..548]);
    let long = udp_packet(GUEST6, REMOTE6, &[7; 3000]);
    let packet = v6_error(GATEWAY6, GUEST6, V6Error::PortUnreachable, &long);
    assert_eq!(packet.len(), MAX_V6_ERROR_LEN);
    assert_eq!(v6_type(&packet).1, &long[..1232]);

    let mut padded = udp_packet(GUEST4, REMOTE4, b"x");
    let len = padded.len();
    padded.resize(60, 0);
    let packet = v4_error(GATEWAY4, GUEST4, V4Error::PortUnreachable, &padded);
    assert_eq!(v4_type(&packet).1, &padded[..len]);
}

#[test]
fn packets_that_are_no_ones_are_not_answered() {
    let v4 = |text: &str| text.parse::<Ipv4Addr>().expect("address");
    for (src, dst, expected) in [
        ("10.0.2.15", "192.0.2.1", true),
        ("10.0.2.15", "224.0.0.251", false),
        ("10.0.2.15", "255.255.255.255", false),
        ("0.0.0.0", "192.0.2.1", false),
        ("255.255.255.255", "192.0.2.1", false),
        ("239.1.1.1", "192.0.2.1", false),
        ("127.0.0.1", "192.0.2.1", false),
    ] {
        assert_eq!(
            may_answer(&udp_packet(v4(src), v4(dst), b"x")),
            expected,
            "{src} to {dst}"
        );
    }
    let v6 = |text: &str| text.parse::<Ipv6Addr>().expect("address");
    for (src, dst, expected) in [
        ("fd00::100", "2001:db8::1", true),
        ("fd00::100", "ff02::1", false),
        ("::", "2001:db8::1", false),
        ("ff02::1", "2001:db8::1", false),
        ("::1", "2001:db8::1", false),
    ] {
        assert_eq!(
            may_answer(&udp_packet(v6(src), v6(dst), b"x")),
            expected,
            "{src} to {dst}"
        );
    }
}

#[test]
fn only_the_first_fragment_is_answered() {
    let mut packet = udp_packet(GUEST4, REMOTE4, &[0; 64]);
    packet[6] = 0x20; // more fragments, offset 0
    assert!(may_answer(&packet));
    packet[7] = 1;
    assert!(!may_answer(&packet));

    let inner = udp_packet(GUEST6, REMOTE6, &[0; 64]);
    for (offset_and_flags, expected) in [([0x00, 0x01], true), ([0x00, 0x09], false)] {
        let mut packet = inner[..40].to_vec();
        packet[6] = 44;
        packet[4..6].copy_from_slice(&80u16.to_be_bytes());
        packet.extend_from_slice(&[17, 0, offset_and_flags[0], offset_and_flags[1], 0, 0, 0, 1]);
        packet.extend_from_slice(&inner[40..]);
        assert_eq!(may_answer(&packet), expected, "{offset_and_flags:?}");
    }
}

#[test]
fn icmp_queries_may_be_answered_and_redirects_not() {
    let request = Echo {
        src: GUEST4.into(),
        dst: REMOTE4.into(),
        ttl: 1,
        ident: 1,
        seq: 2,
        payload: b"ping",
    };
    let mut packet = request.to_request_packet().expect("fits");
    assert!(may_answer(&packet));
    packet[20] = V4_REDIRECT;
    assert!(!may_answer(&packet));
    let request = Echo {
        src: GUEST6.into(),
        dst: REMOTE6.into(),
        ..request
    };
    let mut packet = request.to_request_packet().expect("fits");
    assert!(may_answer(&packet));
    packet[40] = V6_REDIRECT;
    assert!(!may_answer(&packet));
    packet.truncate(40);
    assert!(!may_answer(&packet), "the type is missing");
}

#[test]
fn an_echo_request_with_ip_options_is_answered_without_them() {
    let builder = PacketBuilder::ip(etherparse::IpHeaders::Ipv4(
        etherparse::Ipv4Header {
            time_to_live: 3,
            protocol: IpNumber::ICMP,
            source: GUEST4.octets(),
            destination: GATEWAY4.octets(),
            options: [7, 7, 4, 0, 0, 0, 0, 0].into(),
            ..Default::default()
        },
        etherparse::Ipv4Extensions::default(),
    ))
    .icmpv4_echo_request(9, 10);
    let mut request = Vec::new();
    builder.write(&mut request, b"data").expect("written");
    let reply = echo_reply(&request).expect("answered");
    let echo = etherparse::IcmpEchoHeader { id: 9, seq: 10 };
    assert_eq!(v4_type(&reply), (Icmpv4Type::EchoReply(echo), &b"data"[..]));
}

#[test]
fn what_is_not_a_whole_right_request_is_not_echoed() {
    let request = Echo {
        src: GUEST4.into(),
        dst: GATEWAY4.into(),
        ttl: 64,
        ident: 1,
        seq: 2,
        payload: b"ping",
    };
    let good = request.to_request_packet().expect("fits");
    assert!(echo_reply(&good).is_some());
    let change = |at: usize, to: u8| {
        let mut packet = good.clone();
        packet[at] = to;
        echo_reply(&packet)
    };
    assert_eq!(change(27, 0x77), None, "checksum");
    assert_eq!(change(8, 63), None, "header checksum");
    let mut fragment = good.clone();
    (fragment[6], fragment[10]) = (0x20, fragment[10].wrapping_sub(0x20));
    assert!(checksum::Sum::new().bytes(&fragment[..20]).is_valid());
    assert_eq!(echo_reply(&fragment), None, "first fragment");
    assert_eq!(change(20, 0), None, "a reply");
    let to_all = Echo {
        dst: Ipv4Addr::BROADCAST.into(),
        ..request
    };
    assert_eq!(
        echo_reply(&to_all.to_request_packet().expect("fits")),
        None,
        "broadcast"
    );
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let to_all = Echo {
        src: GUEST6.into(),
        dst: all_nodes.into(),
        ..request
    };
    assert_eq!(
        echo_reply(&to_all.to_request_packet().expect("fits")),
        None,
        "multicast"
    );
    let mixed = Echo {
        src: GUEST6.into(),
        ..request
    };
    assert_eq!(mixed.to_request_packet(), Err(BuildError::MixedFamilies));
}

#[test]
fn errors_are_limited_to_a_burst_and_a_rate() {
    let start = Instant::now();
    let granted = |budget: &mut ErrorBudget, now, tries: u32| {
        (0..tries)
            .filter(|_| budget.spend(now) == Spend::Granted)
            .count()
    };
    let mut budget = ErrorBudget::new(10, 5, start);
    assert_eq!(granted(&mut budget, start, 20), 5);
    let at = |ms| start + Duration::from_millis(ms);
    assert_eq!(granted(&mut budget, at(99), 20), 0);
    assert_eq!(granted(&mut budget, at(150), 20), 1);
    assert_eq!(
        granted(&mut budget, at(200), 20),
        1,
        "the half interval was kept"
    );
    assert_eq!(
        granted(&mut budget, at(60_000), 20),
        5,
        "no more than a burst is saved up"
    );
    assert_eq!(
        granted(&mut budget, start, 20),
        0,
        "time that goes back gives nothing"
    );
    let mut budget = ErrorBudget::new(0, 0, start);
    assert_eq!(granted(&mut budget, start, 3), 1);
    assert_eq!(granted(&mut budget, at(1000), 3), 1);
    let mut steady = ErrorBudget::new(100, 1, start);
    let sent: usize = (0..10_000).map(|ms| granted(&mut steady, at(ms), 1)).sum();
    assert_eq!(sent, 1000);
}

proptest! {
    #[test]
    fn echo_returns_identifier_sequence_and_payload(
        v6: bool,
        ident: u16,
        seq: u16,
        payload in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let (src, dst): (IpAddr, IpAddr) = if v6 {
            (GUEST6.into(), GATEWAY6.into())
        } else {
            (GUEST4.into(), GATEWAY4.into())
        };
        let request = Echo { src, dst, ttl: 5, ident, seq, payload: &payload };
        let packet = request.to_request_packet().expect("fits");
        prop_assert_eq!(Echo::parse_request(&packet), Some(request));
        let reply = echo_reply(&packet).expect("answered");
        let echo = etherparse::IcmpEchoHeader { id: ident, seq };
        if v6 {
            prop_assert_eq!(v6_type(&reply), (Icmpv6Type::EchoReply(echo), &payload[..]));
        } else {
            prop_assert_eq!(v4_type(&reply), (Icmpv4Type::EchoReply(echo), &payload[..]));
        }
    }

    #[test]
    fn any_bytes_are_judged_and_quoted_without_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        v6: bool,
        plausible: bool,
    ) {
        if plausible && !bytes.is_empty() {
            bytes[0] = if v6 { 0x60 } else { 0x45 };
        }
        let _ = may_answer(&bytes);
        let _ = echo_reply(&bytes);
        let packet = v4_error(GATEWAY4, GUEST4, V4Error::PortUnreachable, &bytes);
        prop_assert!(SlicedPacket::from_ip(&packet).is_ok());
        let packet = v6_error(GATEWAY6, GUEST6, V6Error::PacketTooBig { mtu: 1280 }, &bytes);
        prop_assert!(SlicedPacket::from_ip(&packet).is_ok());
    }
}

/// Found by fuzzing: fragment headers in a row, the last one cut short. A debug
/// build of etherparse fails an assertion on it, a release build reads beyond.
#[test]
fn extension_headers_that_are_cut_short_are_not_answered() {
    let mut packet = vec![0x60, 0, 0, 0, 0, 8, 44, 1];
    packet.extend([0xfd; 32]);
    packet.extend([44, 0, 0, 1, 0, 0, 0, 9]);
    for cut in [&[][..], &[44], &[44, 0, 0, 1], &[44, 0, 0, 1, 0, 0, 0]] {
        let mut packet = packet.clone();
        packet.extend_from_slice(cut);
        packet[5] = u8::try_from(packet.len() - 40).expect("short");
        assert!(!may_answer(&packet), "{cut:?}");
    }
}
