use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use etherparse::{SlicedPacket, TransportSlice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use proptest::prelude::*;

use super::*;
use crate::net::{Gso, GsoKind, MAX_FRAME_LEN, Mtu, PlanV4, PlanV6};

const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const GUEST: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// What went through the inner link, each way.
#[derive(Debug, Default)]
struct Traffic {
    up: VecDeque<(Vec<u8>, Offload)>,
    down: Vec<(Vec<u8>, Offload)>,
}

#[derive(Debug)]
struct Inner {
    traffic: Rc<RefCell<Traffic>>,
    /// Never readable: only what the link under test adds is.
    fd: OwnedFd,
    _other: UnixStream,
}

impl Link for Inner {
    fn caps(&self) -> Caps {
        Caps {
            medium: Medium::Ip,
            checksum: true,
            tso: true,
            uso: false,
        }
    }
    fn readiness(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<Received> {
        let next = self.traffic.borrow_mut().up.pop_front();
        let (packet, offload) = next.ok_or(io::ErrorKind::WouldBlock)?;
        buf[..packet.len()].copy_from_slice(&packet);
        Ok(Received {
            len: packet.len(),
            offload,
        })
    }
    fn send(&mut self, offload: &Offload, frame: &[IoSlice<'_>]) -> io::Result<()> {
        let packet = frame.iter().flat_map(|s| s.iter().copied()).collect();
        self.traffic.borrow_mut().down.push((packet, *offload));
        Ok(())
    }
}

fn plan() -> AddressPlan {
    AddressPlan {
        v4: Some(PlanV4::new("10.0.2.0/24".parse().expect("net")).expect("plan")),
        v6: Some(PlanV6::new("fd00::/64".parse().expect("net")).expect("plan")),
        gateway_mac: GATEWAY,
        mtu: Mtu::ETHERNET,
    }
}

/// A link whose guest has 10.0.2.100 and fd00::100.
fn link() -> (IpEther, Rc<RefCell<Traffic>>) {
    let traffic = Rc::default();
    let (fd, other) = UnixStream::pair().expect("pair");
    let inner = Inner {
        traffic: Rc::clone(&traffic),
        fd: fd.into(),
        _other: other,
    };
    let guest = IpGuest {
        mac: GUEST,
        ..IpGuest::new(&plan()).expect("guest")
    };
    let link = IpEther::new(Box::new(inner), guest).expect("link");
    (link, traffic)
}

fn packet(source: &str, destination: &str) -> Vec<u8> {
    let (source, destination): (IpAddr, IpAddr) = (
        source.parse().expect("ip"),
        destination.parse().expect("ip"),
    );
    let mut out = Vec::new();
    let builder = match (source, destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => PacketBuilder::ipv4(s.octets(), d.octets(), 64),
        (IpAddr::V6(s), IpAddr::V6(d)) => PacketBuilder::ipv6(s.octets(), d.octets(), 64),
        _ => panic!("two versions"),
    };
    builder
        .udp(1, 2)
        .write(&mut out, b"payload")
        .expect("built");
    out
}

fn recv(link: &mut IpEther) -> io::Result<(Vec<u8>, Offload)> {
    let mut buf = vec![0; MAX_FRAME_LEN];
    let received = link.recv(&mut buf)?;
    buf.truncate(received.len);
    Ok((buf, received.offload))
}

fn from_guest(link: &mut IpEther, traffic: &RefCell<Traffic>, packet: &[u8]) -> Vec<u8> {
    let offload = Offload::default();
    traffic
        .borrow_mut()
        .up
        .push_back((packet.to_vec(), offload));
    recv(link).expect("a frame").0
}

fn send(link: &mut IpEther, offload: &Offload, frame: &[u8]) {
    let (a, rest) = frame.split_at(frame.len().min(9));
    let (b, c) = rest.split_at(rest.len().min(30));
    let slices = [IoSlice::new(a), IoSlice::new(b), IoSlice::new(c)];
    link.send(offload, &slices).expect("taken");
}

fn is_ready(link: &IpEther) -> bool {
    let mut fds = [PollFd::new(link.readiness(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).expect("poll") == 1
}

fn ethernet(to: MacAddr, ethertype: [u8; 2], payload: &[u8]) -> Vec<u8> {
    [&to.0[..], &GATEWAY.0, &ethertype, payload].concat()
}

#[test]
fn packets_get_a_header_and_lose_it() {
    for (version, other, ethertype) in [
        ("10.0.2.100", "1.2.3.4", IPV4),
        ("fd00::100", "2001:db8::1", IPV6),
    ] {
        let (mut link, traffic) = link();
        let out = packet(version, other);
        let frame = from_guest(&mut link, &traffic, &out);
        assert_eq!(frame[..6], GATEWAY.0);
        assert_eq!(frame[6..12], GUEST.0);
        assert_eq!(frame[12..14], ethertype);
        assert_eq!(frame[14..], out);

        let back = packet(other, version);
        let offload = Offload {
            checksum: Checksum::Partial {
                start: 34,
                offset: 16,
            },
            gso: Some(Gso {
                kind: GsoKind::Tcp4,
                size: 1460,
                header_len: 54,
            }),
        };
        send(&mut link, &offload, &ethernet(GUEST, ethertype, &back));
        let (seen, seen_offload) = traffic.borrow_mut().down.remove(0);
        assert_eq!(seen, back);
        assert_eq!(deeper(&seen_offload), Some(offload));
        assert_eq!(
            seen_offload.checksum,
            Checksum::Partial {
                start: 20,
                offset: 16
            }
        );
        assert_eq!(seen_offload.gso.expect("kept").header_len, 40);

        traffic.borrow_mut().up.push_back((out, seen_offload));
        assert_eq!(recv(&mut link).expect("a frame").1, offload);
    }
}

#[test]
fn groups_keep_their_addresses() {
    let (mut link, traffic) = link();
    for (to, mac) in [
        ("255.255.255.255", MacAddr::BROADCAST),
        ("224.0.0.251", MacAddr([1, 0, 0x5e, 0, 0, 0xfb])),
        ("239.255.255.250", MacAddr([1, 0, 0x5e, 0x7f, 0xff, 0xfa])),
        ("10.0.2.3", GATEWAY),
    ] {
        let frame = from_guest(&mut link, &traffic, &packet("10.0.2.100", to));
        assert_eq!(frame[..6], mac.0, "{to}");
    }
    let frame = from_guest(&mut link, &traffic, &packet("fd00::100", "ff02::2"));
    assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 2]);
}

#[test]
fn what_is_no_ip_goes_nowhere() {
    let (mut link, traffic) = link();
    for packet in [vec![], vec![0x45; 10], vec![0x60; 39], vec![0x50; 60]] {
        assert!(from_guest(&mut link, &traffic, &packet).is_empty());
    }
    let lldp = ethernet(MacAddr::BROADCAST, [0x88, 0xcc], &[0; 50]);
    send(&mut link, &Offload::default(), &lldp);
    let other = ethernet(MacAddr([2; 6]), IPV4, &packet("1.2.3.4", "10.0.2.15"));
    send(&mut link, &Offload::default(), &other);
    assert!(traffic.borrow().down.is_empty());
    assert!(!is_ready(&link));
    let short = link.send(&Offload::default(), &[IoSlice::new(&[0; 13])]);
    assert!(short.is_err());
}

fn arp_request(target: [u8; 4]) -> Vec<u8> {
    let request = ArpEthIpv4Packet {
        operation: ArpOperation::REQUEST,
        sender_mac: GATEWAY.0,
        sender_ipv4: [10, 0, 2, 2],
        target_mac: [0; 6],
        target_ipv4: target,
    };
    ethernet(MacAddr::BROADCAST, ARP, &request.to_bytes())
}

#[test]
fn arp_is_answered_in_the_guests_name() {
    let (mut link, traffic) = link();
    let ask = |link: &mut IpEther, target| {
        send(link, &Offload::default(), &arp_request(target));
    };
    ask(&mut link, [10, 0, 2, 100]);
    assert!(is_ready(&link), "the answer waits");
    let (frame, _) = recv(&mut link).expect("an answer");
    assert!(!is_ready(&link));
    assert_eq!(frame[..14], [&GATEWAY.0[..], &GUEST.0, &ARP].concat());
    let reply = ArpPacketSlice::from_slice(&frame[14..]).expect("ARP");
    let reply = reply.to_packet().try_eth_ipv4().expect("IPv4");
    assert_eq!(reply.operation, ArpOperation::REPLY);
    assert_eq!(
        (reply.sender_mac, reply.sender_ipv4),
        (GUEST.0, [10, 0, 2, 100])
    );
    assert_eq!(
        (reply.target_mac, reply.target_ipv4),
        (GATEWAY.0, [10, 0, 2, 2])
    );

    // Another address, when it was seen; the gateway's own, never.
    ask(&mut link, [10, 0, 2, 55]);
    assert!(recv(&mut link).is_err());
    from_guest(&mut link, &traffic, &packet("10.0.2.55", "1.2.3.4"));
    ask(&mut link, [10, 0, 2, 55]);
    assert!(recv(&mut link).is_ok());
    for stolen in ["10.0.2.2", "10.0.2.3", "192.168.1.1"] {
        from_guest(&mut link, &traffic, &packet(stolen, "1.2.3.4"));
    }
    ask(&mut link, [10, 0, 2, 2]);
    ask(&mut link, [10, 0, 2, 3]);
    ask(&mut link, [192, 168, 1, 1]);
    assert!(recv(&mut link).is_err());
    assert!(traffic.borrow().down.is_empty(), "none reaches the guest");
}

fn solicitation(source: &str, target: &str) -> Vec<u8> {
    let (source, target): (Ipv6Addr, Ipv6Addr) =
        (source.parse().expect("ip"), target.parse().expect("ip"));
    let mut out = Vec::new();
    let body = [&target.octets()[..], &[1, 1], &GATEWAY.0].concat();
    PacketBuilder::ethernet2(GATEWAY.0, [0x33, 0x33, 0xff, 0, 1, 0])
        .ipv6(source.octets(), target.octets(), 255)
        .icmpv6(Icmpv6Type::NeighborSolicitation)
        .write(&mut out, &body)
        .expect("built");
    out
}

#[test]
fn solicitations_are_answered_in_the_guests_name() {
    let (mut link, traffic) = link();
    let offload = Offload::default();
    send(&mut link, &offload, &solicitation("fe80::2", "fd00::100"));
    let (frame, _) = recv(&mut link).expect("an answer");
    assert_eq!(frame[..12], [&GATEWAY.0[..], &GUEST.0].concat());
    let sliced = SlicedPacket::from_ethernet(&frame).expect("a packet");
    let Some(TransportSlice::Icmpv6(message)) = &sliced.transport else {
        panic!("{sliced:?}");
    };
    let (source, to): (Ipv6Addr, Ipv6Addr) = (
        "fd00::100".parse().expect("ip"),
        "fe80::2".parse().expect("ip"),
    );
    assert!(message.is_checksum_valid(source.octets(), to.octets()));
    assert_eq!(frame[14 + 7], 255, "hop limit");
    let message = message.slice();
    assert_eq!(message[4], 0x60, "solicited, overriding");
    assert_eq!(message[8..24], source.octets());
    assert_eq!(message[24..32], [2, 1, 2, 0, 0, 0, 0, 2]);

    for (source, target) in [("::", "fd00::100"), ("fe80::2", "fd00::101")] {
        send(&mut link, &offload, &solicitation(source, target));
        assert!(recv(&mut link).is_err(), "{source} {target}");
    }
    assert!(traffic.borrow().down.is_empty());
}

#[test]
fn answers_and_addresses_are_bounded() {
    let (mut link, traffic) = link();
    for _ in 0..100 {
        send(
            &mut link,
            &Offload::default(),
            &arp_request([10, 0, 2, 100]),
        );
    }
    let answers = std::iter::from_fn(|| recv(&mut link).ok()).count();
    assert_eq!(answers, MAX_ANSWERS);
    for host in 10..60 {
        from_guest(
            &mut link,
            &traffic,
            &packet(&format!("10.0.2.{host}"), "1.2.3.4"),
        );
    }
    assert_eq!(link.seen.len(), MAX_ADDRESSES);
    assert!(link.is_guests("10.0.2.59".parse().expect("ip")));
    assert!(!link.is_guests("10.0.2.10".parse().expect("ip")));
}

#[test]
fn an_ethernet_link_is_refused() {
    let (link, _) = link();
    let twice = IpEther::new(Box::new(link), IpGuest::new(&plan()).expect("guest"));
    assert!(twice.is_err());
}

/// A child that echoes bare IP packets, behind a switch.
#[test]
fn a_process_may_speak_bare_ip() {
    use crate::tap::process::{ProcessCommand, ProcessOptions, ProcessSource};
    use crate::tap::switch::Switch;
    let echo = "import os\nwhile True: os.write(1, os.read(0, 70000))";
    let source = ProcessSource::start(ProcessOptions {
        medium: Medium::Ip,
        ..ProcessOptions::new(ProcessCommand::Program {
            program: "/usr/bin/python3".into(),
            arguments: vec!["-c".into(), echo.into()],
        })
    });
    let source = Box::new(source.expect("started"));
    let guest = IpGuest {
        mac: GUEST,
        ..IpGuest::new(&plan()).expect("guest")
    };
    let mut switch = Switch::new(GATEWAY).expect("switch");
    let ports = IpPorts::new(source, guest);
    switch.add_source(Box::new(ports)).expect("room");
    let packet = packet("10.0.2.100", "1.2.3.4");
    let sent = ethernet(GUEST, IPV4, &packet);
    switch
        .send(&Offload::default(), &[IoSlice::new(&sent)])
        .expect("taken");
    let mut buf = vec![0; MAX_FRAME_LEN];
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let len = loop {
        assert!(std::time::Instant::now() < end, "no echo");
        match switch.recv(&mut buf) {
            Ok(received) => break received.len,
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(1)),
        }
    };
    assert_eq!(buf[..12], [&GATEWAY.0[..], &GUEST.0].concat());
    assert_eq!(buf[14..len], packet);
}

proptest! {
    #[test]
    fn any_packet_and_any_frame_is_carried_or_dropped(bytes: Vec<u8>, ethertype in 0..4usize) {
        let (mut link, traffic) = link();
        let frame = from_guest(&mut link, &traffic, &bytes);
        prop_assert!(frame.is_empty() || frame.len() == HEADER_LEN + bytes.len());
        let ethertype = [IPV4, IPV6, ARP, [0x88, 0xb5]][ethertype];
        send(&mut link, &Offload::default(), &ethernet(GUEST, ethertype, &bytes));
        if let Ok((answer, _)) = recv(&mut link) {
            prop_assert!(!answer.is_empty());
        }
    }
}
