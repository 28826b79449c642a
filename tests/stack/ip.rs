//! IP: echo at the gateway, fragments, hop limits.

use std::net::UdpSocket;
use std::time::Duration;

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, PacketBuilder};

use crate::world::{GATEWAY_MAC, GATEWAY4, GATEWAY6, GUEST_MAC, GUEST4, GUEST6, Options, World};

fn ethernet() -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
    PacketBuilder::ethernet2(GUEST_MAC.0, GATEWAY_MAC.0)
}

#[test]
fn the_gateway_answers_echo() {
    let mut world = World::raw(&Options::default());
    let mut frame = Vec::new();
    let v4 = ethernet().ipv4(GUEST4.octets(), GATEWAY4.octets(), 1);
    v4.icmpv4_echo_request(7, 9)
        .write(&mut frame, b"payload")
        .unwrap();
    world.inject(&frame);
    world.settle();
    let answer = world.arrived().expect("a reply");
    assert_eq!(
        (answer[34], &answer[38..42], &answer[42..]),
        (0, &[0, 7, 0, 9][..], &b"payload"[..])
    );
    let mut frame = Vec::new();
    let v6 = ethernet().ipv6(GUEST6.octets(), GATEWAY6.octets(), 1);
    v6.icmpv6_echo_request(7, 9)
        .write(&mut frame, b"payload")
        .unwrap();
    world.inject(&frame);
    world.settle();
    let answer = world.arrived().expect("a reply");
    assert_eq!((answer[54], &answer[62..]), (129, &b"payload"[..]));
}

#[test]
fn a_hop_limit_that_runs_out_here_is_reported() {
    let mut world = World::raw(&Options::default());
    let mut frame = Vec::new();
    let v4 = ethernet().ipv4(GUEST4.octets(), [192, 0, 2, 1], 1);
    v4.udp(5000, 33434)
        .write(&mut frame, b"traceroute")
        .unwrap();
    world.inject(&frame);
    world.settle();
    let answer = world.arrived().expect("an error");
    assert_eq!(
        (answer[23], answer[34], answer[35]),
        (1, 11, 0),
        "time exceeded"
    );
    assert_eq!(answer[26..30], GATEWAY4.octets());
    world.assert_clean();
}

/// A piece of a UDP datagram, `at` bytes in.
fn fragment(id: u16, at: u16, more: bool, part: &[u8]) -> Vec<u8> {
    let len = u16::try_from(part.len()).unwrap();
    let mut ip =
        Ipv4Header::new(len, 64, IpNumber::UDP, GUEST4.octets(), GATEWAY4.octets()).unwrap();
    ip.identification = id;
    ip.dont_fragment = false;
    ip.more_fragments = more;
    ip.fragment_offset = IpFragOffset::try_new(at / 8).unwrap();
    ip.header_checksum = ip.calc_header_checksum();
    let mut frame = [GATEWAY_MAC.0, GUEST_MAC.0].concat();
    frame.extend([8, 0]);
    frame.extend(ip.to_bytes());
    frame.extend_from_slice(part);
    frame
}

/// UDP header and payload of a datagram to `port`.
fn udp_bytes(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let v4 = ethernet().ipv4(GUEST4.octets(), GATEWAY4.octets(), 64);
    v4.udp(5000, port).write(&mut frame, payload).unwrap();
    frame.split_off(34)
}

#[test]
fn fragments_in_any_order_become_a_datagram() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let payload: Vec<u8> = (0..5000u32)
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect();
    let bytes = udp_bytes(server.local_addr().unwrap().port(), &payload);
    let mut world = World::raw(&Options::default());
    let last = bytes.chunks(1000).count() - 1;
    for n in [3usize, 0, 0, 5, 1, 4, 2] {
        let part = bytes.chunks(1000).nth(n).unwrap();
        world.inject(&fragment(
            1,
            u16::try_from(n * 1000).unwrap(),
            n != last,
            part,
        ));
    }
    world.settle();
    let mut got = vec![0; 6000];
    let (len, _) = server.recv_from(&mut got).expect("the whole");
    assert_eq!(got[..len], payload);
    assert_eq!(
        world.slirp.next_deadline().map(|at| at > world.now),
        Some(true)
    );
}

#[test]
fn fragments_that_stay_alone_are_reported_and_forgotten() {
    let mut world = World::raw(&Options::default());
    let bytes = udp_bytes(9, &[1; 3000]);
    world.inject(&fragment(1, 0, true, &bytes[..1000]));
    world.inject(&fragment(2, 1000, true, &bytes[1000..2000])); // its first never came
    world.settle();
    assert!(world.arrived().is_none());
    world.advance(Duration::from_secs(29));
    assert!(world.arrived().is_none());
    world.advance(Duration::from_secs(2));
    let answer = world.arrived().expect("an error");
    assert_eq!(
        (answer[23], answer[34], answer[35]),
        (1, 11, 1),
        "reassembly time exceeded"
    );
    assert!(
        world.arrived().is_none(),
        "one: who sent the other is not known"
    );
    assert_eq!(world.slirp.next_deadline(), None);
    world.assert_clean();
}

/// A last fragment that ends before another one that came earlier: the pieces
/// add up to the length, and are still not a packet.
#[test]
fn a_hole_with_a_matching_sum_is_no_packet() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let bytes = udp_bytes(server.local_addr().unwrap().port(), &[1; 16]);
    let mut world = World::raw(&Options::default());
    world.inject(&fragment(1, 0, true, &bytes[..8]));
    world.inject(&fragment(1, 800, true, &bytes[8..16]));
    world.inject(&fragment(1, 16, false, &bytes[16..24]));
    world.settle();
    assert!(
        server.recv_from(&mut [0; 100]).is_err(),
        "a datagram with a hole"
    );
}

/// The host's large datagrams are fragmented for the guest.
#[test]
fn large_datagrams_arrive_in_fragments() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let mut world = World::raw(&Options::default());
    let bytes = udp_bytes(server.local_addr().unwrap().port(), b"x");
    let mut frame = fragment(1, 0, false, &bytes);
    frame[20] = 0;
    world.inject(&frame);
    world.settle();
    let (_, outside) = server.recv_from(&mut [0; 10]).expect("a datagram");
    let payload: Vec<u8> = (0..9000u32)
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect();
    server.send_to(&payload, outside).unwrap();
    world.settle();
    let mut got = Vec::new();
    while let Some(frame) = world.arrived() {
        assert!(frame.len() <= 1514);
        assert_eq!(
            usize::from(u16::from_be_bytes([frame[20], frame[21]]) & 0x1fff) * 8,
            got.len()
        );
        got.extend_from_slice(&frame[34..]);
    }
    assert_eq!(got[8..], payload);
}
