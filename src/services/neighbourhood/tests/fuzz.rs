//! Any frames at all.

use super::*;

/// Frames that get past the first look, with some bytes changed.
fn nearly_right() -> impl Strategy<Value = Vec<u8>> {
    let request = information_request([DhcpOption::ClientId(vec![7; 14])]);
    let mut discover = dhcproto::v4::Message::new_with_id(
        7,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        &GUEST_MAC.0,
    );
    let kind = dhcproto::v4::DhcpOption::MessageType(dhcproto::v4::MessageType::Discover);
    discover.opts_mut().insert(kind);
    let discover = udp::datagram(
        "0.0.0.0:68".parse().expect("src"),
        "255.255.255.255:67".parse().expect("dst"),
        64,
        &discover.to_vec().expect("encodes"),
    )
    .expect("fits");
    let bases = vec![
        arp_request([10, 0, 2, 15], [10, 0, 2, 2]),
        gateway_solicitation(),
        router_solicitation("fe80::9", &SOURCE_OPTION),
        router_solicitation("::", &[]),
        dhcpv6_frame("ff02::1:2", &request),
        ethernet::frame(MacAddr::BROADCAST, GUEST_MAC, EtherType::IPV4, &discover),
    ];
    let edits = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (
        prop::sample::select(bases),
        edits,
        any::<prop::sample::Index>(),
        0..3u8,
    )
        .prop_map(|(mut frame, edits, cut, how)| {
            for (at, value) in edits {
                let at = at.index(frame.len());
                frame[at] = value;
            }
            match how {
                0 => frame.truncate(cut.index(frame.len())),
                1 => frame.resize(frame.len() + cut.index(64), 0xa5),
                _ => {}
            }
            frame
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_frames_are_handled_and_answers_are_well_formed(
        frames in proptest::collection::vec(nearly_right(), 1..12),
        raw in proptest::collection::vec(any::<u8>(), 0..120),
        vouched: bool,
    ) {
        let mut bench = Bench::new(config(&["example"]));
        let sum = if vouched { TransportChecksum::Vouched } else { TransportChecksum::Verify };
        let mut out = Vec::new();
        for frame in frames.iter().chain([&raw]) {
            let before = out.len();
            let handled = bench.gateway.handle(bench.now, frame, sum, &mut out);
            prop_assert_eq!(handled == Handled::Answered, out.len() == before + 1);
            bench.now += Duration::from_secs(1);
            bench.gateway.poll(bench.now, &mut out);
        }
        for answer in &out {
            assert_well_formed(answer);
        }
    }
}
