//! Clients of forwarded UDP ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use gw::slirp::{DropReason, GuestTarget, Listener, ListenerId, ListenerKind};
use socket2::{Domain, Socket, Type};

use crate::inbound::{BOTH, V4, announce};
use crate::world::{GATEWAY_MAC, GATEWAY4, GATEWAY6, GUEST_MAC, GUEST4, GUEST6, Options, World};

const SECOND: Duration = Duration::from_secs(1);

pub(crate) struct Port {
    pub(crate) port: u16,
    id: ListenerId,
}

pub(crate) fn publish(world: &mut World, at: &str, target: GuestTarget) -> Port {
    let at: SocketAddr = at.parse().unwrap();
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, None).unwrap();
    if at.is_ipv6() {
        socket.set_only_v6(false).unwrap();
    }
    socket.bind(&at.into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    let listener = Listener {
        socket: socket.into(),
        kind: ListenerKind::Udp,
        target,
    };
    let id = world.slirp.listen(listener).unwrap();
    Port { port, id }
}

pub(crate) fn client(at: &str) -> UdpSocket {
    let socket = UdpSocket::bind(at).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

fn port_of(socket: &UdpSocket) -> u16 {
    socket.local_addr().unwrap().port()
}

fn receive(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let mut bytes = vec![0; 65536];
    let (len, from) = socket.recv_from(&mut bytes).ok()?;
    bytes.truncate(len);
    Some((bytes, from))
}

/// A datagram that arrived at the guest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) payload: Vec<u8>,
}

fn arrived(world: &mut World) -> Option<Datagram> {
    world.settle();
    while let Some(frame) = world.arrived() {
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        let (Some(ip), Some(TransportSlice::Udp(udp))) = (&packet.net, &packet.transport) else {
            continue;
        };
        let (from, to): (IpAddr, IpAddr) = match ip {
            NetSlice::Ipv4(ip) => (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
            ),
            NetSlice::Ipv6(ip) => (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
            ),
            NetSlice::Arp(_) => continue,
        };
        return Some(Datagram {
            from: SocketAddr::new(from, udp.source_port()),
            to: SocketAddr::new(to, udp.destination_port()),
            payload: udp.payload().to_vec(),
        });
    }
    None
}

fn frame(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(GUEST_MAC.0, GATEWAY_MAC.0);
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => ethernet.ipv4(a.octets(), b.octets(), 64),
        (IpAddr::V6(a), IpAddr::V6(b)) => ethernet.ipv6(a.octets(), b.octets(), 64),
        _ => panic!("one family"),
    };
    let mut frame = Vec::new();
    let udp = ip.udp(from.port(), to.port());
    udp.write(&mut frame, payload).unwrap();
    frame
}

/// The guest answers a datagram.
fn answer(world: &mut World, datagram: &Datagram, payload: &[u8]) {
    world.inject(&frame(datagram.to, datagram.from, payload));
    world.settle();
}

/// The guest's port is closed.
fn refuse(world: &mut World, datagram: &Datagram) {
    refuse_in_part(world, datagram, datagram.payload.len());
}

/// As [`refuse`], for a datagram that had `len` bytes.
fn refuse_in_part(world: &mut World, datagram: &Datagram, len: usize) {
    let mut quoted = frame(datagram.from, datagram.to, &datagram.payload).split_off(14);
    let header = if datagram.from.is_ipv4() { 20 } else { 40 };
    let len = u16::try_from(8 + len).unwrap();
    quoted[header + 4..header + 6].copy_from_slice(&len.to_be_bytes());
    let quoted = &quoted;
    let ethernet = PacketBuilder::ethernet2(GUEST_MAC.0, GATEWAY_MAC.0);
    let mut error = Vec::new();
    match (datagram.to.ip(), datagram.from.ip()) {
        (IpAddr::V4(guest), IpAddr::V4(seen)) => ethernet
            .ipv4(guest.octets(), seen.octets(), 64)
            .icmpv4_raw(3, 3, [0; 4])
            .write(&mut error, quoted),
        (IpAddr::V6(guest), IpAddr::V6(seen)) => ethernet
            .ipv6(guest.octets(), seen.octets(), 64)
            .icmpv6_raw(1, 4, [0; 4])
            .write(&mut error, quoted),
        _ => panic!("one family"),
    }
    .unwrap();
    world.inject(&error);
    world.settle();
}

/// A client asks, the guest answers; what the guest saw.
pub(crate) fn exchange(world: &mut World, client: &UdpSocket, to: SocketAddr) -> Datagram {
    client.send_to(b"question", to).unwrap();
    let seen = arrived(world).expect("a datagram");
    assert_eq!(seen.payload, b"question");
    answer(world, &seen, b"answer");
    assert_eq!(
        receive(client),
        Some((b"answer".to_vec(), to)),
        "from where it asked"
    );
    seen
}

#[test]
fn an_answer_leaves_from_the_address_that_was_asked() {
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let v4 = publish(&mut world, "0.0.0.0:0", BOTH);
    let both = publish(&mut world, "[::]:0", BOTH);
    for (client_at, to) in [
        (
            "127.0.0.1:0",
            SocketAddr::from((Ipv4Addr::new(127, 0, 0, 5), v4.port)),
        ),
        (
            "127.0.0.3:0",
            SocketAddr::from((Ipv4Addr::new(127, 0, 0, 1), v4.port)),
        ),
        (
            "127.0.0.1:0",
            SocketAddr::from((Ipv4Addr::new(127, 0, 0, 7), both.port)),
        ),
        (
            "[::1]:0",
            SocketAddr::from((Ipv6Addr::LOCALHOST, both.port)),
        ),
    ] {
        let client = client(client_at);
        let seen = exchange(&mut world, &client, to);
        let gateway: (IpAddr, IpAddr) = if to.is_ipv4() {
            (GATEWAY4.into(), GUEST4.into())
        } else {
            (GATEWAY6.into(), GUEST6.into())
        };
        assert_eq!(seen.from, (gateway.0, port_of(&client)).into());
        assert_eq!(seen.to, (gateway.1, 80).into());
    }
    assert_eq!(world.slirp.flows(), (0, 4));
    assert!(world.slirp.unlisten(v4.id));
    assert_eq!(world.slirp.flows(), (0, 2), "its flows end with it");
    world.advance(200 * SECOND);
    world.assert_clean();
}

#[test]
fn one_client_at_two_addresses_is_two() {
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let port = publish(&mut world, "0.0.0.0:0", V4);
    let client = client("127.0.0.1:0");
    let to = |host| SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), port.port));
    let first = exchange(&mut world, &client, to(5));
    let second = exchange(&mut world, &client, to(6));
    assert_eq!(first.from.port(), port_of(&client));
    assert_ne!(second.from.port(), first.from.port());
    // And still the same.
    assert_eq!(exchange(&mut world, &client, to(5)), first);
    assert_eq!(exchange(&mut world, &client, to(6)), second);
}

#[test]
fn the_guests_own_flow_of_the_same_port_is_another() {
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let port = publish(&mut world, "127.0.0.1:0", V4);
    let (client, server) = (client("127.0.0.1:0"), client("127.0.0.1:0"));
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port.port));
    let seen = exchange(&mut world, &client, to);
    // The guest's server asks somebody else, from its own port.
    let other = (GATEWAY4, port_of(&server)).into();
    world.inject(&frame(seen.to, other, b"by the way"));
    world.settle();
    let (bytes, outside) = receive(&server).expect("a datagram");
    assert_eq!(bytes, b"by the way");
    assert_ne!(outside.port(), port.port);
    server.send_to(b"yes?", outside).unwrap();
    let back = arrived(&mut world).expect("a datagram");
    assert_eq!((back.from, back.to), (other, seen.to));
    // The client is where it was.
    assert_eq!(exchange(&mut world, &client, to), seen);
    assert_eq!(world.slirp.flows(), (0, 2));
}

#[test]
fn bursts_go_both_ways() {
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let port = publish(&mut world, "127.0.0.1:0", V4);
    let client = client("127.0.0.1:0");
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port.port));
    let seen = exchange(&mut world, &client, to);
    for n in 0..60_u8 {
        client.send_to(&[n; 1000], to).unwrap();
    }
    for n in 0..60_u8 {
        let datagram = arrived(&mut world).expect("a datagram");
        assert_eq!(
            (datagram.from, datagram.payload),
            (seen.from, vec![n; 1000])
        );
    }
    for n in 0..60_u8 {
        world.inject(&frame(seen.to, seen.from, &[n; 1000]));
    }
    world.inject(&frame(seen.to, seen.from, &[]));
    world.settle();
    for n in 0..60_u8 {
        assert_eq!(receive(&client), Some((vec![n; 1000], to)));
    }
    assert_eq!(receive(&client), Some((Vec::new(), to)));
}

#[test]
fn large_datagrams_arrive_in_fragments() {
    let mut world = World::raw(&Options {
        mtu: 65520,
        ..Options::default()
    });
    announce(&mut world);
    let port = publish(&mut world, "127.0.0.1:0", V4);
    let client = client("127.0.0.1:0");
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port.port));
    let bytes: Vec<u8> = (0..65_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    client.send_to(&bytes, to).unwrap();
    let datagram = arrived(&mut world).expect("a datagram");
    assert_eq!(datagram.payload, bytes);
    answer(&mut world, &datagram, &bytes);
    assert_eq!(receive(&client), Some((bytes, to)));
}

#[test]
fn a_client_is_forgotten_after_30_seconds_or_180() {
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let port = publish(&mut world, "127.0.0.1:0", V4);
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port.port));
    let (silent, answered) = (client("127.0.0.1:0"), client("127.0.0.1:0"));
    silent.send_to(b"x", to).unwrap();
    assert!(arrived(&mut world).is_some());
    exchange(&mut world, &answered, to);
    world.advance(28 * SECOND);
    assert_eq!(world.slirp.flows(), (0, 2));
    world.advance(4 * SECOND);
    assert_eq!(world.slirp.flows(), (0, 1));
    world.advance(145 * SECOND);
    assert_eq!(world.slirp.flows(), (0, 1));
    world.advance(5 * SECOND);
    world.assert_clean();
    assert_eq!(world.slirp.next_deadline(), None);
}

#[test]
fn a_first_datagram_waits_for_the_guests_hardware_address() {
    let mut world = World::raw(&Options::default());
    let port = publish(&mut world, "127.0.0.1:0", V4);
    let client = client("127.0.0.1:0");
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port.port));
    for n in 0..3_u8 {
        client.send_to(&[n; 100], to).unwrap();
    }
    assert_eq!(arrived(&mut world), None);
    announce(&mut world);
    for n in 0..3_u8 {
        assert_eq!(arrived(&mut world).expect("it waited").payload, [n; 100]);
    }
}

#[test]
fn a_closed_port_leads_to_the_other_family() {
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let port = publish(&mut world, "[::1]:0", BOTH);
    let client = client("[::1]:0");
    let to = SocketAddr::from((Ipv6Addr::LOCALHOST, port.port));
    client.send_to(b"one", to).unwrap();
    let first = arrived(&mut world).expect("a datagram");
    assert_eq!(first.to, (GUEST6, 80).into());
    refuse(&mut world, &first);
    let second = arrived(&mut world).expect("the same datagram");
    assert_eq!(second.payload, b"one");
    assert_eq!(second.to, (GUEST4, 80).into());
    assert_eq!(second.from, (GATEWAY4, port_of(&client)).into());
    answer(&mut world, &second, b"1");
    assert_eq!(receive(&client), Some((b"1".to_vec(), to)));
    assert_eq!(exchange(&mut world, &client, to).to, second.to);
    // The program ends: the next datagram begins anew.
    refuse(&mut world, &second);
    assert_eq!(world.slirp.flows(), (0, 0));
    client.send_to(b"three", to).unwrap();
    let third = arrived(&mut world).expect("a datagram");
    assert_eq!(third.to, (GUEST6, 80).into());
    refuse(&mut world, &third);
    let fourth = arrived(&mut world).expect("the same datagram");
    assert_eq!(fourth.to, (GUEST4, 80).into());
    refuse(&mut world, &fourth);
    assert_eq!(world.slirp.counters().dropped(DropReason::Refused), 2);
    assert_eq!(arrived(&mut world), None);
    world.assert_clean();
}

/// The guest's error does not quote all of a large datagram: it is lost, as
/// datagrams may be.
#[test]
fn a_large_datagram_is_not_sent_in_part() {
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let port = publish(&mut world, "[::1]:0", BOTH);
    let client = client("[::1]:0");
    let to = SocketAddr::from((Ipv6Addr::LOCALHOST, port.port));
    client.send_to(&[7; 1400], to).unwrap();
    let mut datagram = arrived(&mut world).expect("a datagram");
    datagram.payload.truncate(1200);
    refuse_in_part(&mut world, &datagram, 1400);
    assert_eq!(arrived(&mut world), None);
    assert_eq!(exchange(&mut world, &client, to).to, (GUEST4, 80).into());
}

#[test]
fn a_guest_without_ipv6_is_reached_by_the_next_datagram() {
    let mut world = World::raw(&Options::default());
    world.inject(&frame(
        (GUEST4, 9).into(),
        (GATEWAY4, 9).into(),
        b"I have an address",
    ));
    world.settle();
    let port = publish(&mut world, "[::1]:0", BOTH);
    let client = client("[::1]:0");
    let to = SocketAddr::from((Ipv6Addr::LOCALHOST, port.port));
    client.send_to(b"question", to).unwrap();
    assert_eq!(arrived(&mut world), None);
    world.advance(SECOND);
    let seen = exchange(&mut world, &client, to);
    assert_eq!(seen.to, (GUEST4, 80).into());
}

/// More clients than there are places: the longest idle go.
#[test]
fn clients_are_bounded() {
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let port = publish(&mut world, "127.0.0.1:0", V4);
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port.port));
    let first = client("127.0.0.1:0");
    exchange(&mut world, &first, to);
    let mut most = 0;
    for host in 2..=11 {
        for n in 0..900 {
            let at = SocketAddr::from((Ipv4Addr::new(127, 0, 1, host), 20_000 + n));
            let client = UdpSocket::bind(at).unwrap();
            client.send_to(b"x", to).unwrap();
            if n % 20 == 0 {
                world.now += Duration::from_micros(10);
                world.settle();
                while world.arrived().is_some() {}
                most = most.max(world.slirp.flows().1);
            }
        }
    }
    while arrived(&mut world).is_some() {}
    assert!((8000..=8192).contains(&most), "{most}");
    let newcomer = client("127.0.0.1:0");
    exchange(&mut world, &newcomer, to);
    world.advance(200 * SECOND);
    world.assert_clean();
}
