//! Neighbour discovery.

use super::*;

#[test]
fn all_three_addresses_are_found_by_solicitation_and_probe() {
    let mut bench = Bench::new(config(&[]));
    for target in OWN {
        let group = ndp::solicited_node(v6(target));
        for dst in [group, v6(target)] {
            let request = solicitation("fe80::9", dst, target, &SOURCE_OPTION);
            let answer = bench.answer(&request);
            assert_eq!(answer[..6], GUEST_MAC.0);
            let (src, dst, flags, payload) = take_apart(&answer);
            assert_eq!((src, dst), (v6(target), v6("fe80::9")));
            assert_eq!(flags, [0xe0, 0, 0, 0], "router, solicited, override");
            let mut expected = v6(target).octets().to_vec();
            expected.extend_from_slice(&[2, 1, 2, 0, 0, 0, 0, 2]);
            assert_eq!(payload, expected);
        }
        // Unicast reachability checks carry no option (RFC 4861 section 4.3).
        bench.answer(&solicitation("fd00::100", v6(target), target, &[]));
    }
}

#[test]
fn duplicate_address_detection_for_our_addresses_is_answered_to_all() {
    let mut bench = Bench::new(config(&[]));
    for target in OWN {
        let group = ndp::solicited_node(v6(target));
        let answer = bench.answer(&solicitation("::", group, target, &[]));
        assert_eq!(answer[..6], [0x33, 0x33, 0, 0, 0, 1]);
        let (_, dst, flags, _) = take_apart(&answer);
        assert_eq!(
            (dst, flags),
            (v6("ff02::1"), [0xa0, 0, 0, 0]),
            "not solicited"
        );
    }
    // The guest's own probe stays unanswered: else it could not use its address.
    let group = ndp::solicited_node(v6("fd00::100"));
    assert_eq!(
        bench.ignored(&solicitation("::", group, "fd00::100", &[])),
        Reason::NotForGateway
    );
}

#[test]
fn discovery_against_the_rules_is_ignored() {
    let mut bench = Bench::new(config(&[]));
    let group = ndp::solicited_node(v6("fd00::2"));
    let target = v6("fd00::2").octets();
    let good = solicitation("fe80::9", group, "fd00::2", &SOURCE_OPTION);
    bench.answer(&good);
    let mut bad_sum = good.clone();
    bad_sum[56] ^= 0x40;
    let mut bad_code = good;
    bad_code[55] = 1;
    let table = [
        (
            "forwarded",
            discovery(v6("fe80::9"), group, 254, 135, &target),
            Reason::Malformed,
        ),
        ("checksum", bad_sum, Reason::BadChecksum),
        ("code", bad_code, Reason::Malformed),
        (
            "short",
            discovery(v6("fe80::9"), group, 255, 135, &target[..15]),
            Reason::Malformed,
        ),
        (
            "option of length 0",
            solicitation("fe80::9", group, "fd00::2", &[1, 0, 0, 0, 0, 0, 0, 0]),
            Reason::Malformed,
        ),
        (
            "option that runs over",
            solicitation("fe80::9", group, "fd00::2", &[1, 2, 0, 0, 0, 0, 0, 0]),
            Reason::Malformed,
        ),
        (
            "group as link-layer address",
            solicitation("fe80::9", group, "fd00::2", &[1, 1, 0xff, 0, 0, 0, 0, 0]),
            Reason::Malformed,
        ),
        (
            "probe with an option",
            solicitation("::", group, "fd00::2", &SOURCE_OPTION),
            Reason::Malformed,
        ),
        (
            "probe by unicast",
            solicitation("::", v6("fd00::2"), "fd00::2", &[]),
            Reason::Malformed,
        ),
        (
            "from a group",
            solicitation("ff02::1", group, "fd00::2", &[]),
            Reason::Malformed,
        ),
        (
            "for a group",
            solicitation("fe80::9", group, "ff02::1", &[]),
            Reason::Malformed,
        ),
        (
            "from our address",
            solicitation("fe80::2", group, "fd00::2", &[]),
            Reason::Spoofed,
        ),
        (
            "advertisement",
            discovery(v6("fe80::9"), group, 255, 136, &target),
            Reason::Announcement,
        ),
        (
            "a router",
            discovery(v6("fe80::9"), ndp::ALL_NODES, 255, 134, &[0; 8]),
            Reason::Announcement,
        ),
        (
            "redirect",
            discovery(v6("fe80::9"), group, 255, 137, &[0; 32]),
            Reason::Announcement,
        ),
    ];
    for (name, frame, reason) in table {
        assert_eq!(bench.ignored(&frame), reason, "{name}");
    }
}

#[test]
fn a_checksum_the_link_vouches_for_is_not_looked_at() {
    let mut bench = Bench::new(config(&[]));
    let mut frame = gateway_solicitation();
    frame[56] ^= 0x40;
    assert_eq!(bench.ignored(&frame), Reason::BadChecksum);
    let mut out = Vec::new();
    let handled = bench
        .gateway
        .handle(bench.now, &frame, TransportChecksum::Vouched, &mut out);
    assert_eq!((handled, out.len()), (Handled::Answered, 1));
}
