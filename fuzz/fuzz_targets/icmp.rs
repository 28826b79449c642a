//! ICMP: echo requests, and which packets may be answered by an error.
#![no_main]

use gw::wire::icmp;

libfuzzer_sys::fuzz_target!(|packet: &[u8]| {
    let request = icmp::Echo::parse_request(packet);
    let reply = icmp::echo_reply(packet);
    assert_eq!(request.is_some(), reply.is_some());
    if icmp::may_answer(packet) {
        match packet[0] >> 4 {
            4 => {
                let error = icmp::V4Error::FragmentationNeeded { mtu: 68 };
                let (a, b) = ([10, 0, 2, 2].into(), [10, 0, 2, 100].into());
                assert!(icmp::v4_error(a, b, error, packet).len() <= 576);
            }
            _ => {
                let error = icmp::V6Error::PacketTooBig { mtu: 1280 };
                let a = std::net::Ipv6Addr::LOCALHOST;
                assert!(icmp::v6_error(a, a, error, packet).len() <= 1280);
            }
        }
    }
});
