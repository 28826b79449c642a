//! What is left alone or ignored by name.

use super::*;

#[test]
fn the_stacks_traffic_is_left_alone() {
    let mut bench = Bench::new(config(&[]));
    let echo = icmp::Echo {
        src: v6("fd00::100").into(),
        dst: v6("fd00::2").into(),
        ttl: 64,
        ident: 1,
        seq: 1,
        payload: b"",
    };
    let echo = echo.to_request_packet().expect("fits");
    let mut fragment = udp_frame("10.0.2.15:68", "10.0.2.2:67");
    fragment[20] |= 0x20;
    let table = [
        ("empty", vec![]),
        ("short", vec![0; 13]),
        ("header only", vec![0; 14]),
        (
            "unknown type",
            ethernet::frame(GATEWAY_MAC, GUEST_MAC, EtherType(0x88cc), &[0; 50]),
        ),
        ("DNS", udp_frame("10.0.2.15:4000", "10.0.2.3:53")),
        (
            "DNS over IPv6",
            udp_frame("[fd00::100]:4000", "[fd00::3]:53"),
        ),
        (
            "another network's DHCP server",
            udp_frame("10.0.2.15:68", "192.0.2.1:67"),
        ),
        (
            "echo",
            ethernet::frame(GATEWAY_MAC, GUEST_MAC, EtherType::IPV6, &echo),
        ),
        ("a fragment", fragment),
    ];
    for (name, frame) in table {
        assert_eq!(bench.handle(&frame).0, Handled::NotMine, "{name}");
    }
}

#[test]
fn group_membership_is_ignored_by_name() {
    let mut bench = Bench::new(config(&[]));
    let mut igmp = vec![0x46, 0, 0, 32];
    igmp.resize(32, 0);
    igmp[9] = 2;
    let igmp = ethernet::frame(MacAddr::BROADCAST, GUEST_MAC, EtherType::IPV4, &igmp);
    assert_eq!(bench.ignored(&igmp), Reason::Membership);
    let mut report = vec![0x60, 0, 0, 0, 0, 36, 0, 1];
    report.resize(40, 0);
    report.extend_from_slice(&[58, 0, 5, 2, 0, 0, 1, 0]);
    report.extend_from_slice(&[143, 0, 0, 0]);
    report.resize(76, 0);
    let report = ethernet::frame(MacAddr::BROADCAST, GUEST_MAC, EtherType::IPV6, &report);
    assert_eq!(bench.ignored(&report), Reason::Membership);
}

#[test]
fn dhcp_frames_are_checked_before_the_server_sees_them() {
    let mut bench = Bench::new(config(&[]));
    let good = udp_frame("0.0.0.0:68", "255.255.255.255:67");
    // "hello" is no DHCP message.
    assert_eq!(bench.ignored(&good), Reason::Malformed);
    let mut edited = |at: usize| {
        let mut frame = good.clone();
        frame[at] ^= 1;
        bench.ignored(&frame)
    };
    assert_eq!(edited(22), Reason::BadChecksum, "IPv4 header");
    assert_eq!(edited(42), Reason::BadChecksum, "UDP payload");
    let mut without_sum = good.clone();
    without_sum[40..42].fill(0);
    assert_eq!(
        bench.ignored(&without_sum),
        Reason::Malformed,
        "none is allowed over IPv4"
    );
    let mut without_sum = dhcpv6_frame("ff02::1:2", &information_request([]));
    without_sum[60..62].fill(0);
    assert_eq!(
        bench.ignored(&without_sum),
        Reason::BadChecksum,
        "but not over IPv6"
    );
    let spoofed = udp_frame("10.0.2.2:68", "255.255.255.255:67");
    assert_eq!(bench.ignored(&spoofed), Reason::Spoofed);
    let mut own_mac = good;
    own_mac[6..12].copy_from_slice(&GATEWAY_MAC.0);
    assert_eq!(bench.ignored(&own_mac), Reason::Spoofed);
}
