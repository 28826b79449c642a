//! ARP: who is answered for.

use super::*;

#[test]
fn arp_answers_for_the_gateway_and_the_resolver_only() {
    let mut bench = Bench::new(config(&[]));
    for target in [[10, 0, 2, 2], [10, 0, 2, 3]] {
        let reply = bench.answer(&arp_request([10, 0, 2, 15], target));
        let mut expected = vec![0, 1, 8, 0, 6, 4, 0, 2];
        expected.extend_from_slice(&GATEWAY_MAC.0);
        expected.extend_from_slice(&target);
        expected.extend_from_slice(&GUEST_MAC.0);
        expected.extend_from_slice(&[10, 0, 2, 15]);
        assert_eq!(
            reply,
            ethernet::frame(GUEST_MAC, GATEWAY_MAC, EtherType::ARP, &expected)
        );
    }
    // RFC 5227: a probe for our address is answered, one for the guest's is not.
    bench.answer(&arp_request([0; 4], [10, 0, 2, 2]));
    for target in [
        [10, 0, 2, 15],
        [10, 0, 2, 100],
        [10, 0, 2, 1],
        [192, 0, 2, 1],
    ] {
        let frame = arp_request([0; 4], target);
        assert_eq!(bench.ignored(&frame), Reason::NotForGateway, "{target:?}");
    }
}

#[test]
fn arp_ignores_announcements_imposters_and_other_protocols() {
    let mut bench = Bench::new(config(&[]));
    let good = arp_request([10, 0, 2, 15], [10, 0, 2, 2]);
    let edited = |at: usize, value: u8| {
        let mut frame = good.clone();
        frame[at] = value;
        frame
    };
    let table = [
        (
            "gratuitous",
            arp_request([10, 0, 2, 15], [10, 0, 2, 15]),
            Reason::Announcement,
        ),
        ("a reply", edited(21, 2), Reason::Announcement),
        (
            "claims the gateway",
            arp_request([10, 0, 2, 2], [10, 0, 2, 3]),
            Reason::Spoofed,
        ),
        ("hardware type", edited(15, 6), Reason::Malformed),
        ("protocol type", edited(16, 0x86), Reason::Malformed),
        ("hardware length", edited(18, 8), Reason::Malformed),
        ("protocol length", edited(19, 16), Reason::Malformed),
        ("cut short", good[..40].to_vec(), Reason::Malformed),
        ("sender is a group", edited(22, 0xff), Reason::Spoofed),
        ("from a group", edited(6, 0xff), Reason::Malformed),
    ];
    for (name, frame, reason) in table {
        assert_eq!(bench.ignored(&frame), reason, "{name}");
    }
    let mut to_other = good.clone();
    to_other[..6].copy_from_slice(&OTHER_MAC.0);
    assert_eq!(bench.ignored(&to_other), Reason::NotForGateway);
    // Ethernet's padding is no part of the packet.
    let mut padded = good;
    padded.resize(60, 0);
    bench.answer(&padded);
}

#[test]
fn arp_is_silent_without_ipv4() {
    let mut off = config(&[]);
    off.plan.v4 = None;
    let frame = arp_request([10, 0, 2, 15], [10, 0, 2, 2]);
    assert_eq!(Bench::new(off).ignored(&frame), Reason::NotForGateway);
}
